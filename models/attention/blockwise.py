"""Causal attention inside segments, block by block: memory grows with the length of a window, not with its square.

The online softmax of FlashAttention (Dao et al., 2022) in plain jax, with its backward pass written by hand:
it runs wherever jax does. Segment ids do not fall along a window, so the blocks of keys that a block of
queries reads are neighbours, and those before the first segment of the queries are never touched.

Shape letters: as in `models`; a k is a block, c its tokens.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from models.attention.dense import NO_WINDOW
from models.attention.online_softmax import MASKED


def blockwise_attention(
    q_bthe: jax.Array,
    k_btge: jax.Array,
    v_btge: jax.Array,
    positions_bt: jax.Array,
    segments_bt: jax.Array,
    window: jax.Array | int | None,
    block: int,
) -> jax.Array:
    """Scaled dot-product attention with grouped heads, as `dense_attention` under
    `causal_mask`.

    Args:
      segments_bt: rising along a row from 1, then 0 for padding. What padding reads is left open.
      window: as in `causal_mask`.
      block: queries, and keys, of a block; divides t.

    Returns: out_bthe in the dtype of v.
    """
    b, t, h, e = q_bthe.shape
    g = k_btge.shape[2]
    q_bgmte = q_bthe.reshape(b, t, g, h // g, e).transpose(0, 2, 3, 1, 4)
    k_bgte, v_bgte = k_btge.swapaxes(1, 2), v_btge.swapaxes(1, 2)
    window = jnp.asarray(NO_WINDOW if window is None else window, jnp.int32)
    out_bgmte = _attention(block, q_bgmte, k_bgte, v_bgte, positions_bt, segments_bt, window)
    return out_bgmte.transpose(0, 3, 1, 2, 4).reshape(b, t, h, e)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(block, q_bgmte, k_bgte, v_bgte, positions_bt, segments_bt, window):
    return _forward(block, q_bgmte, k_bgte, v_bgte, positions_bt, segments_bt, window)[0]


def _forward(block, q_bgmte, k_bgte, v_bgte, positions_bt, segments_bt, window):
    b, g, m, t, e = q_bgmte.shape
    first = _first_blocks(segments_bt, window, block)

    def query_block(i):
        q_bgmce = _cut(q_bgmte, i, block, 3)

        def key_block(j, carry):
            out_bgmce, top_bgmc, sum_bgmc = carry
            scores_bgmcs = _scores(block, i, j, q_bgmce, k_bgte, positions_bt, segments_bt, window)
            new_top_bgmc = jnp.maximum(top_bgmc, scores_bgmcs.max(-1))
            shrink_bgmc = jnp.exp(top_bgmc - new_top_bgmc)
            weights_bgmcs = jnp.exp(scores_bgmcs - new_top_bgmc[..., None])
            read = _dot("bgmcs,bgse->bgmce", weights_bgmcs.astype(v_bgte.dtype), _cut(v_bgte, j, block, 2))
            return (
                out_bgmce * shrink_bgmc[..., None] + read,
                new_top_bgmc,
                sum_bgmc * shrink_bgmc + weights_bgmcs.sum(-1),
            )

        empty = (
            jnp.zeros((b, g, m, block, e), jnp.float32),
            jnp.full((b, g, m, block), MASKED, jnp.float32),
            jnp.zeros((b, g, m, block), jnp.float32),
        )
        out_bgmce, top_bgmc, sum_bgmc = jax.lax.fori_loop(first[i], i + 1, key_block, empty)
        return (out_bgmce / sum_bgmc[..., None]).astype(v_bgte.dtype), top_bgmc + jnp.log(sum_bgmc)

    out_kbgmce, total_kbgmc = jax.lax.map(query_block, jnp.arange(t // block))
    out_bgmte = jnp.moveaxis(out_kbgmce, 0, 3).reshape(b, g, m, t, e)
    total_bgmt = jnp.moveaxis(total_kbgmc, 0, 3).reshape(b, g, m, t)
    return out_bgmte, (q_bgmte, k_bgte, v_bgte, positions_bt, segments_bt, window, out_bgmte, total_bgmt)


def _backward(block, kept, grad_bgmte):
    q_bgmte, k_bgte, v_bgte, positions_bt, segments_bt, window, out_bgmte, total_bgmt = kept
    b, g, m, t, e = q_bgmte.shape
    first = _first_blocks(segments_bt, window, block)
    # Sum over keys of weight times gradient of the weight.
    mean_bgmt = jnp.sum(out_bgmte.astype(jnp.float32) * grad_bgmte.astype(jnp.float32), axis=-1)

    def query_block(carry, i):
        q_bgmce, grad_bgmce = _cut(q_bgmte, i, block, 3), _cut(grad_bgmte, i, block, 3)
        total_bgmc, mean_bgmc = _cut(total_bgmt, i, block, 3), _cut(mean_bgmt, i, block, 3)

        def key_block(j, carry):
            dq_bgmce, dk_bgte, dv_bgte = carry
            scores_bgmcs = _scores(block, i, j, q_bgmce, k_bgte, positions_bt, segments_bt, window)
            weights_bgmcs = jnp.exp(scores_bgmcs - total_bgmc[..., None])
            dweights_bgmcs = _dot("bgmce,bgse->bgmcs", grad_bgmce, _cut(v_bgte, j, block, 2))
            dscores_bgmcs = (weights_bgmcs * (dweights_bgmcs - mean_bgmc[..., None]) * e**-0.5).astype(
                q_bgmte.dtype
            )
            dv_bgse = _dot("bgmcs,bgmce->bgse", weights_bgmcs.astype(grad_bgmce.dtype), grad_bgmce)
            dk_bgse = _dot("bgmcs,bgmce->bgse", dscores_bgmcs, q_bgmce)
            dq_bgmce += _dot("bgmcs,bgse->bgmce", dscores_bgmcs, _cut(k_bgte, j, block, 2))
            return dq_bgmce, _add(dk_bgte, dk_bgse, j, block), _add(dv_bgte, dv_bgse, j, block)

        start = (jnp.zeros((b, g, m, block, e), jnp.float32), *carry)
        dq_bgmce, *carry = jax.lax.fori_loop(first[i], i + 1, key_block, start)
        return tuple(carry), dq_bgmce.astype(q_bgmte.dtype)

    zeros = jnp.zeros((b, g, t, e), jnp.float32)
    (dk_bgte, dv_bgte), dq_kbgmce = jax.lax.scan(query_block, (zeros, zeros), jnp.arange(t // block))
    dq_bgmte = jnp.moveaxis(dq_kbgmce, 0, 3).reshape(b, g, m, t, e)
    no_gradient = [np.zeros(a.shape, jax.dtypes.float0) for a in (positions_bt, segments_bt, window)]
    return dq_bgmte, dk_bgte.astype(k_bgte.dtype), dv_bgte.astype(v_bgte.dtype), *no_gradient


_attention.defvjp(_forward, _backward)


def _first_blocks(segments_bt: jax.Array, window: jax.Array, block: int) -> jax.Array:
    """The first block of keys that a block of queries reads in any row, int32 [t // block]."""
    count = segments_bt.shape[1] // block
    # Padding comes last, reads nothing that counts, and is read by nobody.
    order_bt = jnp.where(segments_bt == 0, jnp.iinfo(jnp.int32).max, segments_bt)
    starts_bk, ends_bk = order_bt[:, ::block], order_bt[:, block - 1 :: block]
    first_k = jnp.sum(ends_bk[:, None, :] < starts_bk[:, :, None], axis=2).min(axis=0)
    blocks = jnp.arange(count)
    return jnp.maximum(jnp.minimum(first_k, blocks), (blocks * block - window + 1) // block).astype(jnp.int32)


def _scores(block, i, j, q_bgmce, k_bgte, positions_bt, segments_bt, window):
    """Scaled scores of block i of queries for block j of keys, very low where a query must not read."""
    scores_bgmcs = _dot("bgmce,bgse->bgmcs", q_bgmce, _cut(k_bgte, j, block, 2)) * q_bgmce.shape[-1] ** -0.5
    place = jnp.arange(block)
    causal_cs = (i * block + place)[:, None] >= (j * block + place)[None]
    near_bcs = (
        _cut(positions_bt, i, block, 1)[:, :, None] - _cut(positions_bt, j, block, 1)[:, None, :] < window
    )
    same_bcs = _cut(segments_bt, i, block, 1)[:, :, None] == _cut(segments_bt, j, block, 1)[:, None, :]
    return jnp.where((causal_cs & near_bcs & same_bcs)[:, None, None], scores_bgmcs, MASKED)


def _dot(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(equation, a, b, preferred_element_type=jnp.float32)


def _cut(a: jax.Array, index: jax.Array, block: int, axis: int) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(a, index * block, block, axis)


def _add(sums_bgte: jax.Array, part_bgse: jax.Array, index: jax.Array, block: int) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(
        sums_bgte, _cut(sums_bgte, index, block, 2) + part_bgse, index * block, 2
    )
