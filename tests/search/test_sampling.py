"""What sampling keeps, against the logits processors of transformers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import TopKLogitsWarper, TopPLogitsWarper

from cord_jax.search.sampling import keep_top_k, keep_top_p


def logits(seed: int) -> np.ndarray:
    """Scattered logits of three vocabularies' rows, some ids excluded."""
    rng = np.random.default_rng(seed)
    found = rng.normal(size=(3, 1000)).astype(np.float32) * rng.uniform(0.1, 20, (3, 1)).astype(np.float32)
    found[rng.random(found.shape) < 0.1] = -np.inf
    return found


@pytest.mark.parametrize("seed", range(10))
def test_top_p_keeps_what_transformers_keeps(seed):
    top_p = np.random.default_rng(seed).uniform(0.05, 0.99, 3)
    given = logits(seed)
    found = jax.jit(lambda x: keep_top_p(x, jnp.asarray(top_p, jnp.float32)))(given)
    for row, p, kept in zip(given, top_p, found):
        expected = TopPLogitsWarper(float(p))(None, torch.tensor(row)[None])[0]
        np.testing.assert_array_equal(kept, expected.numpy())


def test_top_k_keeps_what_transformers_keeps():
    top_k, given = np.array([1, 20, 400]), logits(0)
    found = jax.jit(lambda x: keep_top_k(x, jnp.asarray(top_k), 400))(given)
    for row, k, kept in zip(given, top_k, found):
        expected = TopKLogitsWarper(int(k))(None, torch.tensor(row)[None])[0]
        np.testing.assert_array_equal(kept, expected.numpy())


def test_what_keeps_all():
    given = logits(1)
    np.testing.assert_array_equal(keep_top_p(given, jnp.ones(3)), given)
    np.testing.assert_array_equal(keep_top_k(given, jnp.array([0, 0, 1000]), 1000), given)


def test_ties_with_the_last_that_is_kept_are_kept():
    given = jnp.log(jnp.array([[0.4, 0.2, 0.2, 0.2]]))
    assert jnp.isfinite(keep_top_p(given, jnp.array([0.5]))).tolist() == [[True] * 4]
    assert jnp.isfinite(keep_top_p(given, jnp.array([0.4 - 1e-3]))).tolist() == [[True, False, False, False]]


def test_top_k_above_the_vocabulary_keeps_all():
    logits_pv = jnp.asarray(np.random.default_rng(0).normal(size=(3, 7)), jnp.float32)
    kept = keep_top_k(logits_pv, jnp.asarray([0, 3, 10**9]), 10**9)
    assert np.isfinite(kept).sum(1).tolist() == [7, 3, 7]
