"""A tree of texts in a KV cache, and the queries that attention to it gets.

Many continuations of one text share most of their past. Each slot therefore owns ONE pool of keys and values
(`models.attention.kv_cache`), and a branch of its tree is a boolean mask over the pool's columns, its *path*. Selecting
branches copies nothing; a column is read once for all branches that share it. Two kinds of queries meet the pool:

* Decoding: one new token for every query row of every slot. The keys of the tokens that a row has written since its
  branch point lie in a ring buffer of the row, whose current column is the same for all rows.
* Prefill (`models.prefill`): texts that continue branches of many slots, packed one after another and run in chunks; a
  chunk has tokens of one slot only. Their keys go to a scratch cache; `kv_cache.commit` then moves the columns that are
  to stay into the pool.

`TreeAttention` is what computes attention for both; `models.attention.choice` says which one runs where.

Shape letters: as in `models`.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import lax

from models.attention.kv_cache import (
    RING_COLUMNS,
    Attend,
    KeyValue,
    LayerCache,
    layer_part,
    spans,
    write_part,
)
from models.pytree import pytree


@pytree
class PrefixTree:
    """The branches of some rows in a pool.

    Attributes:
      pool: keys and values of all slots (`models.attention.kv_cache`).
      slot_r: int32, the slot of each row.
      path_rbs: bool, the columns of each branch of a row.
      depth_rs: int32, depth of the token in each column, for rope and sliding windows.
    """

    pool: Any
    slot_r: jax.Array
    path_rbs: jax.Array
    depth_rs: jax.Array


@pytree(static=["reach"])
class Packed:
    """Texts that continue branches of several rows, one after another; all int32. A row begins with a chunk of its own.

    A segment is a text that continues a branch, and any number of alternatives that continue it in turn and do not see
    each other. Segments do not see each other either.

    Attributes:
      token_w: token ids; what lies beyond a segment's end is padding.
      position_w: depth of each token in its branch, for rope and sliding windows.
      branch_w: which of the row's paths the token continues.
      segment_w: number of the token's segment, -1 for padding.
      alternative_w: 0 for the text of a segment; the alternatives 1, 2, ... see it and themselves only.
      row_k: the row that each chunk belongs to.
      chunks: how many are to be run.
      reach: most places from a segment's first token to its last.
    """

    token_w: jax.Array
    position_w: jax.Array
    branch_w: jax.Array
    segment_w: jax.Array
    alternative_w: jax.Array
    row_k: jax.Array
    chunks: jax.Array
    reach: int


@pytree
class Masks:
    """Masks of queries over the columns of some blocks; a list has an entry a block.

    Attributes:
      seen: bool [u, c, s].
      depth: depth of the token in each column, int32 [u, s].
      reads: the columns that are read at all, in the form that the `TreeAttention` needs that made the masks.
    """

    seen: list[jax.Array]
    depth: list[jax.Array]
    reads: list[Any]

    def within(self, window, position_uc) -> list[jax.Array]:
        """`seen`, of that what lies in the window of queries at these depths; all of it if the window is None."""
        if window is None:
            return self.seen
        return [
            mask & (position_uc[..., None] - depth[:, None] < window)
            for mask, depth in zip(self.seen, self.depth)
        ]


@pytree
class NewTokens:
    """One new token of every query row.

    Attributes:
      column: the ring column that it is written to, int32 scalar.
      position_nq: its depth.
      written_nqt: bool, the ring columns that a row sees, this token's included.
      depth_nqt: depth of the token in each ring column.
      running_nq: bool, rows whose attention matters.
    """

    column: jax.Array
    position_nq: jax.Array
    written_nqt: jax.Array
    depth_nqt: jax.Array
    running_nq: jax.Array

    def seen(self, window) -> jax.Array:
        """The ring columns that each row sees in a window (None: of any length), bool [n, q, t]."""
        if window is None:
            return self.written_nqt
        return self.written_nqt & (self.position_nq[..., None] - self.depth_nqt < window)

    def written_into(self, cache: LayerCache, key_nqge, value_nqge) -> KeyValue:
        """The rings [n, q, g, t, e] of a layer, or of a stack of them, with the new keys and values."""
        new = KeyValue(key_nqge[:, :, :, None], value_nqge[:, :, :, None])
        return jax.tree.map(
            lambda x, new, axis: write_part(x, new, self.column, axis, cache.layer),
            cache.written,
            new,
            RING_COLUMNS,
        )


@pytree
class Chunks:
    """Some chunks of a packed text; each reads a part of it, w columns from `first_k` on, and columns of a pool.

    Attributes:
      slot_k: whose columns they read; position_kc: depth of their tokens.
      masks: what they see of the pool; a u is a chunk.
      first_k: int32, where the part begins that they read of the text.
      own: what they see of that part.
    """

    slot_k: jax.Array
    position_kc: jax.Array
    masks: Masks
    first_k: jax.Array
    own: Masks

    def one(self, k) -> "Chunks":
        """Chunk k alone."""
        return jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, k, 1), self)

    def near(self, cache: LayerCache, axes: KeyValue) -> KeyValue:
        """Keys and values of the part of the text that the first chunk reads."""
        return layer_part(cache.written, self.first_k[0], self.own.seen[0].shape[-1], axes, cache.layer)


class TreeAttention(Protocol):
    """Softmax attention to a pool and to what has been written since. Hashable: it is static under `jax.jit`.

    Attributes:
      scratch_axes: the axes of columns of the scratch caches that it reads (`kv_cache.Scratch`).
      reads_near: whether a chunk reads the part of a packed text that a segment can reach, else all of it.
    """

    scratch_axes: KeyValue
    reads_near: bool

    def masks(self, blocks: Sequence[int], path_ubs, branch_uc, depth_us, slot_u, busy_uc=None) -> Masks:
        """Masks of queries that see the columns of their branches.

        Args:
          blocks: columns of each block of the pool.
          path_ubs: bool, the columns of each branch; branch_uc: the branch of each query; depth_us: of all columns.
          slot_u: int32, the slots whose columns the queries read.
          busy_uc: queries whose attention matters, bool; None for all.
        """

    def text_masks(self, seen_kcw, position_kw) -> Masks:
        """Masks of packed tokens over the part of their text that they read."""

    def decode(self, masks: Masks, new: NewTokens) -> Attend:
        """The attention of `Decoder.run_layers` for one new token of every query row, [n, q, h, e].

        It reads a pool, in which a u of the masks is a slot, and writes rings [n, q, g, t, e].
        """

    def prefill(self, chunk: Chunks, query_1che, cache: LayerCache, window) -> jax.Array:
        """The output of one chunk, out_1che; its own keys are in the scratch, `cache.written`, already."""

    def regions(self, blocks: Sequence[int]) -> list[int]:
        """Ends of the regions of a pool that are read, or skipped, as a whole, and so are worth being emptied."""

    def widened(self, blocks: Sequence[int], columns: int) -> tuple[int, ...]:
        """The blocks of a pool that has so many columns more."""


def seen_by_block(blocks: Sequence[int], path_ubs, branch_uc, depth_us) -> tuple[list, list, list]:
    """The columns of each branch, those that each query sees, and their depths, block by block."""
    paths = [path_ubs[:, :, start:end] for start, end in spans(blocks)]
    seen = [jnp.take_along_axis(path, branch_uc[..., None], axis=1) for path in paths]
    return paths, seen, [depth_us[:, start:end] for start, end in spans(blocks)]
