"""Attention over a prefix tree by XLA, one slot and some columns at a time, in loops: for CPUs.

What is skipped is time saved there, and a turn of a loop costs little. Pieces of which no query sees anything are not
read, nor is anything of a slot that waits, nor the buffer of a row that does; a piece stays in a core's cache between
the two products.

Shape letters: as in `models`; k counts pieces here.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from models.attention.kv_cache import COLUMNS, RING_COLUMNS, Attend, KeyValue, spans
from models.attention.online_softmax import MASKED, finished, gather, grouped
from models.attention.prefix_tree import Chunks, Masks, NewTokens, seen_by_block


class Pieces(NamedTuple):
    """Pieces of some columns that are to be read.

    Attributes:
      index_uk: int32, those of which some query sees something come first.
      count_u: int32, how many do.
    """

    index_uk: jax.Array
    count_u: jax.Array

    def of(self, u) -> "Pieces":
        """The pieces of one u."""
        return Pieces(self.index_uk[u], self.count_u[u])


@dataclasses.dataclass(frozen=True)
class TreePieces:
    """Reads the columns of one slot at a time, `piece` columns at a time, and skips pieces that no query sees."""

    piece: int = 256
    scratch_axes: ClassVar[KeyValue] = COLUMNS
    reads_near: ClassVar[bool] = True

    def masks(self, blocks: Sequence[int], path_ubs, branch_uc, depth_us, slot_u=None, busy_uc=None) -> Masks:
        """The columns that queries see; `Masks.reads` has the `Pieces` of each block that busy queries see."""
        paths, seen, depth = seen_by_block(blocks, path_ubs, branch_uc, depth_us)
        busy_ubc = branch_uc[:, None] == jnp.arange(path_ubs.shape[1])[:, None]
        if busy_uc is not None:
            busy_ubc = busy_ubc & busy_uc[:, None]
        reads = [self._pieces(path & busy_ubc.any(-1, keepdims=True)) for path in paths]
        return Masks(seen, depth, reads)

    def text_masks(self, seen_kcw, position_kw) -> Masks:
        """The places of a packed text that its tokens see."""
        return Masks([seen_kcw], [position_kw], [])

    def decode(self, masks: Masks, new: NewTokens) -> Attend:
        """Attention of one new token of the query rows that run; what the others get means nothing, but is finite.

        A slot's columns of the pool are read once for all of its rows, a buffer for the row that it belongs to.
        """
        slots_n, rows_nq = (
            jnp.argsort(~x, axis=-1, stable=True) for x in (new.running_nq.any(1), new.running_nq)
        )

        def attend(query_nqhe, key_nqge, value_nqge, cache, window):
            rings = new.written_into(cache, key_nqge, value_nqge)
            seen, near_nqt = masks.within(window, new.position_nq), new.seen(window)
            near = self._pieces(near_nqt.reshape(-1, 1, near_nqt.shape[-1]))
            leading = () if cache.layer is None else (cache.layer,)

            def of_slot(index, out_nqhe):
                slot = slots_n[index]

                def own(x_n):
                    return lax.dynamic_slice_in_dim(x_n, slot, 1, 0)

                query_1qhe = own(query_nqhe)
                query = grouped(query_1qhe, key_nqge.shape[2])

                def of_row(index, parts):
                    row = rows_nq[slot, index]
                    query_1g1me = lax.dynamic_slice_in_dim(query, row, 1, 2)
                    mine, place = near.of(slot * rows_nq.shape[1] + row), (*leading, slot, row)
                    found = self._read(
                        None, query_1g1me, rings, place, mine, near_nqt[slot, row], RING_COLUMNS
                    )
                    return tuple(lax.dynamic_update_slice_in_dim(x, y, row, 2) for x, y in zip(parts, found))

                top, total, out = _nothing_yet(query)
                parts = top, jnp.ones_like(total), out  # what rows that do not run have is divided, too
                parts = lax.fori_loop(0, new.running_nq[slot].sum(), of_row, parts)
                found = [pieces.of(slot) for pieces in masks.reads]
                parts = self._pool(parts, query, cache.read, slot, found, [own(mask) for mask in seen])
                return lax.dynamic_update_slice_in_dim(out_nqhe, finished(parts, query_1qhe), slot, 0)

            busy = new.running_nq.any(1).sum()
            return lax.fori_loop(0, busy, of_slot, jnp.zeros_like(query_nqhe)), rings

        return attend

    def prefill(self, chunk: Chunks, query_1che, cache, window) -> jax.Array:
        """Attention of one chunk's tokens to the pool and to the packed text before them, out_1che."""
        query = grouped(query_1che, cache.read[0].key.shape[-3])
        (own_1cw,) = chunk.own.within(window, chunk.position_kc)
        parts = gather(None, query, *chunk.near(cache, self.scratch_axes), own_1cw[:, None, :, None])
        seen = chunk.masks.within(window, chunk.position_kc)
        found = [pieces.of(0) for pieces in chunk.masks.reads]
        parts = self._pool(parts, query, cache.read, chunk.slot_k[0], found, seen)
        return finished(parts, query_1che)

    def regions(self, blocks: Sequence[int]) -> list[int]:
        """Ends of the regions of a pool that are read, or skipped, as a whole, and so are worth being emptied."""
        ends = {end for _, end in spans(blocks)}
        return sorted(ends | set(range(self.piece, sum(blocks), self.piece)))

    def widened(self, blocks: Sequence[int], columns: int) -> tuple[int, ...]:
        """The blocks of a pool that has so many columns more: not one block more, whose empty loops cost time."""
        return (*blocks[:-1], blocks[-1] + columns)

    def _pieces(self, seen_ucs) -> Pieces:
        """The pieces in which some mask, of queries or of branches, shows something."""
        seen_us = seen_ucs.any(1)
        whole = jnp.pad(seen_us, ((0, 0), (0, -seen_us.shape[1] % self.piece)))
        seen_uk = whole.reshape(len(seen_us), -1, self.piece).any(-1)
        index_uk = jnp.argsort(~seen_uk, axis=1, stable=True).astype(jnp.int32)
        return Pieces(index_uk, seen_uk.sum(1, dtype=jnp.int32))

    def _read(self, parts, query, source: KeyValue, place, found: Pieces, seen, axes=COLUMNS):
        """`online_softmax.gather` over pieces of some keys and values.

        Args:
          parts, query: as there, with a leading axis of 1.
          source: a block of a pool, or the rows' buffers; `place`: which of them, by the leading axes.
          found: the pieces, of one u; all columns are read if they are no more than a piece.
          seen: as there, of all columns.
          axes: `RING_COLUMNS` for the rows' buffers.
        """
        ring, columns = axes == RING_COLUMNS, seen.shape[-1]
        size = min(self.piece, columns)

        def cut(x, axis, start):
            starts, sizes = [*place, *(x.ndim - len(place)) * [0]], list(x.shape)
            starts[axis], sizes[axis] = start, size
            sizes[: len(place)] = [1] * len(place)
            return lax.dynamic_slice(x, starts, sizes).reshape(1, *sizes[len(place) :])

        if columns <= self.piece:
            return gather(parts, query, *(cut(x, axis, 0) for x, axis in zip(source, axes)), seen, ring)

        def body(index, parts):
            start = found.index_uk[index] * self.piece
            # The last piece begins earlier than it should where columns are no multiple of it.
            first = jnp.minimum(start, columns - size)
            new = first + jnp.arange(size) >= start
            now_seen = lax.dynamic_slice_in_dim(seen, first, size, -1) & new
            key, value = (cut(x, axis, first) for x, axis in zip(source, axes))
            return gather(parts, query, key, value, now_seen, ring)

        return lax.fori_loop(0, found.count_u, body, _nothing_yet(query) if parts is None else parts)

    def _pool(self, parts, query, blocks, slot, found, seen):
        """`_read` over the blocks of a pool; `found` has the pieces of each and `seen` its mask [1, c, s]."""
        for block, pieces, mask in zip(blocks, found, seen):
            parts = self._read(parts, query, block, (slot,), pieces, mask[:, None, :, None])
        return parts


def _nothing_yet(query):
    """The parts of `online_softmax.gather` before the first."""
    one = jnp.zeros((*query.shape[:-1], 1), jnp.float32)
    return one + MASKED, one, jnp.zeros(query.shape, jnp.float32)
