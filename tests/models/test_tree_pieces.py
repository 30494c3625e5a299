"""Attention in loops over slots and pieces against a softmax over everything, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.attention.kv_cache import KeyValue, LayerCache
from models.attention.prefix_tree import NewTokens
from models.attention.tree_pieces import TreePieces

SLOTS, ROWS, KV_HEADS, GROUP, WIDTH = 3, 4, 2, 2, 8


def expected_attention(query_nqhe, keys_nqghs, values_nqghs, seen_nqs):
    """Keys and values as each row sees them, [n, q, g, s, e]."""
    query = query_nqhe.reshape(SLOTS, ROWS, KV_HEADS, GROUP, WIDTH) / np.sqrt(WIDTH)
    logits = np.einsum("nqgme,nqgse->nqgms", query, keys_nqghs)
    logits = np.where(seen_nqs[:, :, None, None], logits, -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    out = np.einsum("nqgms,nqgse->nqgme", weights / weights.sum(-1, keepdims=True), values_nqghs)
    return out.reshape(query_nqhe.shape)


@functools.partial(jax.jit, static_argnames="stacked")
def found_attention(query_nqhe, new_kv, column, rings, near_nqt, pool, path_nqs, running_nq, stacked):
    """Each row has a branch of its own; the new key and value are what the rings already hold in the column."""
    attention, layer = TreePieces(), 1 if stacked else None
    branch_nq = jnp.broadcast_to(jnp.arange(ROWS), (SLOTS, ROWS))
    nowhere_ns = jnp.zeros((SLOTS, path_nqs.shape[-1]), jnp.int32)
    sizes = [block.value.shape[-2] for block in pool]
    masks = attention.masks(sizes, path_nqs, branch_nq, nowhere_ns, None, running_nq)
    zeros_nq = jnp.zeros((SLOTS, ROWS), jnp.int32)
    new = NewTokens(column, zeros_nq, near_nqt, jnp.zeros_like(near_nqt, jnp.int32), running_nq)
    attend = attention.decode(masks, new)
    return attend(query_nqhe, *new_kv, LayerCache(pool, rings, layer), None)[0]


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("ring", [40, 300])  # less and more than a piece
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_decoding_reads_what_rows_see(stacked, ring, seed):
    rng = np.random.default_rng(seed)
    columns = 600, 100  # no multiples of a piece
    draw = rng.standard_normal
    query_nqhe = draw((SLOTS, ROWS, KV_HEADS * GROUP, WIDTH))
    ring_keys, ring_values = draw((2, SLOTS, ROWS, KV_HEADS, ring, WIDTH))
    blocks = [draw((2, SLOTS, KV_HEADS, size, WIDTH)) for size in columns]
    near_nqt = np.zeros((SLOTS, ROWS, ring), bool)
    start, count = rng.integers(ring, size=(SLOTS, ROWS)), rng.integers(1, ring, size=(SLOTS, ROWS))
    near_nqt |= (np.arange(ring) - start[..., None]) % ring < count[..., None]
    # Most pieces are seen by nobody.
    seen = [rng.random((SLOTS, ROWS, size)) < 0.2 for size in columns]
    for mask in seen:
        mask &= np.repeat(rng.random((SLOTS, 7)) < 0.4, 100, axis=1)[:, None, : mask.shape[2]]
    running_nq = (rng.random((SLOTS, ROWS)) < 0.6) & (rng.random(SLOTS) < 0.7)[:, None]
    ring_keys[~running_nq], ring_values[~running_nq] = np.nan, np.nan  # what is not to be read

    everything = [np.concatenate([np.broadcast_to(x[:, None], (SLOTS, ROWS, *x.shape[1:])) for x in pair], 3)
                  for pair in zip(*blocks)]  # fmt: skip
    keys, values = (np.concatenate([own, x], axis=3) for own, x in zip((ring_keys, ring_values), everything))
    expected = expected_attention(query_nqhe, keys, values, np.concatenate([near_nqt, *seen], axis=2))

    def array(x):
        return jnp.asarray(x, jnp.float32)

    def layers(x):
        return array(np.stack([np.full_like(x, np.nan), x]) if stacked else x)

    column = int(rng.integers(ring))
    found = found_attention(
        array(query_nqhe),
        [array(x[..., column, :]) for x in (ring_keys, ring_values)],
        jnp.int32(column),
        KeyValue(layers(ring_keys), layers(ring_values)),
        near_nqt,
        [KeyValue(array(key.swapaxes(-1, -2)), array(value)) for key, value in blocks],
        np.concatenate(seen, axis=2),
        running_nq,
        stacked,
    )
    np.testing.assert_allclose(found[running_nq], expected[running_nq], rtol=2e-4, atol=2e-5)
    assert np.isfinite(found).all()
    assert (found[~running_nq.any(1)] == 0).all()
