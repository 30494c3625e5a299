"""Attention over a prefix tree by the kernel of `triton_kernel`: for GPUs.

Shape letters: as in `models`.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp

from models.attention import triton_kernel
from models.attention.kv_cache import RING_COLUMNS, Attend, KeyValue, layer_part, spans
from models.attention.prefix_tree import Chunks, Masks, NewTokens, seen_by_block
from models.attention.triton_kernel import Source


@dataclasses.dataclass(frozen=True)
class TreeTriton:
    """Reads tiles of columns of which some query sees something, in one kernel; for keys of 16 bits.

    Attributes:
      interpret: runs the kernel without a GPU, very slowly.
    """

    interpret: bool = False
    scratch_axes: ClassVar[KeyValue] = RING_COLUMNS  # keys are written faster in this way
    reads_near: ClassVar[bool] = False  # tiles that nobody sees are skipped

    def masks(self, blocks: Sequence[int], path_ubs, branch_uc, depth_us, slot_u=None, busy_uc=None) -> Masks:
        """The columns that queries see; `Masks.reads` has the `TileMask` of each block."""
        _, seen, depth = seen_by_block(blocks, path_ubs, branch_uc, depth_us)
        return Masks(seen, depth, [triton_kernel.tile_mask(mask, slot_u) for mask in seen])

    def text_masks(self, seen_kcw, position_kw) -> Masks:
        """The places of a packed text that its tokens see."""
        first_k = jnp.zeros(len(seen_kcw), jnp.int32)
        return Masks([seen_kcw], [position_kw], [triton_kernel.tile_mask(seen_kcw, first_k)])

    def decode(self, masks: Masks, new: NewTokens) -> Attend:
        """Attention of one new token of every query row to the pool and to the row's own buffer."""
        num_slots, num_rows = new.position_nq.shape
        # To a slot's queries its buffers are one text, of which each sees the part that is its own.
        own_qq1 = jnp.eye(num_rows, dtype=bool)[..., None]
        own = triton_kernel.tile_mask(new.written_nqt[:, None] & own_qq1, num_rows * jnp.arange(num_slots))

        def attend(query_nqhe, key_nqge, value_nqge, cache, window):
            rings = new.written_into(cache, key_nqge, value_nqge)
            local = layer_part(rings, 0, None, RING_COLUMNS, cache.layer)
            near = own if window is None else own.of(new.seen(window)[:, None] & own_qq1)
            flat = [x.reshape(num_slots * num_rows, *x.shape[2:]) for x in local]
            pool = _sources(masks, cache.read, window, new.position_nq)
            sources = [Source(*flat, near, columns_first=True), *pool]
            return triton_kernel.attend(query_nqhe, sources, self.interpret), rings

        return attend

    def prefill(self, chunk: Chunks, query_1che, cache, window) -> jax.Array:
        """Attention of one chunk's tokens to the pool and to the packed text before them, out_1che."""
        near = chunk.near(cache, self.scratch_axes)
        (own,) = _sources(chunk.own, [near], window, chunk.position_kc)
        pool = _sources(chunk.masks, cache.read, window, chunk.position_kc)
        return triton_kernel.attend(query_1che, [own._replace(columns_first=True), *pool], self.interpret)

    def regions(self, blocks: Sequence[int]) -> list[int]:
        """Ends of the regions of a pool that are read, or skipped, as a whole, and so are worth being emptied."""
        return [end for _, end in spans(blocks)]

    def widened(self, blocks: Sequence[int], columns: int) -> tuple[int, ...]:
        """The blocks of a pool that has so many columns more."""
        return (*blocks, columns)


def _sources(masks: Masks, blocks, window, position_uc) -> list[Source]:
    """Keys and values for the kernel, with what lies in the window of queries at `position_uc`."""
    tiles = masks.reads
    if window is not None:
        tiles = [tile.of(seen) for tile, seen in zip(tiles, masks.within(window, position_uc))]
    return [Source(*block, tile) for block, tile in zip(blocks, tiles)]
