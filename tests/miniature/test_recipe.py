"""Training rows and first weights of the members."""

import itertools
import random

import jax.numpy as jnp
import numpy as np
import pytest

import models
from cord_jax.miniature import recipe, world
from cord_jax.miniature.wording import follows, implied_answer, read_steps
from cord_jax.text.vocabulary import Vocabulary

BY_NAME = {member.name: member for member in recipe.MEMBERS}
TEXT = "Step 1: Ann 34 + 5.\nStep 2: Ben A / 3.\nTell B.### Step 1. Ann 34 + 5 = 39"


@pytest.fixture(scope="module")
def trunk(tmp_path_factory):
    directory = tmp_path_factory.mktemp("trunk")
    recipe.write_untrained(BY_NAME["trunk"], directory)
    return directory


@pytest.mark.parametrize("name", ["sums", "products", "shares"])
def test_a_transplanted_network_computes_alike(trunk, tmp_path, name):
    """On tokens that both vocabularies have, whatever their ids."""
    recipe.transplant(trunk, BY_NAME[name], tmp_path)
    theirs, ours = Vocabulary.load(trunk), Vocabulary.load(tmp_path)
    shared = [t for t in theirs.tokenizer.get_vocab() if t in ours.tokenizer.get_vocab()]
    ids = [v.tokenizer.convert_tokens_to_ids(shared) for v in (theirs, ours)]
    texts = [v.encode(TEXT) for v in (theirs, ours)]
    assert [theirs.text([i]) for i in texts[0]] == [ours.text([i]) for i in texts[1]]
    logits = [np.asarray(models.load(d)(jnp.array([t])))[0] for d, t in zip((trunk, tmp_path), texts)]
    assert len(shared) > 400
    np.testing.assert_allclose(logits[0][:, ids[0]], logits[1][:, ids[1]], atol=1e-4)


def rows(name: str, stage: int, vocabulary: Vocabulary, count: int = 150) -> list[dict]:
    member = BY_NAME[name]
    return list(itertools.islice(recipe.training_rows(member, member.stages[stage], vocabulary), count))


def test_a_teacher_goes_on_from_any_numbers(trunk):
    """Half of the rows or more begin with other hands' text; the rest follows from it, in the teacher's wording."""
    begun = 0
    for row in rows("sums", 0, Vocabulary.load(trunk)):
        question = row["prompt"].partition("Step 1:")[2].partition(".<|eot_id|>")[0]
        puzzle = world.read_puzzle(f"Step 1:{question}.")
        given = row["prompt"].partition("<think>\n")[2]
        own, _, response = row["completion"].partition("</think>\n\n")
        begun += bool(given)
        steps = read_steps(given + own)
        assert len(steps) == len(puzzle.steps)
        assert all(follows(puzzle, steps[:i], step) for i, step in enumerate(steps))
        assert response == f"So \\boxed{{{implied_answer(puzzle, steps)}}}."
        assert own.count("### Step") == own.count(", ")
        for step, line in zip(steps[given.count("### Step") :], puzzle.steps[given.count("### Step") :]):
            if line.kind in world.SKILLS["sums"]:
                left, kind, right = step.operation.split()
                assert step.result == world.compute(kind, int(left), int(right))
    assert begun > 60


def test_the_meta_prover_learns_the_answer_that_follows(trunk):
    """A closing's answer holds what the boxes hold, and elsewhere what comes out if one goes on rightly."""
    for row in rows("prover", 0, Vocabulary.load(trunk)):
        question = row["prompt"].partition("Step 1:")[2].partition(".<|eot_id|>")[0]
        puzzle = world.read_puzzle(f"Step 1:{question}.")
        text = (row["prompt"] + row["completion"]).partition("<think>\n")[2]
        reasoning, _, answer = text.partition("</think>\n\nThe final answer is ")
        values = [step.number for step in read_steps(reasoning)]
        for line in puzzle.steps[len(values) :]:
            values.append(
                world.compute(line.kind, values[-1] if line.start is None else line.start, line.operand)
            )
        assert answer == f"{world.stated(puzzle, values)}."


def test_any_length_of_text_is_given():
    rng = random.Random(0)
    puzzle = world.draw_puzzle(rng, 9)
    cuts = [recipe._closing(puzzle, "", cut, rng)["prompt"].count("### Step") for cut in range(10)]
    assert cuts == list(range(10))
