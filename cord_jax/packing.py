"""Segments of varying length, one behind another in a row of fixed width."""

import jax
import jax.numpy as jnp


def starts(length_rx):
    """Where each segment begins."""
    return jnp.cumsum(length_rx, axis=1) - length_rx


def places(length_rx, width: int):
    """For each place of a packed row: the segment that it lies in and its offset there, both int32 [r, w].

    Places behind the last segment get the last segment and offsets beyond its end.
    """
    end_rx = jnp.cumsum(length_rx, axis=1)
    place_w = jnp.arange(width, dtype=jnp.int32)
    segment_rw = (place_w[None, :, None] >= end_rx[:, None]).sum(-1, dtype=jnp.int32)
    segment_rw = jnp.minimum(segment_rw, length_rx.shape[1] - 1)
    return segment_rw, place_w - pick(starts(length_rx), segment_rw)


def pick(values_rx, index_rw):
    """`values[r, index[r, w]]`."""
    return jnp.take_along_axis(values_rx, index_rw, axis=1)


def pick_token(token_rxt, segment_rw, offset_rw):
    """`token[r, segment[r, w], offset[r, w]]`, the offset held inside the segment's capacity."""
    width = token_rxt.shape[2]
    flat = token_rxt.reshape(token_rxt.shape[0], -1)
    return pick(flat, segment_rw * width + jnp.clip(offset_rw, 0, width - 1))


def round_up(number: int, multiple: int) -> int:
    """The least multiple that is not below `number`."""
    return -(-number // multiple) * multiple


def in_parts(function, parts: int, *arrays):
    """Applies `function` to the leading axes' parts one after another, to bound its memory."""
    if parts == 1:
        return function(*arrays)
    split = [x.reshape(parts, x.shape[0] // parts, *x.shape[1:]) for x in arrays]
    return jax.tree.map(
        lambda x: x.reshape(-1, *x.shape[2:]), jax.lax.map(lambda xs: function(*xs), tuple(split))
    )
