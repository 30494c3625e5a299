"""Written solutions, their slips, and the check of equations."""

import random

import pytest

from cord_jax.miniature import world
from cord_jax.miniature.wording import (
    WORDINGS,
    Written,
    equations,
    follows,
    implied_answer,
    read_step,
    read_steps,
    write_solution,
    wrong_equations,
)

PUZZLES = world.draw_puzzles(2, 200, "pretraining")


@pytest.mark.parametrize(
    ("text", "count", "wrong"),
    [
        ("27 + 5 = 32. 27+5=32", 2, 0),
        ("27 + 5 = 22", 1, 1),
        ("42 - 7 = 35, 42-7=45", 2, 1),
        ("27 * 3 = 81 and 27*3=61", 2, 1),
        ("72 / 4 = 18; 38 / 3 = 12", 2, 1),
        ("71 mod 25 = 21, 71 mod 25 = 46, 7 mod 0 = 7", 3, 2),
        ("25% of 60 = 15, 25% of 61=15", 2, 1),
        ("Step 3 has 14, no equation; 3 = 3", 0, 0),
    ],
)
def test_wrong_equations_by_hand(text, count, wrong):
    assert (equations(text), wrong_equations(text)) == (count, wrong)


@pytest.mark.parametrize("name", WORDINGS)
def test_right_solutions(name):
    rng = random.Random(0)
    for puzzle in PUZZLES:
        solution = write_solution(puzzle, WORDINGS[name], {}, rng)
        assert equations(solution.reasoning) == len(puzzle.steps)
        assert wrong_equations(solution.reasoning) == 0
        assert all(solution.right) and f"\\boxed{{{puzzle.answer}}}" in solution.response
        steps = read_steps(solution.reasoning)
        assert [step.result for step in steps] == list(puzzle.values)
        assert all(follows(puzzle, steps[:i], step) for i, step in enumerate(steps))
        assert implied_answer(puzzle, steps) == puzzle.answer


def test_slips_are_wrong_equations_and_carried_on():
    rng = random.Random(0)
    rates = {kind: 0.7 for kind in world.SKILLS["sums"]}
    slipped = 0
    for puzzle in PUZZLES:
        solution = write_solution(puzzle, WORDINGS["products"], rates, rng)
        first = solution.right.index(False) if not all(solution.right) else None
        if first is not None:
            slipped += 1
            assert puzzle.steps[first].kind in world.SKILLS["sums"]
            assert wrong_equations("".join(solution.steps[:first])) == 0
            assert wrong_equations(solution.steps[first]) == 1
        assert all(world.two_digits(value) for value in solution.values)
    assert slipped > 50


def test_any_numbers_are_carried_on():
    rng = random.Random(0)
    for puzzle in PUZZLES:
        wild = [1.0] * len(puzzle.steps)
        solution = write_solution(puzzle, WORDINGS["sums"], {}, rng, wild)
        steps = read_steps(solution.reasoning)
        assert all(follows(puzzle, steps[:i], step) for i, step in enumerate(steps))
        assert implied_answer(puzzle, steps) == world.stated(puzzle, solution.values)


QUESTION = "Step 1: Ann 34 + 5.\nStep 2: Ben A / 3.\nTell B."
ANN = "### Step 1. Ann 34 + 5 = 39, A 39.\n\n"


@pytest.mark.parametrize(
    ("reasoning", "on_the_line", "implied"),
    [
        (ANN + "### Step 2: Ben 39 / 3 = 13 so B 13.\n\n", [True, True], "B 13"),
        ("### Step 1. Ann 34 + 5 = 29, A 29.\n\n### Step 2) Ben 29 / 3 = 9; B 9.\n\n", [True, True], "B 9"),
        (ANN + "### Step 2. Ben 34 / 3 = 13, B 13.\n\n", [True, False], "B 13"),
        (ANN + "### Step 2. Ben 39 / 3 = 13, B 31.\n\n", [True, False], "B 31"),
        (ANN + "### Step 2. Cleo 39 / 3 = 13, B 13.\n\n", [True, False], "B 13"),
        (ANN + "### Step 2. Ben 39 / 3 = 13, C 13.\n\n", [True, False], None),
        (ANN + "### Step 3. Ben 39 / 3 = 13, B 13.\n\n", [True, False], None),
        ("### Step 1. Thirty-nine.\n\n### Step 2. Ben 39 / 3 = 13, B 13.\n\n", [False, False], "B 13"),
        (ANN, [True], None),
    ],
)
def test_reading_by_hand(reasoning, on_the_line, implied):
    puzzle, steps = world.read_puzzle(QUESTION), read_steps(reasoning)
    assert [follows(puzzle, steps[:i], step) for i, step in enumerate(steps)] == on_the_line
    assert implied_answer(puzzle, steps) == implied


def test_a_read_step():
    assert read_step("### Step 3: Cleo 25% of 60 = 15 so C 15.\n\n", 3) == Written(
        "Cleo", "25% of 60", 15, "C", 15
    )
    assert read_step("### Step 3: Cleo 25% of 60 = 15 so C 15.", 3) is None
    assert read_step("", 3) is None
