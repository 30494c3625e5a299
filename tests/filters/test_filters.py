"""Which candidates a list of filters drops, how filters are named, and `repetition`."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cord_jax.errors import UserError
from cord_jax.filters import FILTERS, drop_reasons, parse_filters
from cord_jax.filters.repetition import repeats_an_earlier_step
from tests.search import own_filters


def test_filters_are_named_in_their_order():
    assert parse_filters("") == parse_filters(" ") == {}
    assert list(parse_filters("repetition, arithmetic").items()) == [
        ("repetition", FILTERS["repetition"]),
        ("arithmetic", FILTERS["arithmetic"]),
    ]


def test_a_filter_of_ones_own_is_a_function_of_a_module():
    name = "tests.search.own_filters:has_odd_length"
    assert parse_filters(f"arithmetic,{name}")[name] is own_filters.has_odd_length


@pytest.mark.parametrize(
    "names, parts",
    [
        ("arithmetics", ['"arithmetics"', "arithmetic, repetition"]),
        ("arithmetic,,repetition", ['""', "arithmetic, repetition"]),
        ("arithmetic,arithmetic", ['"arithmetic"', "twice"]),
        ("tests.search.own_filters:none", ["tests.search.own_filters:none", "AttributeError"]),
        ("no_such_module:filter", ["no_such_module:filter", "ModuleNotFoundError"]),
        ("json:__doc__", ["json:__doc__", "function"]),
        (":x", ["cannot be imported"]),
    ],
)
def test_names_that_are_no_filters_are_refused_in_one_line(names, parts):
    with pytest.raises(UserError) as caught:
        parse_filters(names)
    message = str(caught.value)
    assert f"--filters={names}" in message and "\n" not in message and all(part in message for part in parts)


def begins(letter):
    return lambda step, earlier: step.startswith(letter)


def reasons(filters, *steps):
    return drop_reasons(filters, [(step, ()) for step in steps])


def test_what_a_filter_drops_has_its_name():
    assert reasons({"no a": begins("a"), "no b": begins("b")}, "a", "b", "c") == ["no a", "no b", None]
    assert reasons({"no a": begins("a"), "short": lambda step, _: len(step) < 3}, "a", "bb", "ccc") == [
        "no a",
        "short",
        None,
    ]
    assert reasons({}, "a") == [None] and reasons({"no a": begins("a")}) == []


def test_a_filter_that_would_drop_all_that_are_left_drops_none():
    assert reasons({"no a": begins("a")}, "a", "ab") == [None, None]
    assert reasons({"no a": begins("a"), "no b": begins("b")}, "a", "b") == ["no a", None]
    assert reasons({"all": begins(""), "no a": begins("a")}, "a", "b") == ["no a", None]


@given(
    st.lists(st.text("ab", max_size=3), max_size=6), st.lists(st.sampled_from("ab"), max_size=3, unique=True)
)
def test_something_is_always_left(steps, letters):
    found = reasons({letter: begins(letter) for letter in letters}, *steps)
    assert len(found) == len(steps) and (None in found or not steps)
    assert all(reason is None or step.startswith(reason) for step, reason in zip(steps, found))


@pytest.mark.parametrize(
    "step, earlier, repeats",
    [
        (". Add 3.\n\n", [". Add 3.\n\n"], True),
        (" Add 3.\n\n", ["So 4.\n\n", "\n\tAdd 3.\n\n"], True),
        (". Add 3.\n\n", [": Add 3.\n\n"], False),
        ("Add  3.", ["Add 3."], False),
        ("Add 3.", ["Add 3. So 4."], False),
        ("Add 3.", [], False),
        ("", ["Add 3."], False),
        ("", ["\n"], True),
    ],
)
def test_a_repetition_is_the_same_but_for_white_space_around_it(step, earlier, repeats):
    assert repeats_an_earlier_step(step, earlier) == repeats
