"""Where a method's traces go right and wrong: what was proposed, what was kept, what the text implies.

A step is right if it works the line of the question that it should and arrives at the puzzle's number. A text is
right if all its steps are; the last step of a right text also ends the thought.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cord_jax.endings import CONCLUDING
from cord_jax.miniature import world
from cord_jax.miniature.wording import (
    Written,
    equations,
    follows,
    implied_answer,
    read_step,
    read_steps,
    wrong_equations,
)


@dataclasses.dataclass(frozen=True)
class Rounds:
    """Rounds of the search that began with a right, open text in the beam.

    Attributes:
        rounds: their number.
        present: in how many a right next step was among the candidates.
        kept: in how many of those one was kept.
        first: in how many of those one was ranked first.
    """

    rounds: int = 0
    present: int = 0
    kept: int = 0
    first: int = 0

    def __add__(self, other: "Rounds") -> "Rounds":
        return Rounds(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other))))


@dataclasses.dataclass(frozen=True)
class Trace:
    """What became of one puzzle.

    Attributes:
        steps: that the puzzle takes.
        written: whether the response states the right answer.
        implied: whether the numbers in the text, found by the friends' names, are the right answer.
        texts: steps of the text.
        wrong_lines: steps that work another line than they should, or give the number to somebody else.
        equations, wrong_equations: of the text.
    """

    steps: int
    written: bool
    implied: bool
    texts: int
    wrong_lines: int
    equations: int
    wrong_equations: int


def read_trace(row: Mapping[str, Any]) -> Trace:
    """A row of `traces.jsonl`."""
    puzzle, steps = world.read_puzzle(row["question"]), read_steps(row["reasoning"])
    return Trace(
        steps=len(puzzle.steps),
        written=row["correct"],
        implied=implied_answer(puzzle, steps) == row["answer"],
        texts=len(steps),
        wrong_lines=sum(not follows(puzzle, steps[:i], step) for i, step in enumerate(steps)),
        equations=equations(row["reasoning"]),
        wrong_equations=wrong_equations(row["reasoning"]),
    )


def count_rounds(question: str, candidates: Iterable[Mapping[str, Any]]) -> Rounds:
    """The rounds of one puzzle, from its rows of `tree.jsonl` by the method `cord`."""
    puzzle = world.read_puzzle(question)
    values, total = puzzle.values, Rounds()
    right, by_round = {0}, {}  # the beams that hold a right, open text
    for row in candidates:
        by_round.setdefault(row["step"], []).append(row)
    for number, rows in sorted(by_round.items()):
        if not right or number > len(values):
            break
        good = [row for row in rows if row["beam"] in right and _is_right(puzzle, values, number, row)]
        kept = [row for row in good if row["kept"]]
        total += Rounds(1, bool(good), bool(kept), any(row["rank"] == 0 for row in kept))
        right = {row["rank"] for row in kept}
    return total


def _is_right(puzzle: world.Puzzle, values: Sequence[int], number: int, row: Mapping[str, Any]) -> bool:
    """Whether a candidate for step `number`, on a right text, is right; the last must also conclude."""
    line, i = puzzle.steps[number - 1], number - 1
    if (row["ended"] in CONCLUDING) != (number == len(values)):
        return False
    operation = world.operation(line.kind, values[i - 1] if line.start is None else line.start, line.operand)
    right = Written(world.NAMES[i], operation, values[i], world.BOXES[i], values[i])
    return read_step(row["text"], number) == right
