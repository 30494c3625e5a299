"""Steps in text, against the design's own examples and against the independent reading in
`tests.reference`."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cord_jax.text.segmentation import (
    PREFIX_WORDS,
    SEGMENTATIONS,
    Proposal,
    find_boundary,
    heading,
    read_proposal,
)
from tests.reference import text as reference

# What proposals are made of here: markers, their pieces, what comes near to one, and characters of every
# length.
PIECES = (
    *(
        "\n",
        "\n\n",
        " ",
        "  ",
        "\t",
        "\r\n",
        "#",
        "##",
        "###",
        "####",
        "\n###",
        "### Step",
        "\n### Step",
        " Step",
        "Steps",
        "### Steps",
        "### Step 2",
        "<",
        "</",
        "</think>",
        "think>",
        "</THINK>",
        "<think>",
        "</",
        "thin",
        "k>",
        ".",
        "!",
        "?",
        ". ",
        "! ",
        "? ",
        ".  ",
        "'",
        "\u2019",
        "-",
        "_",
        "1",
        "s",
        "S",
        "a",
        "\u00e9",
        "\u0301",
        "\u212a",
        "\u017f",
        "\u0131",
        "\u4e2d",
        "\u2082",
        "\U0001d465",
        "\U0001f600",
        "\u00a0",
        "\u2003",
        "\u2028",
        "\u0085",
        "\x1c",
        "<|im_end|>",
    ),
    *PREFIX_WORDS,
    *(word.upper() for word in PREFIX_WORDS),
    *(word.title() for word in PREFIX_WORDS),
    *("\n" + word.replace("'", "\u2019") for word in PREFIX_WORDS),
    *(". " + word.capitalize() for word in PREFIX_WORDS),
)
BAD_BYTES = (
    b"\xe2",
    b"\xe2\x80",
    b"\x80",
    b"\xff",
    b"\xc0\x80",
    b"\xed\xa0\x80",
    b"\xf0\x9f",
    b"\xf0\x9f\x98",
    b"\xf4\x90",
    b"\x99",
    b"\xc3",
    b"\xa9",
    b"\xe0\x80",
    b"\xf5",
)
BODIES = st.lists(
    st.one_of(
        st.sampled_from([piece.encode() for piece in PIECES]),
        st.sampled_from(BAD_BYTES),
        st.binary(max_size=2),
        st.text(max_size=2).map(str.encode),
    ),
    max_size=12,
).map(b"".join)


def read(body, segmentation="prompt", step=3, stopped="limit", limit_is_budget=False, has_prefix=True):
    body = body.encode() if isinstance(body, str) else body
    return read_proposal(segmentation, step, body, stopped, limit_is_budget, has_prefix)


@pytest.mark.parametrize(
    "body, text, ended",
    [
        (". Add 3.\n\n### Step 4. Next", "### Step 3. Add 3.\n\n", "marker"),
        (" a\n### Step", "### Step 3 a\n\n", "marker"),  # undecided at the end counts
        (" a\n### Step\u00e9", "### Step 3 a\n\n", "marker"),  # no ASCII letter
        (" a\n### Step9", "### Step 3 a\n\n", "marker"),
        (" a\n### Steps b", "### Step 3 a\n### Steps b\n\n", "cap"),
        (" a\n#### Step 4", "### Step 3 a\n#### Step 4\n\n", "cap"),
        (" a ### Step 4", "### Step 3 a ### Step 4\n\n", "cap"),
        ("### Step 4", "### Step 3### Step 4\n\n", "cap"),  # the end of the heading is no line start
        (" a\n### Steps\n### Step 4", "### Step 3 a\n### Steps\n\n", "marker"),
        (" a</think>\n\nb\n### Step 4", "### Step 3 a\n\n", "think_end"),
        (" a\n### Step 4</think>", "### Step 3 a\n\n", "marker"),  # the earliest wins
        (" a\r\n### Step 4", "### Step 3 a\n\n", "marker"),
        (" a \t\n\u00a0\n### Step 4", "### Step 3 a\n\n", "marker"),
        (" a<|im_end|> b", "### Step 3 a<|im_end|> b\n\n", "cap"),
        (" e\u0301", "### Step 3 \u00e9\n\n", "cap"),
    ],
)
def test_prompt(body, text, ended):
    assert read(body) == Proposal(text, ended, ended == "think_end", None)


@pytest.mark.parametrize(
    "body, text, ended",
    [
        ("a b \n\nc", "a b\n\n", "marker"),
        ("a\n \nc", "a\n \nc\n\n", "cap"),
        ("\na\n\nb", "\na\n\n", "marker"),
        ("a</think>\n\n", "a\n\n", "think_end"),
        (" a\n### Step 4", " a\n### Step 4\n\n", "cap"),
    ],
)
def test_line_break(body, text, ended):
    assert read(body, "line_break") == Proposal(text, ended, ended == "think_end", None)


@pytest.mark.parametrize(
    "body, text, ended",
    [
        ("So 4. Wait, no", "So 4.", "marker"),
        ("So 4.\n\nwait, no", "So 4.\n\n", "marker"),
        (
            "So 4. \t\nWAIT",
            "So 4. \t\n",
            "marker",
        ),  # at the end of the proposal, the end of the text ends the word
        ("So 4! Let\u2019s try a different approach.", "So 4!", "marker"),
        ("So 4? That's impossible.", "So 4?", "marker"),
        ("So 4.  Wait, no", "So 4.  Wait, no", "cap"),  # two spaces
        ("So 4, wait, no", "So 4, wait, no", "cap"),
        ("So 4. Waiting", "So 4. Waiting", "cap"),
        ("So 4. Wait\u00e9", "So 4. Wait\u00e9", "cap"),
        ("So 4. Wait\u0301, no", "So 4.", "marker"),  # a combining mark is no letter
        ("So 4. Wait\u2082", "So 4. Wait\u2082", "cap"),
        ("So 4. Wait_", "So 4. Wait_", "cap"),
        (
            "So 4. Let me chec\u212a",
            "So 4. Let me checK",
            "cap",
        ),  # the Kelvin sign is no k until it is normalised
        ("Wait, no. Wait, yes", "Wait, no.", "marker"),  # the first has nothing before it
        (" \n wait\nwait, yes", " \n wait\n", "marker"),
        ("\nWait, no\n", "\nWait, no\n", "eos"),
        ("a. Wait</think>", "a.", "marker"),
        ("a</think>. Wait", "a", "think_end"),
        ("a.\n\n### Step 2", "a.\n\n### Step 2", "cap"),
        ("a \t", "a", "cap"),
    ],
)
def test_prefix(body, text, ended):
    stopped = "eos" if ended == "eos" else "limit"
    assert read(body, "prefix", stopped=stopped) == Proposal(text, ended, ended in ("think_end", "eos"), None)


def test_every_prefix_word_of_the_paper():
    for word in PREFIX_WORDS:
        for before in ("x\n", "x. "):
            for spelled in (word, word.upper(), word.capitalize(), word.replace("'", "\u2019")):
                assert find_boundary("prefix", f"{before}{spelled} then".encode()) == (len(before), "marker")
                assert find_boundary("prefix", f"{before}{spelled}s".encode()) is None
                assert find_boundary("prefix", f"x {spelled} then".encode()) is None


def test_whole_traces_end_at_the_end_of_thinking_only():
    proposal = read(". a\n\n### Step 2\n\nWait. b</think> c", "whole", step=1)
    assert proposal == Proposal("### Step 1. a\n\n### Step 2\n\nWait. b\n\n", "think_end", True, None)


@pytest.mark.parametrize(
    "segmentation, body",
    [("prompt", ""), ("prompt", " \n\t"), ("line_break", "\n"), ("prefix", " \t "), ("whole", " ")],
)
def test_empty_bodies(segmentation, body):
    for ending, ended in (("</think>", "think_end"), ("", "eos")):
        stopped = "boundary" if ending else "eos"
        nothing_to_add = read(body + ending, segmentation, stopped=stopped)
        assert nothing_to_add == Proposal("", ended, True, None)
        first_step = read(body + ending, segmentation, stopped=stopped, has_prefix=False)
        assert first_step == Proposal("", ended, False, "empty")
    assert read(body, segmentation) == Proposal("", "cap", False, "empty")
    assert read(body, segmentation, limit_is_budget=True) == Proposal("", "budget", False, "empty")


def test_newlines_are_text_between_prefix_words():
    assert read(" \n \n ", "prefix", stopped="eos") == Proposal(" \n \n", "eos", True, None)


def test_a_line_break_proposal_that_opens_with_one_is_empty():
    assert read("\n\na", "line_break") == Proposal("", "marker", False, "empty")


def test_limits():
    assert read(" a", limit_is_budget=True) == Proposal("### Step 3 a\n\n", "budget", True, None)
    assert (
        read(" a\n### Step", limit_is_budget=True).ended == "marker"
    )  # completed by the last token: over the limit
    assert read(" a\n### Step", stopped="eos").ended == "marker"
    with pytest.raises(ValueError, match="no boundary"):
        read(" a", stopped="boundary")


def test_invalid_utf8_counts_only_before_the_cut():
    assert read(b" a\xe2\x82") == Proposal("", "cap", False, "invalid_utf8")
    assert read(b" a</think>\xe2\x82").text == "### Step 3 a\n\n"
    assert read(b" a\xe2</think>") == Proposal("", "think_end", False, "invalid_utf8")
    assert read(b" a\n### Step\xe2") == Proposal("### Step 3 a\n\n", "marker", False, None)


def test_unknown_segmentation():
    with pytest.raises(ValueError, match="prompt, line_break"):
        find_boundary("paragraph", b"")


@pytest.mark.parametrize("segmentation", SEGMENTATIONS)
@settings(max_examples=400, deadline=None)
@given(body=BODIES, has_prefix=st.booleans(), stopped=st.sampled_from(["eos", "cap", "budget"]))
def test_agrees_with_the_independent_reading(segmentation, body, has_prefix, stopped):
    expected = reference.read_proposal(segmentation, 12, body, stopped, has_prefix)
    got = read_proposal(
        segmentation, 12, body, "eos" if stopped == "eos" else "limit", stopped == "budget", has_prefix
    )
    assert (got.text, got.ended, got.dropped) == (expected.text, expected.ended, expected.dropped)
    assert got.complete == (got.dropped is None and got.ended in ("think_end", "eos", "budget"))


@pytest.mark.parametrize("segmentation", SEGMENTATIONS)
@settings(max_examples=200, deadline=None)
@given(body=BODIES)
def test_canonical_steps(segmentation, body):
    """A canonical step is NFC, holds no boundary but where it may end in one, and is its own canonical
    form."""
    body = body.replace(
        "\u212a".encode(), b""
    )  # the Kelvin sign, which NFC makes a K, may complete a prefix word
    proposal = read_proposal(segmentation, 7, body, "limit", False, True)
    if not proposal.text:
        return
    assert unicodedata.is_normalized("NFC", proposal.text)
    start = heading(segmentation, 7)
    assert proposal.text.startswith(start)
    rest = proposal.text[len(start) :].encode()
    assert b"</think>" not in rest
    if segmentation == "prefix":
        assert find_boundary(segmentation, rest) is None
    else:
        assert proposal.text.endswith("\n\n") and not proposal.text[:-2].endswith(("\n", " "))
        assert find_boundary(segmentation, rest[:-2]) is None
    assert read_proposal(segmentation, 7, rest, "limit", False, True).text == proposal.text
