"""Reading and writing a few slots of arrays that lead with slots.

A scatter runs one row at a time on a CPU, and copies what it writes into. Small arrays are replaced by a gather and a
select instead; large ones are written in place, slice by slice.
"""

import jax.numpy as jnp
from jax import lax


def take(x_n, slot_r):
    """The given slots."""
    return x_n[slot_r]


def choose(priority_n, rows: int):
    """The `rows` slots of highest priority, earlier ones first on ties, int32."""
    return jnp.argsort(-priority_n, stable=True)[:rows].astype(jnp.int32)


def put(x_n, slot_r, valid_r, new_r):
    """`x_n` with the valid ones of the given slots replaced."""
    hit_nr = (jnp.arange(x_n.shape[0])[:, None] == slot_r) & valid_r
    given_n = jnp.expand_dims(hit_nr.any(1), range(1, x_n.ndim))
    return jnp.where(given_n, new_r[hit_nr.argmax(1)], x_n)


def put_one(x_n, slot, new):
    """`x_n` with one slot replaced in place."""
    return lax.dynamic_update_slice_in_dim(x_n, new[None], slot, 0)


def write_columns(x_n, slot_r, start_r, count_r, new_r, axis: int):
    """Writes the first `count` of each row's new columns into its slot of a pool's block, keys or values.

    The first goes to the column `start`; what comes to lie outside of the block is left out.

    Args:
      axis: that of columns, of the four of `x_n` and of `new_r`.
    """
    chunk, columns = new_r.shape[axis], x_n.shape[axis]
    padding = [(0, 0)] * 3
    padding[axis - 1] = (chunk, chunk)
    offset = jnp.arange(chunk)
    for row in range(slot_r.shape[0]):
        # A window of the block of the chunk's size, at or as near as may be to where it goes.
        first = jnp.clip(start_r[row], 0, columns - chunk)
        shift = first - start_r[row]
        place = [slot_r[row], 0, 0, 0]
        place[axis] = first
        old = lax.dynamic_slice(x_n, place, (1, *new_r.shape[1:]))
        moved = lax.dynamic_slice_in_dim(jnp.pad(new_r[row], padding), chunk + shift, chunk, axis - 1)
        is_new = (offset + shift >= 0) & (offset + shift < count_r[row])
        x_n = lax.dynamic_update_slice(x_n, jnp.where(_along(is_new, axis), moved, old), place)
    return x_n


def select_columns(x_n, slot_r, start_r, count_r, new_r, axis: int):
    """As `write_columns`, for blocks whose columns lie over several devices.

    Every device picks what falls on its own columns. A slice written at a place that is not known would bring the
    whole block to every device.
    """
    column_s = jnp.arange(x_n.shape[axis])
    for row in range(slot_r.shape[0]):
        offset_s = column_s - start_r[row]
        old = lax.dynamic_slice_in_dim(x_n, slot_r[row], 1, 0)
        moved = jnp.take(new_r[row], jnp.clip(offset_s, 0, new_r.shape[axis] - 1), axis=axis - 1)
        is_new_s = (offset_s >= 0) & (offset_s < count_r[row])
        x_n = lax.dynamic_update_slice_in_dim(x_n, jnp.where(_along(is_new_s, axis), moved, old), slot_r[row], 0)
    return x_n


def _along(mask, axis: int):
    """A mask of columns, to be broadcast against keys or values, whose columns lie on `axis` of four."""
    return mask.reshape([-1 if i == axis else 1 for i in range(4)])
