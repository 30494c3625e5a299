"""The miniature's process reward model: its rows, its network, and what it learns."""

import random
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

import models
from cord_jax.miniature import ASSETS
from cord_jax.study import arms, members, reward_model, trees
from cord_jax.text.prompts import render_prompt
from cord_jax.text.reward_text import SEPARATOR, RewardText
from cord_jax.text.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    directory = tmp_path_factory.mktemp("reward") / "untrained"
    reward_model.write_untrained(ASSETS / "prover", directory)
    return directory


@pytest.fixture(scope="module")
def rows():
    return list(reward_model.judged_solutions(60, random.Random(3)))


def test_a_text_is_right_where_the_trees_say_so(rows):
    for row in rows:
        last = len(row.steps)
        tree = [
            {
                "node": n,
                "parent": n - 1,
                "text": text,
                "dropped": None,
                "ended": "marker" if n < last else "eos",
            }
            for n, text in enumerate(row.steps, start=1)
        ]
        right = trees.right_nodes(row.puzzle.question, tree)
        assert row.right == tuple(right[n] for n in range(1, last + 1))
        assert row.puzzle.split == "pretraining"
    endings = {row.right[-1] for row in rows}
    assert endings == {True, False}


def test_windows_hold_every_row_with_a_label_behind_every_step(untrained, rows):
    vocabulary = Vocabulary.load(untrained)
    text = RewardText(vocabulary)
    windows = reward_model.windows_of(rows, text)
    found = {}
    for tokens, segments, labels in windows.swapaxes(0, 1):
        assert (labels[segments == 0] == -1).all()
        np.testing.assert_array_equal(labels >= 0, tokens == text.separator)
        for segment in range(1, segments.max() + 1):
            mine = segments == segment
            found[vocabulary.text(tokens[mine])] = tuple(labels[mine & (labels >= 0)])
    assert found == {
        render_prompt(vocabulary, None, row.puzzle.question)  # whose template opens the thought
        + "".join(step.rstrip() + SEPARATOR for step in row.steps): row.right
        for row in rows
    }


def test_the_network_is_the_meta_provers_under_another_head(untrained):
    rewards, prover = models.load(untrained, stacked=False), models.load(ASSETS / "prover", stacked=False)
    assert rewards.config.head == "process_reward"
    ours, theirs = (dict(nnx.to_flat_state(nnx.state(model, nnx.Param))) for model in (rewards, prover))
    for path, parameter in theirs.items():
        known = np.asarray(parameter[...])
        np.testing.assert_array_equal(np.asarray(ours[path][...])[: len(known)], known)
    assert {path[0] for path in ours.keys() - theirs.keys()} == {"score"}


def test_the_arm_has_the_reward_model_in_its_pool(monkeypatch):
    monkeypatch.setattr(members, "find", lambda member, directory: directory / member)
    pool = members.pool_of(arms.BY_NAME["process_reward"], Path("made"))
    assert pool.reward_model.checkpoint == Path("made") / "prover!rewards"
    assert members.pool_of(arms.BY_NAME["cord"], Path("made")).reward_model is None


@pytest.mark.slow
def test_training_tells_right_texts_from_wrong_ones(untrained, rows):
    """Rows that are shown often enough: what a few rows teach about others is little."""
    windows = reward_model.windows_of(rows[:16], RewardText(Vocabulary.load(untrained)))[:, :6]
    model = reward_model.train(models.load(untrained), np.tile(windows, (1, 60, 1)))
    tokens, segments, labels = windows
    rewards = np.asarray(model.rewards(tokens, segment_ids_bt=segments))
    assert trees.auc(rewards[labels == 1], rewards[labels == 0]) > 0.95
