"""Which answers agree, by the pairs of `pairs.py`, by properties, and on real problem sets."""

from decimal import Decimal, localcontext
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cord_jax.grading import open_grader
from cord_jax.grading.agreement import same
from cord_jax.grading.cleaning import clean
from cord_jax.problems import read_problems

from .pairs import AGREE, DISAGREE, pairs


@pytest.fixture(scope="module")
def grader():
    with open_grader("auto", workers=2) as grader:
        yield grader


@pytest.mark.parametrize("predicted, gold", pairs(AGREE))
def test_agree(grader, predicted, gold):
    assert grader.grade([(predicted, (gold,))]) == [True]


@pytest.mark.parametrize("predicted, gold", pairs(DISAGREE))
def test_disagree(grader, predicted, gold):
    assert grader.grade([(predicted, (gold,))]) == [False]


def no_mathematics(predicted, gold, places):
    """For answers that are to be decided without any."""
    raise AssertionError(f"{predicted} and {gold} went to mathematics")


DRESSES = (
    "{}",
    "{}.",
    "**{}**",
    "${}$",
    "\\({}\\)",
    "$${}$$",
    "x = {}",
    "\\boxed{{{}}}",
    "\\mathbf{{{}}}",
    "\\text{{{}}}",
    "{} apples",
    "{}\\text{{ cm}}",
    "\\${}",
    "{}\\%",
    "approximately {}",
    "The total is {}",
)
NUMBERS = st.integers(-(10**40), 10**40) | st.integers(-50, 50)


def written(value: int) -> st.SearchStrategy[str]:
    """Ways to write a whole number."""
    return st.sampled_from(
        [
            str(value),
            f"{value:,}",
            f"{value:,}".replace(",", "\\,"),
            f"{value:,}".replace(",", "{,}"),
            f"{value}.0",
        ]
    )


@given(st.data())
def test_numbers_in_any_dress(data):
    value = data.draw(NUMBERS)
    answer = data.draw(st.sampled_from(DRESSES)).format(data.draw(written(value)))
    assert same(answer, str(value), no_mathematics)
    assert same(str(value), answer, no_mathematics)
    other = value + data.draw(st.sampled_from([-1, 1, 10**9]))
    if "%" not in answer or other * 100 != value:
        assert not same(answer, str(other), no_mathematics)


@given(st.integers(-(10**12), 10**12), st.integers(0, 12), st.integers(-12, 12))
def test_decimals_are_exact(digits, places, exponent):
    value = Fraction(digits, 10**places) * Fraction(10) ** exponent
    plain = f"{Decimal(digits).scaleb(-places).scaleb(exponent):f}"
    for form in (
        f"{Decimal(digits).scaleb(-places):f}e{exponent}",
        f"{digits} \\times 10^{{{exponent - places}}}",
    ):
        assert same(form, plain, no_mathematics)
    assert same(f"\\frac{{{value.numerator}}}{{{value.denominator}}}", plain, no_mathematics)
    with localcontext(prec=200):
        next_to_it = f"{Decimal(digits).scaleb(-places).scaleb(exponent) + Decimal('1e-40'):f}"
    assert not same(next_to_it, plain, no_mathematics)


@given(st.text("abcdefghijklmnopqrstuvwxyz", min_size=4, max_size=9), st.randoms())
def test_no_word_is_another_of_the_same_letters(word, random):
    letters = list(word)
    random.shuffle(letters)
    other = "".join(letters)
    assert same(word.upper() + ".", word, no_mathematics)
    assert same(f"**{word}**", f"\\text{{{word}}}", no_mathematics)
    if clean(other) != clean(word):
        assert not same(other, word, no_mathematics)


@given(st.text(max_size=60), st.text(max_size=60))
def test_any_two_texts_can_be_compared(predicted, gold):
    same(predicted, gold, lambda *formulas: False)
    assert same(predicted, predicted, no_mathematics)


MARKS = "12x+-*/^_=<>(){}[],;:.|$%\\ \n&'\"~!ab"
WRITTEN = st.lists(
    st.sampled_from(
        [
            *MARKS,
            "\\frac",
            "\\text{",
            "\\left",
            "\\right",
            "\\pm",
            "\\begin{pmatrix}",
            "\\end{pmatrix}",
            "**",
            " or ",
        ]
    ),
    max_size=30,
).map("".join)


@given(WRITTEN, WRITTEN)
def test_any_two_formulas_can_be_compared(predicted, gold):
    same(predicted, gold, lambda *formulas: False)


FILES = ("gsm8k_test.jsonl", "math500.jsonl", "aime2024.jsonl", "tatqa.jsonl.gz", "pubmedqa.jsonl")


@pytest.mark.parametrize("name", FILES)
def test_real_answers(grader, shared_dir, name):
    """Each agrees with itself in the dress of a response, and with no other problem's answer."""
    problems = read_problems(shared_dir / "data" / name)
    for dress in ("{}", " ${}$.", "\\boxed{{{}}}", "**{}**"):
        assert all(grader.grade([(dress.format(problem.answer), problem.forms) for problem in problems]))
    others = [
        (a.answer, b.forms)
        for a, b in zip(problems, problems[1:])
        if a.answer.casefold() != b.answer.casefold()
    ]
    assert not any(grader.grade(others))
