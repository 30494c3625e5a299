"""Where traces go right and wrong, read off made-up traces and trees."""

import pytest

from cord_jax.miniature.decomposition import Rounds, count_rounds, read_trace

QUESTION = "Step 1: Ann 34 + 5.\nStep 2: Ben A / 3.\nStep 3: Cleo 25% of 60.\nTell B, C."
ANN = "### Step 1. Ann 34 + 5 = 39, A 39.\n\n"
ANN_SLIPS = "### Step 1: Ann 34 + 5 = 29 so A 29.\n\n"
BEN = "### Step 2) Ben 39 / 3 = 13; B 13.\n\n"
CLEO = "### Step 3. Cleo 25% of 60 = 15, C 15.\n\n"


def trace(reasoning: str, correct: bool) -> dict:
    return {"question": QUESTION, "answer": "B 13 C 15", "reasoning": reasoning, "correct": correct}


@pytest.mark.parametrize(
    ("reasoning", "implied", "wrong_lines", "wrong_equations"),
    [
        (ANN + BEN + CLEO, True, 0, 0),
        (ANN_SLIPS + "### Step 2. Ben 29 / 3 = 13, B 13.\n\n" + CLEO, True, 0, 2),
        (ANN + "### Step 2. Ben 34 / 3 = 11, B 11.\n\n" + CLEO, False, 1, 1),
        (ANN + BEN.replace("B 13", "C 13") + CLEO, False, 1, 0),
        (ANN + BEN, False, 0, 0),
    ],
)
def test_traces(reasoning, implied, wrong_lines, wrong_equations):
    for correct in (True, False):
        found = read_trace(trace(reasoning, correct))
        assert (found.steps, found.written, found.implied) == (3, correct, implied)
        assert found.texts == found.equations == reasoning.count("### Step")
        assert (found.wrong_lines, found.wrong_equations) == (wrong_lines, wrong_equations)


def candidate(step: int, beam: int, text: str, rank: int | None, ended: str = "marker") -> dict:
    return {"step": step, "beam": beam, "text": text, "kept": rank is not None, "rank": rank, "ended": ended}


def test_rounds():
    first = [
        candidate(1, 0, ANN_SLIPS, 0),
        candidate(1, 0, ANN, 1),
        candidate(1, 0, "### Step 1. So", None, "cap"),
    ]
    on_the_wrong = candidate(2, 0, BEN, 0)  # right of itself, on a wrong text
    assert count_rounds(QUESTION, first) == Rounds(1, 1, 1, 0)
    assert count_rounds(QUESTION, [*first, on_the_wrong, candidate(2, 1, BEN, 1)]) == Rounds(2, 2, 2, 0)
    assert count_rounds(QUESTION, [*first, on_the_wrong, candidate(2, 1, BEN, None)]) == Rounds(2, 2, 1, 0)
    # A right text that was dropped is not counted again.
    rest = [candidate(3, 0, CLEO, 0, "think_end")]
    assert count_rounds(QUESTION, [*first, on_the_wrong, candidate(2, 1, BEN, None), *rest]) == Rounds(
        2, 2, 1, 0
    )


@pytest.mark.parametrize(("ended", "right"), [("think_end", 1), ("eos", 1), ("marker", 0), ("cap", 0)])
def test_the_last_step_also_ends_the_thought(ended, right):
    rows = [candidate(1, 0, ANN, 0), candidate(2, 0, BEN, 0), candidate(3, 0, CLEO, 0, ended)]
    assert count_rounds(QUESTION, rows) == Rounds(3, 2 + right, 2 + right, 2 + right)
    assert count_rounds(QUESTION, [candidate(1, 0, ANN, 0, ended)]).present == (0 if right else 1)
