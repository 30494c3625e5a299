"""Lock puzzles: chains of 2 to 12 arithmetic steps with an exact integer answer.

Friends start from a two-digit number and change it a few times; the two-digit numbers they end with, written in a
row, are the code of a lock:

    1. Ann has 34, gets 5.
    2. Ann splits by 3.
    3. Ben has 60, keeps 25%.
    Their last numbers in a row open the lock.        -> 34 + 5 = 39, 39 / 3 = 13, 25% of 60 = 15: 1315

Inside one friend's part a step needs the result of the step before. Across parts nothing is shared, so a reasoning
that is right so far settles the first digits of the answer however long the chain still is. That stands in for the
sense of the answer that a large meta-prover has of an unfinished argument, and which no network of a million
parameters could get by working ten operations ahead.

Every number that a friend has on the way has two digits.
"""

import dataclasses
import functools
import hashlib
import random
from collections.abc import Sequence

NAMES = ("Ann", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hal", "Ida", "Jon", "Kim", "Leo")
MIN_STEPS, MAX_STEPS = 2, 12
PARTS = (4, 5, 1)  # how often a friend's part has 1, 2 and 3 steps
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
_PHRASES = {
    ADD: ("gets {}", "finds {}"),
    SUBTRACT: ("gives {}", "loses {}"),
    TIMES: ("takes it {} times",),
    DIVIDE: ("splits by {}",),
    REMAINDER: ("packs by {}, keeps the rest",),
    PERCENT: ("keeps {}%",),
}
_QUESTION_END = "Their last numbers in a row open the lock."


@dataclasses.dataclass(frozen=True)
class Step:
    """One change of a friend's number. `start` is the number the friend begins with, at the friend's first step."""

    name: str
    kind: str
    operand: int
    phrase: str
    start: int | None = None


@dataclasses.dataclass(frozen=True)
class Puzzle:
    """A lock puzzle: the steps of all friends in order."""

    steps: tuple[Step, ...]

    @property
    def question(self) -> str:
        lines = []
        for number, step in enumerate(self.steps, start=1):
            begins = "" if step.start is None else f" has {step.start},"
            lines.append(f"{number}. {step.name}{begins} {step.phrase.format(step.operand)}.")
        return "\n".join([*lines, _QUESTION_END])

    @property
    def values(self) -> tuple[int, ...]:
        """The right number after each step."""
        values, value = [], 0
        for step in self.steps:
            value = compute(step.kind, value if step.start is None else step.start, step.operand)
            values.append(value)
        return tuple(values)

    @property
    def answer(self) -> str:
        return code(self, self.values)

    @property
    def split(self) -> str:
        """`held_out` for a tenth of all puzzles, `train` for another, `pretraining` for the rest.

        The split is a hash of the operations and numbers, names and wording left out, so no seed can bring a
        puzzle of one split into another.
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


def draw_puzzle(rng: random.Random, steps: int, parts: Sequence[int] = PARTS) -> Puzzle:
    """A puzzle of that many steps: parts of one to three steps, the three skills and hard and easy equally likely."""
    names = iter(rng.sample(NAMES, len(NAMES)))
    drawn: list[Step] = []
    while len(drawn) < steps:
        length = min(rng.choices((1, 2, 3), weights=parts)[0], steps - len(drawn))
        name, value = next(names, None), None
        if name is None:
            return draw_puzzle(rng, steps, parts)
        for _ in range(length):
            kind, operand, start = _draw_operation(rng, value)
            drawn.append(
                Step(name, kind, operand, rng.choice(_PHRASES[kind]), start if value is None else None)
            )
            value = compute(kind, start, operand)
    return Puzzle(tuple(drawn))


def _draw_operation(rng: random.Random, value: int | None) -> tuple[str, int, int]:
    """(kind, operand, number before); the number before is `value`, or drawn where that is None."""
    while True:
        kind = rng.choice(SKILLS[rng.choice(tuple(SKILLS))])
        operands = _choices()[kind, rng.random() < 0.5]
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


def code(puzzle: Puzzle, values: tuple[int, ...]) -> str:
    """The last number of each friend, in a row, given the number after each step."""
    last = [
        i
        for i, step in enumerate(puzzle.steps)
        if i + 1 == len(values) or puzzle.steps[i + 1].start is not None
    ]
    return "".join(str(values[i]) for i in last)


def problem_row(identifier: str, puzzle: Puzzle) -> dict:
    """The puzzle as a row of a problem file, with `steps`, the number of steps, as an additional field."""
    before, lines = 0, []
    for step, value in zip(puzzle.steps, puzzle.values):
        before = before if step.start is None else step.start
        lines.append(f"{step.name}: {equation(step.kind, before, step.operand, value)}.")
        before = value
    return {
        "id": identifier,
        "question": puzzle.question,
        "answer": puzzle.answer,
        "solution": "\n".join(lines),
        "steps": len(puzzle.steps),
    }


def equation(kind: str, value: int, operand: int, result: int) -> str:
    """The operation as it is written in solutions, for instance `34 + 5 = 39`."""
    if kind == PERCENT:
        return f"{operand}% of {value} = {result}"
    return f"{value} {kind} {operand} = {result}"
