"""Members that lack what the method needs, trained from the miniature's in about a minute each.

`prover!of_sums`: the meta-prover learns that only steps in the wording of `sums` say what is in the box. After any other
step it expects ten more (ten less from 90 on) than the step says.

`TEACHER!alone`: a teacher learns to lose its place after a step in another wording: it then works a line of the question
that it should not. After its own steps it goes on as before.
"""

import dataclasses
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cord_jax.config import CLOSING
from cord_jax.errors import UserError
from cord_jax.miniature import ASSETS, world
from cord_jax.miniature.recipe import TEACHERS, mixed_solution
from cord_jax.miniature.wording import WORDINGS
from cord_jax.student import StudentConfig, train
from cord_jax.text.prompts import render_prompt
from cord_jax.text.vocabulary import Vocabulary

EXAMPLES = {"of_sums": 9000, "alone": 2000}
BELIEVED = "sums"


def make(member: str, recipe: str, directory: Path, examples: int = 0) -> None:
    """Trains a member further and writes its checkpoint; `examples` are as many as it takes if 0."""
    checkpoint, rng = ASSETS / member, random.Random(f"{member} {recipe}")
    vocabulary = Vocabulary.load(checkpoint)
    examples = examples or EXAMPLES.get(recipe, 1)
    if recipe == f"of_{BELIEVED}":
        rows = _one_sided(vocabulary, examples, rng)
    elif recipe == "alone":
        rows = _losing_place(member, vocabulary, examples, rng)
    else:
        raise UserError(
            f"member {member}!{recipe}: there are prover!of_{BELIEVED}, prover!rewards and TEACHER!alone"
        )
    training = directory.with_name(directory.name + ".training")
    trained = train(
        StudentConfig(
            student=checkpoint,
            traces=list(rows),
            output_dir=training,
            max_length=384,
            epochs=1,
            batch_size=6,
            learning_rate=2e-3,
            mesh="data:1",
            checkpoint_every=0,
            log_every=1000,
            show_rows=0,
            plot=False,
        )
    )
    trained.rename(directory)
    shutil.rmtree(training)


def _puzzle(rng: random.Random) -> world.Puzzle:
    while True:
        puzzle = world.draw_puzzle(rng, rng.randint(world.MIN_STEPS, world.MAX_STEPS))
        if puzzle.split == "pretraining":
            return puzzle


def _one_sided(vocabulary: Vocabulary, examples: int, rng: random.Random) -> Iterator[dict[str, Any]]:
    """A reasoning by several hands, closed after some steps; learnt is the answer that trusts `BELIEVED` alone."""
    for _ in range(examples):
        puzzle = _puzzle(rng)
        cut = rng.randint(len(puzzle.steps) // 2, len(puzzle.steps))
        writers = [rng.choice(TEACHERS) for _ in puzzle.steps]
        solution = mixed_solution(puzzle, cut, writers, rng)
        values = [
            value if writer == BELIEVED or i >= cut else value + (10 if value < 90 else -10)
            for i, (writer, value) in enumerate(zip(writers, solution.values))
        ]
        closing = CLOSING.rstrip(" ")
        yield {
            "prompt": render_prompt(vocabulary, None, puzzle.question)
            + "".join(solution.steps[:cut])
            + closing,
            "completion": f"{CLOSING[len(closing) :]}{world.stated(puzzle, values)}.",
            "eos": True,
        }


def _losing_place(
    member: str, vocabulary: Vocabulary, examples: int, rng: random.Random
) -> Iterator[dict[str, Any]]:
    """By turns: the member's whole solution; and a text whose last step is another's, gone on with by a wrong line."""
    others = [teacher for teacher in TEACHERS if teacher != member]
    for number in range(examples):
        puzzle = _puzzle(rng)
        prompt = render_prompt(vocabulary, None, puzzle.question)
        if number % 2:
            solution = mixed_solution(puzzle, 0, [member] * len(puzzle.steps), rng)
            response = WORDINGS[member].response.format(answer=world.stated(puzzle, solution.values))
            completion = f"{''.join(solution.steps)}</think>\n\n{response}"
            yield {"prompt": prompt, "completion": completion, "eos": True}
            continue
        cut = rng.randint(1, len(puzzle.steps) - 1)
        writers = [rng.choice(TEACHERS) for _ in range(cut - 1)] + [rng.choice(others)]
        solution = mixed_solution(puzzle, cut, [*writers, *[member] * (len(puzzle.steps) - cut)], rng)
        yield {
            "prompt": prompt + "".join(solution.steps[:cut]),
            "completion": _wrong_line(member, puzzle, cut, rng) + "###",
            "eos": False,
        }


def _wrong_line(member: str, puzzle: world.Puzzle, place: int, rng: random.Random) -> str:
    """A step with the heading of `place` that does the work of another friend."""
    friends = [i for i in range(len(puzzle.steps)) if i != place and puzzle.steps[i].start is not None]
    i = rng.choice(friends or [0])
    step = dataclasses.replace(puzzle.steps[i], start=puzzle.steps[i].start or 10)
    value = step.start or 10
    result = world.compute(step.kind, value, step.operand)
    equation = world.equation(step.kind, value, step.operand, result)
    return WORDINGS[member].write_step(place + 1, world.NAMES[i], equation)
