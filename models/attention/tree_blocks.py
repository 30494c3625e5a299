"""Attention over a prefix tree by XLA, block after block: for TPUs, and wherever a pool lies over several devices.

Shape letters: as in `models`.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import ClassVar

import jax
from jax import lax

from models.attention.kv_cache import COLUMNS, RING_COLUMNS, Attend, KeyValue, layer_part, spans
from models.attention.online_softmax import by_row, finished, gather, grouped, of_rows
from models.attention.prefix_tree import Chunks, Masks, NewTokens, seen_by_block


@dataclasses.dataclass(frozen=True)
class TreeBlocks:
    """Reads all columns of a block for all queries at once, and skips a block of which no query sees anything."""

    scratch_axes: ClassVar[KeyValue] = COLUMNS
    reads_near: ClassVar[bool] = True

    def masks(self, blocks: Sequence[int], path_ubs, branch_uc, depth_us, slot_u=None, busy_uc=None) -> Masks:
        """The columns that queries see; `Masks.reads` says of each block whether any branch has a column there."""
        paths, seen, depth = seen_by_block(blocks, path_ubs, branch_uc, depth_us)
        return Masks(seen, depth, [path.any((1, 2)) for path in paths])

    def text_masks(self, seen_kcw, position_kw) -> Masks:
        """The places of a packed text that its tokens see."""
        return Masks([seen_kcw], [position_kw], [])

    def decode(self, masks: Masks, new: NewTokens) -> Attend:
        """Attention of one new token of every query row to the pool and to the row's own buffer."""

        def attend(query_nqhe, key_nqge, value_nqge, cache, window):
            rings = new.written_into(cache, key_nqge, value_nqge)
            local = layer_part(rings, 0, None, RING_COLUMNS, cache.layer)
            query = grouped(query_nqhe, key_nqge.shape[2])
            near_nqt = new.seen(window)
            ring = gather(None, by_row(query), *local, near_nqt[:, :, None, None, None], ring=True)
            parts = _pool(of_rows(ring), query, cache.read, masks, masks.within(window, new.position_nq))
            return finished(parts, query_nqhe), rings

        return attend

    def prefill(self, chunk: Chunks, query_1che, cache, window) -> jax.Array:
        """Attention of one chunk's tokens to the pool and to the packed text before them, out_1che."""
        query = grouped(query_1che, cache.read[0].key.shape[-3])
        (own_1cw,) = chunk.own.within(window, chunk.position_kc)
        parts = gather(None, query, *chunk.near(cache, self.scratch_axes), own_1cw[:, None, :, None])
        seen = chunk.masks.within(window, chunk.position_kc)
        parts = _pool(parts, query, cache.read, chunk.masks, seen, chunk.slot_k[0])
        return finished(parts, query_1che)

    def regions(self, blocks: Sequence[int]) -> list[int]:
        """Ends of the regions of a pool that are read, or skipped, as a whole, and so are worth being emptied."""
        return [end for _, end in spans(blocks)]

    def widened(self, blocks: Sequence[int], columns: int) -> tuple[int, ...]:
        """The blocks of a pool that has so many columns more."""
        return (*blocks, columns)


def _pool(parts, query, blocks, masks: Masks, seen, slot=None):
    """`online_softmax.gather` over the blocks of a pool: of one slot, which a single u reads, or of each u's own."""

    def read(block, mask, parts):
        if slot is not None:
            block = [lax.dynamic_slice_in_dim(x, slot, 1) for x in block]
        return gather(parts, query, *block, mask[:, None, :, None])

    parts = read(blocks[0], seen[0], parts)
    for block, needed, mask in zip(blocks[1:], masks.reads[1:], seen[1:]):
        of_block = functools.partial(read, block, mask)
        parts = lax.cond(needed.any(), of_block, lambda parts: parts, parts)
    return parts
