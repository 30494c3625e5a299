"""Attention of training: causal, inside the segments of packed rows."""

from collections.abc import Callable

import jax

from models.attention import causal_mask, dense_attention
from models.decoder import Attend

# (positions_bt, segments_bt) -> the `attend` of `Decoder.run_layers`.
Attention = Callable[[jax.Array, jax.Array], Attend]


def dense(positions_bt: jax.Array, segments_bt: jax.Array) -> Attend:
    """All scores of a window at once: memory grows with the square of its length."""

    def attend(q_bthe, k_bsge, v_bsge, cache, window):
        mask_bts = causal_mask(positions_bt, segments_bt, window)
        return dense_attention(q_bthe, k_bsge, v_bsge, mask_bts), cache

    return attend


def choose_attention(mesh: jax.sharding.Mesh, length: int) -> Attention:
    """The attention for windows of `length` tokens on the devices of `mesh`."""
    return dense
