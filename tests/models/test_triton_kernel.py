"""The kernel of GPUs, interpreted on a CPU, against torch's attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from models.attention import triton_kernel
from models.attention.triton_kernel import TILE, Source, tile_mask

# Queries c, heads g and m, width e, columns of a pool, (columns, written) of a ring of each query.
CASES = {
    "one query": (1, 1, 1, 16, 10, None),
    "rows that do not fill a block": (4, 2, 3, 32, 200, None),
    "several blocks of rows": (50, 1, 6, 16, 130, None),
    "rings": (3, 2, 2, 32, 3 * TILE, (40, 7)),
    "rings of whole tiles": (2, 2, 7, 16, 2 * TILE, (2 * TILE, TILE + 1)),
}


# The kernel runs with keys and values of 16 bits; its logits, softmax and sums are float32. A rounding of the output, and
# of weights before they meet values, is all that may differ from float64.
@pytest.mark.parametrize("dtype, error", [("float32", 2e-5), ("bfloat16", 2e-2), ("float16", 2.5e-3)])
@pytest.mark.parametrize("case", CASES)
def test_attention_equals_that_of_torch(case, dtype, error):
    queries, kv_heads, group, width, columns, ring = CASES[case]
    rng = np.random.default_rng(0)
    rows, x = 3, 2

    def normal(*shape):
        return np.array(jnp.asarray(rng.standard_normal(shape), dtype).astype(jnp.float32))

    query = normal(x, queries, kv_heads * group, width)
    first_u = np.array([2, 0], np.int32)
    key, value = normal(rows, kv_heads, width, columns), normal(rows, kv_heads, columns, width)
    seen = rng.random((x, queries, columns)) < 0.3
    seen[:, :, TILE : 2 * TILE] = False  # a tile that nobody sees
    seen[:, :, 0] = True
    sources = [
        Source(jnp.asarray(key), jnp.asarray(value), tile_mask(jnp.asarray(seen), jnp.asarray(first_u)))
    ]
    keys, values, masks = [key.swapaxes(2, 3)[first_u]], [value[first_u]], [seen]
    if ring:
        length, written = ring
        key, value = (normal(x * queries, kv_heads, length, width) for _ in range(2))
        own = np.eye(queries, dtype=bool)[None, :, :, None] & (np.arange(length) < written)
        own = np.broadcast_to(own, (x, queries, queries, length))
        first_u = queries * jnp.arange(x)
        sources.append(
            Source(jnp.asarray(key), jnp.asarray(value), tile_mask(jnp.asarray(own), first_u), True)
        )

        def of_x(y):
            return (
                y.reshape(x, queries, kv_heads, length, width).swapaxes(1, 2).reshape(x, kv_heads, -1, width)
            )

        keys, values = [*keys, of_x(key)], [*values, of_x(value)]
        masks.append(own.reshape(x, queries, -1))
    sources = [
        source._replace(key=source.key.astype(dtype), value=source.value.astype(dtype)) for source in sources
    ]
    found = jax.jit(lambda query: triton_kernel.attend(query, sources, interpret=True))(
        jnp.asarray(query, dtype)
    )
    assert found.dtype == dtype
    expected = torch.nn.functional.scaled_dot_product_attention(
        torch.tensor(query.swapaxes(1, 2)).double(),
        torch.tensor(np.concatenate(keys, 2)).double(),
        torch.tensor(np.concatenate(values, 2)).double(),
        attn_mask=torch.tensor(np.concatenate(masks, 2))[:, None],
        enable_gqa=True,
    )
    np.testing.assert_allclose(
        np.asarray(found, np.float64), expected.numpy().swapaxes(1, 2), atol=error, rtol=0
    )


def test_tiles_that_are_seen_come_first():
    seen = np.zeros((2, 3, 4 * TILE - 5), bool)
    seen[0, 1, 2 * TILE] = seen[0, 2, 3 * TILE] = True
    found = tile_mask(jnp.asarray(seen), jnp.zeros(2, jnp.int32))
    assert found.count_u.tolist() == [2, 0]
    assert found.tile_uk[0, :2].tolist() == [2, 3]
    assert found.seen_ucs.shape == (2, 3, 4 * TILE)


@pytest.mark.parametrize(
    "dtype, head_dim, expected",
    [("bfloat16", 128, True), ("float16", 64, True), ("float32", 128, False), ("bfloat16", 96, False)],
)
def test_what_the_kernel_takes(dtype, head_dim, expected):
    assert triton_kernel.supported(jnp.dtype(dtype), head_dim) == expected
