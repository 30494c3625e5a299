"""Reading and writing a few slots of arrays that lead with slots.

A scatter runs one row at a time on a CPU, and copies what it writes into. Small arrays are replaced by a gather and a
select instead; large ones are written in place, slice by slice.
"""

import jax
import jax.numpy as jnp
from jax import lax

from cord_jax.search.jax_tools import axes, pytree
from models.attention.kv_cache import as_stored

# The axis of slots in a pool's keys and values, counted from the end.
SLOTS = -4


@pytree
class SubBatch:
    """A few of a shard's slots; rows r.

    Attributes:
      slot_r: int32, distinct slots.
      valid_r: bool, rows that count. What the others hold has no meaning, and is never written.
    """

    slot_r: jax.Array = axes("row")
    valid_r: jax.Array = axes("row")

    def take(self, x_n):
        """The rows' part of an array."""
        return x_n[self.slot_r]

    def put(self, x_n, new_r):
        """The array with the rows' part replaced."""
        hit_nr = (jnp.arange(x_n.shape[0])[:, None] == self.slot_r) & self.valid_r
        given_n = jnp.expand_dims(hit_nr.any(1), range(1, x_n.ndim))
        return jnp.where(given_n, new_r[hit_nr.argmax(1)], x_n)

    def among(self, chosen_r) -> "SubBatch":
        """The same rows, of which only the chosen ones count."""
        return SubBatch(self.slot_r, self.valid_r & chosen_r)


def choose(priority_n, rows: int):
    """The `rows` slots of highest priority, earlier ones first on ties, int32."""
    return jnp.argsort(-priority_n, stable=True)[:rows].astype(jnp.int32)


def take_one(x_n, slot, layer=None):
    """One slot of an array, or of one layer of a stack [l, n, ...]."""
    return x_n[slot] if layer is None else lax.dynamic_index_in_dim(x_n, layer, keepdims=False)[slot]


def put_one(x_n, slot, new, layer=None):
    """The counterpart of `take_one`, in place."""
    place = [slot] if layer is None else [layer, slot]
    new = new.reshape([1] * len(place) + list(new.shape))
    return lax.dynamic_update_slice(x_n, new, place + [0] * (x_n.ndim - len(place)))


def write_columns(x_n, slot, start, count, new, axis: int):
    """Writes the first `count` of new columns into a slot of a pool's block, keys or values, of one layer or a stack.

    The first goes to the column `start`; what comes to lie outside of the block is left out.

    Args:
      new: as `x_n`, with one slot.
      axis: that of columns, -1 or -2.
    """
    chunk, columns = new.shape[axis], x_n.shape[axis]
    window = min(chunk, columns)
    # A window of the block, at or as near as may be to where the chunk goes.
    first = jnp.clip(start, 0, columns - window)
    place, shape = [0] * x_n.ndim, list(new.shape)
    place[SLOTS], place[axis], shape[axis] = slot, first, window
    old = lax.dynamic_slice(x_n, place, shape)
    offset_c = jnp.arange(window) + first - start
    moved = as_stored(jnp.take(new, jnp.clip(offset_c, 0, chunk - 1), axis=axis))
    is_new_c = (offset_c >= 0) & (offset_c < count)
    return lax.dynamic_update_slice(x_n, jnp.where(_along(is_new_c, axis), moved, old), place)


def _along(mask, axis: int):
    """A mask of columns, to be broadcast against keys or values, whose columns lie on `axis`, counted from the end."""
    return mask.reshape([-1] + [1] * (-1 - axis))
