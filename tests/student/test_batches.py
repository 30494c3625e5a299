"""Packing, order, and the arrays of a step."""

import numpy as np
import pytest

from cord_jax.student.batches import NO_LABEL, assemble, best_fit, bucket, plan
from cord_jax.student.data import Example

LENGTHS = np.random.default_rng(0).integers(1, 100, 500).tolist()


def make_plan(**changes):
    settings = dict(epochs=3, batch_size=4, max_length=128, pack=True, seed=0)
    return plan(LENGTHS, **{**settings, **changes})


@pytest.mark.parametrize("pack", [True, False])
def test_every_epoch_shows_every_row_once(pack):
    run = make_plan(pack=pack)
    starts = (0, *run.epoch_ends)
    for start, end in zip(starts, run.epoch_ends, strict=False):
        shown = [i for step in run.windows[start:end] for window in step for i in window]
        assert sorted(shown) == list(range(len(LENGTHS)))
    assert all(len(step) == 4 for step in run.windows[: run.epoch_ends[0] - 1])
    assert all(len(window) == 1 for step in run.windows for window in step) != pack
    for step, length in zip(run.windows, run.lengths, strict=True):
        assert all(sum(LENGTHS[i] for i in window) <= length for window in step)


def test_order_is_a_function_of_seed_and_epoch():
    run = make_plan()
    assert run == make_plan()
    assert run.windows[: run.epoch_ends[0]] != run.windows[run.epoch_ends[0] : run.epoch_ends[1]]
    assert run.windows != make_plan(seed=1).windows
    # A run that ends earlier, or later, sees the same rows up to there.
    assert make_plan(max_steps=7).windows == run.windows[:7]
    assert make_plan(epochs=1).windows == run.windows[: run.epoch_ends[0]]


def test_best_fit_takes_the_fullest_window_with_room():
    # 60 and 50 open windows; 30 fits both and goes to the first; 45 fits the second only; 30 opens a third.
    assert best_fit(range(5), [60, 50, 30, 45, 30], 100) == [(0, 2), (1, 3), (4,)]


def test_windows_are_nearly_full():
    run = make_plan(epochs=1)
    windows = [window for step in run.windows for window in step]
    assert sum(LENGTHS) / (128 * len(windows)) > 0.95


@pytest.mark.parametrize(
    "length, max_length, padded",
    [
        (1, 20480, 64),
        (64, 20480, 64),
        (65, 20480, 128),
        (257, 20480, 384),
        (385, 20480, 512),
        (16385, 20480, 20480),
        (20480, 20480, 20480),
        (300, 300, 384),
        (100, 100, 128),
        (60, 60, 64),
    ],
)
def test_buckets(length, max_length, padded):
    assert bucket(length, max_length) == padded


def test_arrays_of_a_step():
    examples = [
        Example("a", np.array([5, 6, 7, 8], np.int32), 2),
        Example("b", np.array([9, 10], np.int32), 1),
        Example("c", np.array([11, 12, 13], np.int32), 0),
    ]
    batch = assemble(examples, [(0, 1), (2,)], length=8, batch_size=4, accumulation=2)
    assert batch.tokens.shape == (2, 2, 8)
    no = NO_LABEL
    np.testing.assert_array_equal(batch.tokens[0], [[5, 6, 7, 8, 9, 10, 0, 0], [11, 12, 13, 0, 0, 0, 0, 0]])
    np.testing.assert_array_equal(batch.segments[0], [[1, 1, 1, 1, 2, 2, 0, 0], [1, 1, 1, 0, 0, 0, 0, 0]])
    np.testing.assert_array_equal(batch.positions[0], [[0, 1, 2, 3, 0, 1, 0, 0], [0, 1, 2, 0, 0, 0, 0, 0]])
    # Learnt: 7 8 after the prompt 5 6; 10; and of a row without a prompt all but the first, which nothing
    # predicts.
    np.testing.assert_array_equal(
        batch.labels[0], [[no, 7, 8, no, 10, no, no, no], [12, 13, no, no, no, no, no, no]]
    )
    assert (batch.segments[1] == 0).all() and (batch.labels[1] == no).all()
