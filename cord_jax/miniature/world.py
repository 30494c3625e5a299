"""Friends and boxes: chains of 6 to 12 arithmetic steps, a question whose every line has a key, an exact answer.

    Step 1: Ann 34 + 5.
    Step 2: Ben A / 3.
    Step 3: Cleo 25% of 60.
    Tell A, B, C.               -> 34 + 5 = 39, 39 / 3 = 13, 25% of 60 = 15: `A 39 B 13 C 15`

Each friend works out a number and puts it into the box with their initial. It begins with a number in the question or
with that in the box of the friend before. Asked for are the numbers in all boxes, so a reasoning that is right so far
settles the first parts of the answer however long the chain still is. That stands in for the sense of the answer that a
large meta-prover has of an unfinished argument, and which no network of half a million parameters has: it does not work
ahead.

Everything can be looked up: a friend by the number of the step, which stands in the question as it does in the
heading that CoRD forces, the operation by the friend, a number by its box, the next box by the one before. A small
network looks things up well and counts badly.

Every number in a box has two digits.
"""

import dataclasses
import functools
import hashlib
import random
import re
from collections.abc import Sequence

NAMES = tuple("Ann Ben Cleo Dan Eva Finn Gus Hal Ida Jon Kim Leo".split())
MIN_STEPS, MAX_STEPS = 6, 12
BOXES = tuple(name[0] for name in NAMES)
BUILDS_ON = 0.35  # how often a friend takes the number before, if it was not itself built on another
HARD = 0.7  # share of operations with something to carry
SPLITS = ("pretraining", "train", "held_out")

ADD, SUBTRACT, TIMES, DIVIDE, REMAINDER, PERCENT = "+", "-", "*", "/", "mod", "%"
SKILLS = {"sums": (ADD, SUBTRACT), "products": (TIMES, DIVIDE), "shares": (REMAINDER, PERCENT)}
KINDS = tuple(kind for kinds in SKILLS.values() for kind in kinds)

_OPERANDS = {
    ADD: range(2, 10),
    SUBTRACT: range(2, 10),
    TIMES: range(2, 10),
    DIVIDE: range(2, 10),
    REMAINDER: (11, 12, 15, 20, 25, 30),
    PERCENT: (20, 25, 40, 50, 60, 75, 80),
}

_LINE = re.compile(r"Step \d+: \w+ (?:(\d+)% of (\w+)|(\w+) ([-+*/]|mod) (\d+))\.")


@dataclasses.dataclass(frozen=True)
class Step:
    """How a friend comes to a number. `start` is what it begins with; None: what is in the box before."""

    kind: str
    operand: int
    start: int | None = None


@dataclasses.dataclass(frozen=True)
class Puzzle:
    """Steps of so many friends, in alphabetical order.

    `all_boxes`: whether all boxes are asked for, or only those that nobody takes a number from.
    """

    steps: tuple[Step, ...]
    all_boxes: bool = True

    @property
    def question(self) -> str:
        lines = []
        for i, step in enumerate(self.steps):
            begins = BOXES[i - 1] if step.start is None else step.start
            lines.append(f"Step {i + 1}: {NAMES[i]} {operation(step.kind, begins, step.operand)}.")
        asked = ", ".join(BOXES[i] for i in self.asked)
        return "\n".join([*lines, f"Tell {asked}."])

    @property
    def asked(self) -> tuple[int, ...]:
        """The steps whose numbers make the answer."""
        count = len(self.steps)
        return tuple(
            i for i in range(count) if self.all_boxes or i + 1 == count or self.steps[i + 1].start is not None
        )

    @property
    def values(self) -> tuple[int, ...]:
        """The right number of each step."""
        values, value = [], 0
        for step in self.steps:
            value = compute(step.kind, value if step.start is None else step.start, step.operand)
            values.append(value)
        return tuple(values)

    @property
    def answer(self) -> str:
        return stated(self, self.values)

    @property
    def split(self) -> str:
        """`held_out` for a tenth of all puzzles, `train` for another, `pretraining` for the rest.

        The split is a hash of the operations and numbers, so no seed can bring a puzzle of one split into another.
        """
        structure = repr([(step.start, step.kind, step.operand) for step in self.steps])
        tenth = hashlib.sha256(structure.encode()).digest()[0] * 10 // 256
        return {8: "train", 9: "held_out"}.get(tenth, "pretraining")


def compute(kind: str, value: int, operand: int) -> int:
    """`value` after the operation; divisions and percentages that do not come out even are rounded down."""
    match kind:
        case "+":
            return value + operand
        case "-":
            return value - operand
        case "*":
            return value * operand
        case "/":
            return value // operand
        case "mod":
            return value % operand
        case "%":
            return value * operand // 100
    raise ValueError(f"unknown kind of operation {kind!r}")


