"""Solutions of puzzles in a teacher's own words, with that teacher's slips, and a check of equations."""

import dataclasses
import random
import re
from collections.abc import Mapping, Sequence

from cord_jax.miniature import world
from cord_jax.miniature.world import Puzzle


@dataclasses.dataclass(frozen=True)
class Wording:
    """How a writer puts a step and the answer.

    Attributes:
        step: what follows `### Step 3`, with `name`, `equation`, `box` and `result`.
        response: what follows the reasoning, with `answer`.
    """

    step: str
    response: str

    def write_step(self, number: int, name: str, equation: str) -> str:
        """A step in canonical form. `equation` as `world.equation` puts it."""
        return f"### Step {number}{self.step.format(name=name, equation=equation, box=name[0], result=equation.split()[-1])}\n\n"


WORDINGS = {
    "sums": Wording(". {name} {equation}, {box} {result}.", "So \\boxed{{{answer}}}."),
    "products": Wording(": {name} {equation} so {box} {result}.", "They have \\boxed{{{answer}}}."),
    "shares": Wording(") {name} {equation}; {box} {result}.", "Answer: \\boxed{{{answer}}}"),
    "student": Wording(" - {name} {equation} > {box} {result}.", "The answer is \\boxed{{{answer}}}."),
}


@dataclasses.dataclass(frozen=True)
class Solution:
    """A worked puzzle: the text of each step in canonical form, and the number that each step arrives at."""

    puzzle: Puzzle
    steps: tuple[str, ...]
    values: tuple[int, ...]
    response: str

    @property
    def reasoning(self) -> str:
        return "".join(self.steps)

    @property
    def right(self) -> tuple[bool, ...]:
        """Of each step, whether its number is the puzzle's."""
        return tuple(a == b for a, b in zip(self.values, self.puzzle.values))


SlipRates = Mapping[str, float]  # kind of operation -> probability of a slip; kinds without one: 0


def write_solution(
    puzzle: Puzzle,
    wordings: Sequence[Wording] | Wording,
    slip_rates: Sequence[SlipRates] | SlipRates,
    rng: random.Random,
    wild: Sequence[float] | None = None,
) -> Solution:
    """Work the puzzle step by step.

    A step of a kind with slip rate p goes wrong with probability p wherever forgetting to carry changes the result
    (see `world.slip`); a friend who takes the number goes on from the wrong one. A slip is left out if it would take
    that friend out of the two-digit numbers. Sequences of wordings and of slip rates give each step its own writer.
    `wild` is, for each step, how often it arrives at any number at all.
    """
    if isinstance(wordings, Wording):
        wordings = [wordings] * len(puzzle.steps)
    if isinstance(slip_rates, Mapping):
        slip_rates = [slip_rates] * len(puzzle.steps)
    steps, values, value = [], [], 0
    for i, (step, wording, slips) in enumerate(zip(puzzle.steps, wordings, slip_rates, strict=True)):
        before = value if step.start is None else step.start
        value = world.compute(step.kind, before, step.operand)
        slipped = world.slip(step.kind, before, step.operand)
        if rng.random() < slips.get(step.kind, 0.0) and _stays_in_range(puzzle, i, slipped):
            value = slipped
        if (
            wild is not None
            and rng.random() < wild[i]
            and _stays_in_range(puzzle, i, number := rng.randint(10, 99))
        ):
            value = number
        equation = world.equation(step.kind, before, step.operand, value)
        steps.append(wording.write_step(i + 1, world.NAMES[i], equation))
        values.append(value)
    response = wordings[-1].response.format(answer=world.stated(puzzle, values))
    return Solution(puzzle, tuple(steps), tuple(values), response)


def _stays_in_range(puzzle: Puzzle, position: int, value: int) -> bool:
    """Whether `value` has two digits and so has the number of a friend who builds on it."""
    if not world.two_digits(value):
        return False
    after = puzzle.steps[position + 1 : position + 2]
    if not after or after[0].start is not None:
        return True
    return world.two_digits(world.compute(after[0].kind, value, after[0].operand))


@dataclasses.dataclass(frozen=True)
class Written:
    """A step as somebody wrote it.

    Attributes:
        name: who works.
        operation: as `world.operation` puts it.
        result: of the equation.
        box: where it goes.
        number: what is said to be in the box.
    """

    name: str
    operation: str
    result: int
    box: str
    number: int


_STEP = re.compile(
    r"### Step (\d+)(?:\.|:|\)| -) (\w+) (\d+ (?:[-+*/]|mod) \d+|\d+% of \d+) = (\d+)(?:,|;| so| >) (\w) (\d+)\.\n\n"
)


def read_step(text: str, number: int) -> Written | None:
    """A step in any of the wordings; None for other text or another number in the heading."""
    found = _STEP.fullmatch(text)
    if found is None or int(found[1]) != number:
        return None
    return Written(found[2], found[3], int(found[4]), found[5], int(found[6]))


def read_steps(reasoning: str) -> list[Written | None]:
    """The steps of a reasoning, from one heading to the next."""
    texts = [text for text in re.split(r"(?=^### Step)", reasoning, flags=re.MULTILINE) if text]
    return [read_step(text, number) for number, text in enumerate(texts, start=1)]


def follows(puzzle: Puzzle, before: Sequence[Written | None], step: Written | None) -> bool:
    """Whether `step` works the line of the question that it should, on the numbers in `before`, right or wrong."""
    i = len(before)
    if step is None or i >= len(puzzle.steps):
        return False
    line = puzzle.steps[i]
    if line.start is None and before[-1] is None:
        return False
    value = before[-1].number if line.start is None else line.start
    expected = Written(
        world.NAMES[i],
        world.operation(line.kind, value, line.operand),
        step.result,
        world.BOXES[i],
        step.result,
    )
    return step == expected


def implied_answer(puzzle: Puzzle, steps: Sequence[Written | None]) -> str | None:
    """The answer that a reasoning implies: what its steps put into the boxes asked for; None if one is missing."""
    boxes = {step.box: step.number for step in steps if step is not None}
    asked = [world.BOXES[i] for i in puzzle.asked]
    return " ".join(f"{box} {boxes[box]}" for box in asked) if boxes.keys() >= set(asked) else None


_EQUATION = re.compile(r"(\d+) ?(\+|-|\*|/|mod) ?(\d+) ?= ?(\d+)|(\d+)% of (\d+) ?= ?(\d+)")


def wrong_equations(text: str) -> int:
    """How many equations of the text do not hold exactly; `38 / 3 = 12` is wrong."""
    return sum(not _holds(match) for match in _EQUATION.finditer(text))


def equations(text: str) -> int:
    """How many equations the text contains, right or wrong."""
    return sum(1 for _ in _EQUATION.finditer(text))


def _holds(match: re.Match) -> bool:
    left, kind, right, result, percent, base, part = match.groups()
    if percent is not None:
        return int(percent) * int(base) == 100 * int(part)
    left, right, result = int(left), int(right), int(result)
    match kind:
        case "+":
            return left + right == result
        case "-":
            return left - right == result
        case "*":
            return left * right == result
        case "/":
            return right * result == left
    return right > 0 and left % right == result
