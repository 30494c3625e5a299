"""The puzzles, against Python's own arithmetic on the text of the question."""

import dataclasses
import re

import pytest

from cord_jax.miniature import world
from cord_jax.miniature.recipe import as_lines
from cord_jax.problems import read_problems

OPERATIONS = (
    (r"(\w+) \+ (\d+)", lambda v, n: v + n),
    (r"(\w+) - (\d+)", lambda v, n: v - n),
    (r"(\w+) \* (\d+)", lambda v, n: v * n),
    (r"(\w+) / (\d+)", lambda v, n: v / n),
    (r"(\w+) mod (\d+)", lambda v, n: v % n),
    (r"(?P<n>\d+)% of (?P<v>\w+)", lambda v, n: v * n / 100),
)


def solve(question: str) -> str:
    """The answer, read from the question's text alone."""
    boxes = {}
    *lines, last = question.splitlines()
    for i, line in enumerate(lines, start=1):
        name, operation = re.fullmatch(rf"Step {i}: (\w+) (.+)\.", line).groups()
        results = []
        for pattern, compute in OPERATIONS:
            if found := re.fullmatch(pattern, operation):
                named = found.groupdict()
                base, operand = (named["v"], named["n"]) if named else found.groups()
                results.append(compute(int(boxes.get(base, base)), int(operand)))
        (result,) = results
        assert result == int(result) and 10 <= result <= 99
        boxes[name[0]] = int(result)
    asked = re.fullmatch(r"Tell (.+)\.", last)[1].split(", ")
    return " ".join(f"{box} {boxes[box]}" for box in asked)


@pytest.mark.parametrize("split", world.SPLITS)
def test_answers(split):
    puzzles = world.draw_puzzles(3, 400, split)
    assert {puzzle.split for puzzle in puzzles} == {split}
    assert {len(puzzle.steps) for puzzle in puzzles} == set(range(world.MIN_STEPS, world.MAX_STEPS + 1))
    for puzzle in puzzles:
        assert puzzle.answer == solve(puzzle.question)
        assert world.read_puzzle(puzzle.question) == puzzle


def test_splits_share_no_numbers():
    def numbers(split, seed):
        return {
            tuple(re.findall(r"\d+|[*/+%-]|mod", " ".join(f"{s.start}{s.kind}{s.operand}" for s in p.steps)))
            for p in world.draw_puzzles(seed, 2000, split)
        }

    seen = [numbers(split, 0) | numbers(split, 1) for split in world.SPLITS]
    assert not seen[0] & seen[1] and not seen[0] & seen[2] and not seen[1] & seen[2]


def test_same_seed_same_puzzles():
    assert world.draw_puzzles(5, 50, "train") == world.draw_puzzles(5, 50, "train")
    assert world.draw_puzzles(5, 50, "train") != world.draw_puzzles(6, 50, "train")
    with pytest.raises(ValueError, match="unknown split 'test'"):
        world.draw_puzzles(0, 1, "test")


def test_unknown_operation():
    for function in (world.compute, world.slip):
        with pytest.raises(ValueError, match="unknown kind"):
            function("^", 10, 2)


@pytest.mark.parametrize(
    ("kind", "value", "operand", "right", "slipped"),
    [
        ("+", 27, 5, 32, 22),
        ("+", 21, 5, 26, 26),
        ("-", 42, 7, 35, 45),
        ("*", 27, 3, 81, 61),
        ("/", 72, 4, 18, 10),
        ("mod", 71, 25, 21, 46),
        ("%", 60, 25, 15, 45),
        ("%", 60, 50, 30, 30),
    ],
)
def test_slips_by_hand(kind, value, operand, right, slipped):
    assert world.compute(kind, value, operand) == right
    assert world.slip(kind, value, operand) == slipped


def test_skills_and_hardness_are_balanced():
    counts, hard = dict.fromkeys(world.SKILLS, 0), 0
    puzzles = world.draw_puzzles(0, 1500, "pretraining")
    for puzzle in puzzles:
        before = 0
        for step, value in zip(puzzle.steps, puzzle.values):
            before = before if step.start is None else step.start
            counts[next(skill for skill, kinds in world.SKILLS.items() if step.kind in kinds)] += 1
            hard += world.slip(step.kind, before, step.operand) != value
            before = value
    steps = sum(len(puzzle.steps) for puzzle in puzzles)
    assert all(0.25 < count / steps < 0.45 for count in counts.values()), counts
    assert 0.6 < hard / steps < 0.8


def test_a_quarter_of_the_friends_take_a_number_that_others_made():
    puzzles = world.draw_puzzles(0, 500, "pretraining")
    taken = sum(step.start is None for puzzle in puzzles for step in puzzle.steps)
    assert 0.2 < taken / sum(len(puzzle.steps) for puzzle in puzzles) < 0.3


def test_some_or_all_boxes_are_asked_for():
    for puzzle in world.draw_puzzles(0, 50, "pretraining"):
        some = dataclasses.replace(puzzle, all_boxes=False)
        taken = {i - 1 for i, step in enumerate(puzzle.steps) if step.start is None}
        assert puzzle.asked == tuple(range(len(puzzle.steps)))
        assert set(some.asked) == set(puzzle.asked) - taken
        assert world.read_puzzle(some.question).asked == some.asked
        assert some.answer == solve(some.question)


def test_rows_are_problems(tmp_path):
    puzzles = world.draw_puzzles(1, 20, "train")
    path = tmp_path / "problems.jsonl"
    path.write_text(as_lines(world.problem_row(f"p{i}", puzzle) for i, puzzle in enumerate(puzzles)))
    problems = read_problems(path)
    assert [p.answer for p in problems] == [solve(p.question) for p in problems]
    assert [p.extra["steps"] for p in problems] == [len(p.steps) for p in puzzles]
    assert all(len(p.solution.splitlines()) == p.extra["steps"] for p in problems)
