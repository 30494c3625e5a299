"""Attention by XLA that reads the columns of one slot at a time, piece by piece, in loops: for CPUs.

What is left out is time saved there, and a turn of a loop costs little. Pieces of which no query sees anything are not
read, nor is anything of a slot that waits, nor the ring of a row that does; a piece stays in a core's cache between the
two products.

Shape letters: as in `models.prefix_tree`; p pieces.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from models.attention.kv_cache import COLUMNS, RING_COLUMNS, KeyValue
from models.attention.online_softmax import finished, gather, grouped
from models.attention.tree_triton import MASKED

# Columns that are read at a time.
PIECE = 256


class Pieces(NamedTuple):
    """Pieces of some columns that are to be read.

    Attributes:
      index_xp: int32, those of which some query sees something come first.
      count_x: int32, how many do.
    """

    index_xp: jax.Array
    count_x: jax.Array

    def of(self, x) -> "Pieces":
        """The pieces of one x."""
        return Pieces(self.index_xp[x], self.count_x[x])


def pieces(seen_xcs) -> Pieces:
    """The pieces in which some mask, of queries or of branches, shows something."""
    seen_xs = seen_xcs.any(1)
    whole = jnp.pad(seen_xs, ((0, 0), (0, -seen_xs.shape[1] % PIECE)))
    seen_xp = whole.reshape(len(seen_xs), -1, PIECE).any(-1)
    index_xp = jnp.argsort(~seen_xp, axis=1, stable=True).astype(jnp.int32)
    return Pieces(index_xp, seen_xp.sum(1, dtype=jnp.int32))


def nothing_yet(query):
    """The parts of `partial_attention.gather` before the first."""
    one = jnp.zeros((*query.shape[:-1], 1), jnp.float32)
    return one + MASKED, one, jnp.zeros(query.shape, jnp.float32)


def gather_pieces(parts, query, source: KeyValue, place, found: Pieces, seen, ring: bool = False):
    """`partial_attention.gather` over pieces of some keys and values.

    Args:
      parts, query: as there, with a leading axis of 1.
      source: keys and values, with `ring` those of ring buffers; `place`: which of them, by the leading axes.
      found: the pieces, of one x; all columns are read if they are no more than a piece.
      seen: as there, of all columns.
    """
    axes = RING_COLUMNS if ring else COLUMNS
    columns = seen.shape[-1]
    size = min(PIECE, columns)

    def cut(x, axis, start):
        starts, sizes = [*place, *(x.ndim - len(place)) * [0]], list(x.shape)
        starts[axis], sizes[axis] = start, size
        sizes[: len(place)] = [1] * len(place)
        return lax.dynamic_slice(x, starts, sizes).reshape(1, *sizes[len(place) :])

    if columns <= PIECE:
        return gather(parts, query, *(cut(x, axis, 0) for x, axis in zip(source, axes)), seen, ring)

    def body(index, parts):
        start = found.index_xp[index] * PIECE
        # The last piece begins earlier than it should where columns are no multiple of it.
        first = jnp.minimum(start, columns - size)
        new = first + jnp.arange(size) >= start
        now_seen = lax.dynamic_slice_in_dim(seen, first, size, -1) & new
        key, value = (cut(x, axis, first) for x, axis in zip(source, axes))
        return gather(parts, query, key, value, now_seen, ring)

    return lax.fori_loop(0, found.count_x, body, nothing_yet(query) if parts is None else parts)


def gather_pool(parts, query, blocks, slot, found, seen):
    """`gather_pieces` over the blocks of a pool; `found` has the pieces of each and `seen` its mask [1, c, s]."""
    for block, of_block, mask in zip(blocks, found, seen):
        parts = gather_pieces(parts, query, block, (slot,), of_block, mask[:, None, :, None])
    return parts


def decode_attention(query_nqhe, rings: KeyValue, layer, near_nqt, blocks, found, seen, running_nq):
    """Attention of one token of the query rows that run; what the others get means nothing, but is finite.

    A slot's columns of the pool are read once for all of its rows, a ring for the row that it belongs to.

    Args:
      rings: of all layers, if `layer` says which one is read.
      near_nqt: the ring columns that rows see; of a row that runs, one at least.
      blocks: of the pool, `KeyValue`s; for each `found` has its `Pieces` and `seen` its mask [n, q, s].
      running_nq: bool.

    Returns: out_nqhe.
    """
    num_rows, ring = near_nqt.shape[1:]
    num_kv_heads = rings.key.shape[-3]
    near = pieces(near_nqt.reshape(-1, 1, ring))
    busy_n = running_nq.any(1)
    slots_n, rows_nq = (jnp.argsort(~x, axis=-1, stable=True) for x in (busy_n, running_nq))
    leading = () if layer is None else (layer,)

    def of_slot(index, out_nqhe):
        slot = slots_n[index]

        def own(x_n):
            return lax.dynamic_slice_in_dim(x_n, slot, 1, 0)

        query_1qhe = own(query_nqhe)
        query = grouped(query_1qhe, num_kv_heads)

        def of_row(index, parts):
            row = rows_nq[slot, index]
            query_1g1me = lax.dynamic_slice_in_dim(query, row, 1, 2)
            seen_ring = near_nqt[slot, row]
            mine = near.of(slot * num_rows + row)
            new = gather_pieces(None, query_1g1me, rings, (*leading, slot, row), mine, seen_ring, ring=True)
            return tuple(lax.dynamic_update_slice_in_dim(x, y, row, 2) for x, y in zip(parts, new))

        top, total, out = nothing_yet(query)
        parts = top, jnp.ones_like(total), out  # what rows that do not run have is divided, too
        parts = lax.fori_loop(0, running_nq[slot].sum(), of_row, parts)
        own_found, own_seen = [x.of(slot) for x in found], [own(mask) for mask in seen]
        parts = gather_pool(parts, query, blocks, slot, own_found, own_seen)
        return lax.dynamic_update_slice_in_dim(out_nqhe, finished(parts, query_1qhe), slot, 0)

    return lax.fori_loop(0, busy_n.sum(), of_slot, jnp.zeros_like(query_nqhe))