def slip(kind: str, value: int, operand: int) -> int:
    """The result of somebody who does not carry; equal to `compute` where there is nothing to carry.

    Sums lose the carried ten, differences forget the borrowed one, products drop what the ones hand on, divisions
    drop the remainder of the tens, remainders take the divisor off only once, and percentages give the other part.
    """
    tens, ones = divmod(value, 10)
    match kind:
        case "+":
            return value + operand - (10 if ones + operand % 10 >= 10 else 0)
        case "-":
            return value - operand + (10 if ones < operand % 10 else 0)
        case "*":
            return 10 * tens * operand + ones * operand % 10
        case "/":
            return 10 * (tens // operand) + ones // operand
        case "mod":
            return value - operand if value >= operand else value
        case "%":
            return value - value * operand // 100
    raise ValueError(f"unknown kind of operation {kind!r}")


def two_digits(value: int) -> bool:
    return 10 <= value <= 99


@functools.cache
def _choices() -> dict[tuple[str, bool], dict[int, list[int]]]:
    """(kind, hard) -> value -> operands that come out even and in two digits; hard: a slip gives something else."""
    table = {(kind, hard): {} for kind in KINDS for hard in (False, True)}
    for kind in KINDS:
        for value in range(10, 100):
            for operand in _OPERANDS[kind]:
                result, slipped = compute(kind, value, operand), slip(kind, value, operand)
                even = (
                    (kind != DIVIDE or value % operand == 0)
                    and (kind != PERCENT or value * operand % 100 == 0)
                    and (kind != REMAINDER or value >= operand)
                )
                if even and two_digits(result) and two_digits(slipped):
                    table[kind, slipped != result].setdefault(value, []).append(operand)
    return table


def read_puzzle(question: str) -> Puzzle:
    """The puzzle of a question, the inverse of `Puzzle.question`."""
    steps = []
    for line in question.splitlines()[:-1]:
        percent, of, begins, kind, operand = re.fullmatch(_LINE, line).groups()
        start = of or begins
        steps.append(
            Step(kind or PERCENT, int(operand or percent), int(start) if start.isdecimal() else None)
        )
    return Puzzle(tuple(steps), all_boxes=question.splitlines()[-1].count(",") == len(steps) - 1)


def draw_puzzle(rng: random.Random, steps: int) -> Puzzle:
    """A puzzle of that many steps; the three skills are equally likely."""
    drawn: list[Step] = []
    value, fresh = 0, False
    for _ in range(steps):
        fresh = not (fresh and rng.random() < BUILDS_ON)
        kind, operand, before = _draw_operation(rng, None if fresh else value)
        drawn.append(Step(kind, operand, before if fresh else None))
        value = compute(kind, before, operand)
    return Puzzle(tuple(drawn))


def _draw_operation(rng: random.Random, value: int | None) -> tuple[str, int, int]:
    """(kind, operand, number before); the number before is `value`, or drawn where that is None."""
    while True:
        kind = rng.choice(SKILLS[rng.choice(tuple(SKILLS))])
        operands = _choices()[kind, rng.random() < HARD]
        before = rng.choice(tuple(operands)) if value is None else value
        if before in operands:
            return kind, rng.choice(operands[before]), before


def draw_puzzles(seed: int, count: int, split: str) -> list[Puzzle]:
    """`count` puzzles of one split, all different; the same seed gives the same puzzles. Lengths are uniform."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; there are {', '.join(SPLITS)}")
    rng = random.Random(f"{split} {seed}")
    puzzles: dict[Puzzle, None] = {}
    while len(puzzles) < count:
        steps = rng.randint(MIN_STEPS, MAX_STEPS)
        while (puzzle := draw_puzzle(rng, steps)).split != split:
            pass
        puzzles[puzzle] = None
    return list(puzzles)


def stated(puzzle: Puzzle, values: Sequence[int]) -> str:
    """The answer that follows from the number of each step: boxes and numbers in turn."""
    return " ".join(f"{BOXES[i]} {values[i]}" for i in puzzle.asked)


def problem_row(identifier: str, puzzle: Puzzle) -> dict:
    """The puzzle as a row of a problem file, with `steps`, the number of steps, as an additional field."""
    before, lines = 0, []
    for i, (step, value) in enumerate(zip(puzzle.steps, puzzle.values)):
        before = before if step.start is None else step.start
        lines.append(f"{NAMES[i]}: {equation(step.kind, before, step.operand, value)}.")
        before = value
    return {
        "id": identifier,
        "question": puzzle.question,
        "answer": puzzle.answer,
        "solution": "\n".join(lines),
        "steps": len(puzzle.steps),
    }


def operation(kind: str, value: int | str, operand: int) -> str:
    """The operation on a number or a box, for instance `34 + 5`."""
    return f"{operand}% of {value}" if kind == PERCENT else f"{value} {kind} {operand}"


def equation(kind: str, value: int, operand: int, result: int) -> str:
    """The operation as it is written in solutions, for instance `34 + 5 = 39`."""
    return f"{operation(kind, value, operand)} = {result}"
