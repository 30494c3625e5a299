"""All attention of training against that of jax.nn under a mask: values, gradients, windows, shards."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cord_jax.mesh import parse_mesh
from models.attention.packed import Blockwise, Splash

LENGTH = 256


def packed_rows(rows, seed=0):
    """Positions and segments of windows full of examples of many lengths, with some padding."""
    rng = np.random.default_rng(seed)
    positions, segments = np.zeros((rows, LENGTH), np.int32), np.zeros((rows, LENGTH), np.int32)
    for row in range(rows):
        start, segment = 0, 1
        while start + (n := int(rng.integers(1, 100))) <= LENGTH:
            positions[row, start : start + n], segments[row, start : start + n] = np.arange(n), segment
            start, segment = start + n, segment + 1
    return positions, segments


def dense(positions, segments):
    """Attention of jax.nn to what each token may read."""

    def attend(q, k, v, cache, window):
        place = np.arange(LENGTH)
        mask = (segments[:, :, None] == segments[:, None]) & (place[:, None] >= place)
        mask &= positions[:, :, None] - positions[:, None] < (window or LENGTH)
        return jax.nn.dot_product_attention(q, k, v, mask=mask[:, None]), cache

    return attend


def value_and_gradients(attention, positions, segments, window=None, heads=4, kv_heads=2, width=16):
    rows = len(positions)
    keys = jax.random.split(jax.random.key(0), 4)
    q, out = (jax.random.normal(key, (rows, LENGTH, heads, width)) for key in keys[:2])
    k, v = (jax.random.normal(key, (rows, LENGTH, kv_heads, width)) for key in keys[2:])
    real = (segments > 0)[..., None, None]  # what padding reads does not matter

    def total(q, k, v):
        read, _ = attention(positions, segments)(q, k, v, None, window)
        return jnp.sum(read * out * real), read * real

    return jax.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True))(q, k, v)


def assert_same(ours, theirs):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5), ours, theirs)


@pytest.mark.parametrize("block, window", [(64, None), (64, 20), (128, 100), (96, None), (256, None)])
def test_blockwise(block, window):
    rows = packed_rows(3)
    assert_same(
        value_and_gradients(Blockwise(block), *rows, window),
        value_and_gradients(dense, *rows, window),
    )


def test_blockwise_without_packing():
    positions = np.tile(np.arange(LENGTH, dtype=np.int32), (2, 1))
    segments = (positions < [[200], [256]]).astype(np.int32)
    assert_same(
        value_and_gradients(Blockwise(64), positions, segments),
        value_and_gradients(dense, positions, segments),
    )


@pytest.mark.parametrize("mesh", ["data:1", "fsdp:2,model:2", "data:2,model:4"])
def test_splash(mesh):
    """The TPU kernel, interpreted; over more devices than key-value heads, these are not split."""
    rows = packed_rows(2)
    attention = Splash(parse_mesh(mesh), interpret=True)
    assert_same(value_and_gradients(attention, *rows, width=64), value_and_gradients(dense, *rows, width=64))
