"""The shipped checkpoints: what they are, and that the meta-prover's score tells right steps from wrong ones."""

import random
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import models
from cord_jax.config import CLOSING
from cord_jax.miniature import ASSETS, HELD_OUT_PROBLEMS, POOL, STUDENT, TRAIN_PROBLEMS, world
from cord_jax.miniature.recipe import MEMBERS, TRUNK, pool_toml, problem_files
from cord_jax.miniature.wording import WORDINGS, write_solution
from cord_jax.pool import read_pool
from cord_jax.problems import read_problems
from cord_jax.text.prompts import render_prompt
from cord_jax.text.vocabulary import Vocabulary

FAMILIES = {"sums": "qwen2", "products": "llama", "shares": "phi3", "prover": "qwen2", "student": "qwen2"}


def test_all_assets_are_small():
    files = [path for path in ASSETS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 15_000_000
    assert {path.parent.name for path in files if path.suffix == ".safetensors"} == set(FAMILIES)


def test_pool_and_problems():
    assert POOL.read_text() == pool_toml()
    pool = read_pool(POOL)
    assert [p.checkpoint.name for p in pool.proposers] == [p.name for p in pool.proposers]
    assert [p.name for p in pool.proposers] == ["sums", "products", "shares"]
    assert (pool.meta_prover.name, pool.meta_prover.checkpoint) == (None, ASSETS / "prover")
    for path, text in problem_files().items():
        assert (ASSETS / path).read_text() == text
    train, held_out = read_problems(TRAIN_PROBLEMS), read_problems(HELD_OUT_PROBLEMS)
    assert len(held_out) >= 200 and not {p.question for p in train} & {p.question for p in held_out}


@pytest.mark.parametrize("name", FAMILIES)
def test_checkpoints(name):
    """300,000 to 1,500,000 parameters, of the family it should be, with logits equal to transformers'."""
    directory = ASSETS / name
    assert AutoConfig.from_pretrained(directory).model_type == FAMILIES[name]
    theirs = AutoModelForCausalLM.from_pretrained(directory)
    assert 300_000 <= sum(p.numel() for p in theirs.parameters()) <= 1_500_000
    vocabulary = Vocabulary.load(directory)
    ids = np.array(
        [vocabulary.encode_prompt(render_prompt(vocabulary, None, "Step 1: Ann 34 + 5.\nTell A."))]
    )
    ours = np.asarray(models.load(directory)(jnp.asarray(ids)))
    with torch.no_grad():
        expected = theirs(torch.tensor(ids)).logits.numpy()
    assert np.abs(ours - expected).max() / np.abs(expected).max() < 1e-4


def test_student_shares_no_checkpoint_with_the_pool():
    assert STUDENT not in [proposer.checkpoint for proposer in read_pool(POOL).proposers]
    assert {member.name for member in MEMBERS} - {TRUNK} == set(FAMILIES)


def scores(directory: Path, texts: list[tuple[str, str, str]]) -> np.ndarray:
    """S of each (question, reasoning, answer), design 3.7, by whole forward passes."""
    vocabulary, model = Vocabulary.load(directory), models.load(directory)
    rows = []
    for question, reasoning, answer in texts:
        start = vocabulary.encode_prompt(render_prompt(vocabulary, None, question)) + vocabulary.encode(
            reasoning
        )
        closing, scored = vocabulary.encode_with_answer(CLOSING, answer)
        rows.append((start + closing, [len(start) + i for i, counts in enumerate(scored) if counts]))
    forward = jax.jit(lambda tokens: jax.nn.log_softmax(model(tokens)))
    out = []
    for begin in range(0, len(rows), 16):
        batch = rows[begin : begin + 16]
        tokens = np.zeros((16, 512), np.int32)
        for i, (ids, _) in enumerate(batch):
            tokens[i, : len(ids)] = ids
        log_p = np.asarray(forward(tokens))
        out += [
            np.exp(np.mean([log_p[i, at - 1, ids[at]] for at in places]))
            for i, (ids, places) in enumerate(batch)
        ]
    return np.array(out)


def test_score_tells_right_steps_from_wrong_ones():
    """Over steps of held-out puzzles in all wordings: S rises with a right step, falls with a slip."""
    rng = random.Random(0)
    texts, pairs = [], []  # pairs: (before, after a right step, after a wrong one) as places in texts
    for puzzle in world.draw_puzzles(11, 40, "held_out"):
        wordings = [WORDINGS[rng.choice(("sums", "products", "shares"))] for _ in puzzle.steps]
        right = write_solution(puzzle, wordings, {}, rng)
        wrong = write_solution(puzzle, wordings, {kind: 1.0 for kind in world.KINDS}, rng)
        if all(wrong.right):
            continue
        first = wrong.right.index(False)
        for steps in (
            right.steps[:first],
            right.steps[: first + 1],
            (*right.steps[:first], wrong.steps[first]),
        ):
            texts.append((puzzle.question, "".join(steps), puzzle.answer))
        pairs.append(range(len(texts) - 3, len(texts)))
    before, after_right, after_wrong = scores(ASSETS / "prover", texts)[np.array(pairs)].T
    rise, fall = after_right - before, after_wrong - before
    auc = np.mean(rise[:, None] > fall[None, :]) + np.mean(rise[:, None] == fall[None, :]) / 2
    print(f"{len(pairs)} steps: right {rise.mean():+.3f}, wrong {fall.mean():+.3f}, AUC {auc:.3f}")
    assert auc > 0.85
    assert rise.mean() > 0 > fall.mean()
