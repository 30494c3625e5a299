"""Pools that grow: what was in them stays where it was."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.attention import kv_cache
from models.attention.kv_cache import COLUMNS

CONFIG = types.SimpleNamespace(num_layers=2, num_kv_heads=2, head_dim=4)


@pytest.mark.parametrize("stacked", [False, True], ids=["listed", "stacked"])
@pytest.mark.parametrize("blocks", [(8, 12), (8, 4, 8), (8, 6, 2, 2)], ids=str)
def test_a_wider_pool_holds_the_same(stacked, blocks):
    empty = kv_cache.empty_pool(CONFIG, stacked, 3, (8, 4), jnp.float32)
    random = np.random.default_rng(0)
    pool = jax.tree.map(lambda x: jnp.asarray(random.normal(size=x.shape), x.dtype), empty)
    wider = kv_cache.widened(stacked, pool, blocks)
    assert kv_cache.block_columns(stacked, wider) == blocks

    def layers(pool):
        return [pool] if stacked else pool

    for old, new in zip(layers(pool), layers(wider), strict=True):
        for axis, before, after in zip(COLUMNS, zip(*old), zip(*new), strict=True):
            before, after = (np.concatenate(parts, axis) for parts in (before, after))
            expected = np.zeros_like(after)
            np.moveaxis(expected, axis, 0)[:8] = np.moveaxis(before, axis, 0)[:8]
            np.moveaxis(expected, axis, 0)[8:12] = np.moveaxis(before, axis, 0)[8:]
            np.testing.assert_array_equal(after, expected)
