"""Attention over a prefix tree of keys and values.

Many continuations of one text share most of their past. Each slot therefore owns ONE pool of keys and values
(`models.kv_cache`), and a branch of its tree is a boolean mask over the pool's columns, its *path*. Selecting
branches copies nothing; a column is read once for all branches that share it. Two kinds of queries meet the pool:

* `decode_attention`: one new token for every query row of every slot. The keys of the tokens that a row has
  written since its branch point lie in a small row-local ring buffer, whose current column is the same for all
  rows.
* `extend`: forks of many slots, packed one after another and run in chunks; a chunk has tokens of one slot only.
  Their keys go to a scratch cache; `kv_cache.commit` then moves the columns that are to stay into the pool.

Blocks of a pool of which no query sees anything are not read. On a CPU `models.piecewise_attention` leaves out finer
pieces, and on a GPU the kernel of `models.flash_attention`.

Shape letters: n slots, b branches, q query rows of a slot, r rows of a sub-batch, c chunk of tokens, k chunks, s pool
columns, w places of a packed text, t columns of a row's ring buffer, g key-value heads, m query heads of one key-value
head, e head width, d model width, x a leading axis of any meaning.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from models import flash_attention, piecewise_attention
from models.flash_attention import Sight, Source
from models.kv_cache import (
    COLUMNS,
    RING_COLUMNS,
    KeyValue,
    block_columns,
    empty_cache,
    empty_rings,
    read_part,
    spans,
    write_part,
)
from models.partial_attention import by_row, finished, gather, grouped, of_rows

# How queries read a pool: by XLA, block after block, or piece after piece in loops, or by the kernel for GPUs.
ATTENTION = ("blocks", "pieces", "flash")


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["token_w", "position_w", "branch_w", "fork_w", "form_w", "row_k", "chunks"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class Packed:
    """Tokens of forks of several rows, one fork after another; all int32. A row begins with a chunk of its own.

    Attributes:
      token_w: token ids; what lies beyond a fork's end is padding.
      position_w: depth of each token in its branch, for rope and sliding windows.
      branch_w: which of the row's paths the token continues.
      fork_w: tokens of different forks do not see each other.
      form_w: 0 for the trunk of a fork; the twigs 1, 2, ... of a fork see its trunk and themselves only.
      row_k: the row that each chunk belongs to.
      chunks: how many are to be run.
    """

    token_w: jax.Array
    position_w: jax.Array
    branch_w: jax.Array
    fork_w: jax.Array
    form_w: jax.Array
    row_k: jax.Array
    chunks: jax.Array


def _within(window, position, depth):
    """Whether keys at `depth` [x, s] lie inside the window of queries at `position` [x, c]."""
    return position[..., None] - depth[:, None] < window


@dataclasses.dataclass(frozen=True)
class View:
    """What queries see of a pool; a list has an entry a block.

    Attributes:
      attention: how the pool is read, one of `ATTENTION`.
      seen: bool [x, c, s].
      depth: depth of the token in each column, int32 [x, s].
      guides: what tells which columns are read: of "blocks" whether any query sees anything, a bool scalar; of "pieces"
        and "flash" `piecewise_attention.Pieces` and `flash_attention.Sight`.
    """

    attention: str
    seen: list[jax.Array]
    depth: list[jax.Array]
    guides: list

    def within(self, window, position) -> list[jax.Array]:
        """`seen`, of that what lies in the window of queries at `position` [x, c]; all of it if that is None."""
        if window is None:
            return self.seen
        return [mask & _within(window, position, depth) for mask, depth in zip(self.seen, self.depth)]

    def sources(self, blocks, window, position) -> list[Source]:
        """The blocks of a pool for `flash_attention`, with what `within` says."""
        sights = self.guides
        if window is not None:
            sights = [sight.of(seen) for sight, seen in zip(sights, self.within(window, position))]
        return [Source(*block, sight) for block, sight in zip(blocks, sights)]

    def gather(self, parts, query, blocks, window, position, slot=None):
        """`partial_attention.gather` over the pool.

        Args:
          blocks: `KeyValue`s of all slots.
          slot: the one whose columns the queries, with a single x, read; None where each x reads its own.
        """
        seen = self.within(window, position)
        if self.attention == "pieces":
            found = [guide.of(0) for guide in self.guides]
            return piecewise_attention.gather_pool(parts, query, blocks, slot, found, seen)

        def read(block, mask, parts):
            if slot is not None:
                block = [lax.dynamic_slice_in_dim(x, slot, 1) for x in block]
            return gather(parts, query, *block, mask[:, None, :, None])

        parts = read(blocks[0], seen[0], parts)
        for block, needed, mask in zip(blocks[1:], self.guides[1:], seen[1:]):
            of_block = functools.partial(read, block, mask)
            parts = lax.cond(needed, of_block, lambda parts: parts, parts)
        return parts


def view_of(
    attention: str, blocks: Sequence[int], path_xbs, branch_xc, depth_xs, slot_x, busy_xc=None
) -> View:
    """The view of queries that see the columns of their branches.

    Args:
      attention: one of `ATTENTION`.
      blocks: columns of each block.
      path_xbs: the columns of each branch; branch_xc: the branch of each query; depth_xs: as in `View`, whole.
      slot_x: the slots whose columns the queries read, int32.
      busy_xc: queries whose attention matters, bool; None for all.
    """
    paths = [path_xbs[:, :, start:end] for start, end in spans(blocks)]
    seen = [jnp.take_along_axis(path, branch_xc[..., None], axis=1) for path in paths]
    match attention:
        case "blocks":
            guides = [path.any() for path in paths]
        case "pieces":
            busy = True if busy_xc is None else busy_xc[..., None]
            guides = [piecewise_attention.pieces(mask & busy) for mask in seen]
        case "flash":
            guides = [flash_attention.sight(mask, slot_x) for mask in seen]
        case _:
            raise ValueError(f"attention must be one of {', '.join(ATTENTION)}, found {attention!r}")
    return View(attention, seen, [depth_xs[:, start:end] for start, end in spans(blocks)], guides)


def decode_attention(view: View, column, position_nq, written_nqt, local_position_nqt, busy_n):
    """The `attend` of one decoded token for every query row.

    Args:
      view: what the rows see of the pool.
      column: ring-buffer column that this token writes, int32 scalar.
      position_nq: depth of the new token.
      written_nqt: ring-buffer columns that a row sees, this token's included.
      local_position_nqt: depth of the token in each ring-buffer column.
      busy_n: bool, slots whose rows' attention matters.

    Returns:
      A function for `Decoder.run_layers` that reads a pool and writes ring buffers [n, q, g, t, e].
    """

    num_slots, num_rows = position_nq.shape
    # To a slot's queries its rings are one text, of which each sees the part that is its own.
    own_qq1 = jnp.eye(num_rows, dtype=bool)[..., None]
    if view.attention == "flash":
        own_sight = flash_attention.sight(written_nqt[:, None] & own_qq1, num_rows * jnp.arange(num_slots))

    def attend(query_nqhe, key_nqge, value_nqge, cache, window):
        blocks, rings, layer = cache
        new = KeyValue(key_nqge[:, :, :, None], value_nqge[:, :, :, None])
        rings = jax.tree.map(lambda x, new: write_part(x, new, column, -2, layer), rings, new)
        near_nqt = written_nqt
        if window is not None:
            near_nqt = written_nqt & (position_nq[..., None] - local_position_nqt < window)
        if view.attention == "pieces":
            seen = view.within(window, position_nq)
            out_nqhe = piecewise_attention.decode_attention(
                query_nqhe, rings, layer, near_nqt, blocks, view.guides, seen, busy_n
            )
            return out_nqhe, rings
        local = jax.tree.map(lambda x: read_part(x, 0, x.shape[-2], -2, layer), rings)
        if view.attention == "flash":
            near = own_sight if window is None else own_sight.of(near_nqt[:, None] & own_qq1)
            flat = [x.reshape(num_slots * num_rows, *x.shape[2:]) for x in local]
            sources = [Source(*flat, near, columns_first=True), *view.sources(blocks, window, position_nq)]
            return flash_attention.attend(query_nqhe, sources), rings
        query = grouped(query_nqhe, key_nqge.shape[2])
        ring = gather(None, by_row(query), *local, near_nqt[:, :, None, None, None], ring=True)
        parts = view.gather(of_rows(ring), query, blocks, window, position_nq)
        return finished(parts, query_nqhe), rings

    return attend


def extend(
    model, pool, slot_r, path_rbs, depth_rs, packed: Packed, *, chunk: int, reach: int, attention: str
):
    """Runs packed forks of prefix trees through the decoder, `chunk` tokens at a time.

    Cost follows the number of tokens and not the capacity w.

    Args:
      model: the decoder.
      pool: it is only read.
      slot_r: the slot of each row.
      path_rbs: the columns of each branch of a row.
      depth_rs: depth of the token in each column.
      packed: the tokens; w must be a multiple of `chunk`.
      reach: most places from a fork's first token to its last; attention reads only so much of the scratch.
      attention: one of `ATTENTION`.

    Returns:
      The scratch cache, one row of w columns, with the keys and values of all tokens, and the final hidden states
      [w, d]. What lies beyond the ends of forks is undefined. With "flash" its keys are those of ring buffers.
    """
    width = packed.token_w.shape[0]
    if width % chunk:
        raise ValueError(f"the packed width {width} is not a multiple of the chunk of {chunk} tokens")
    columns = block_columns(model.is_stacked, pool)
    dtype = jax.tree.leaves(pool)[0].dtype
    flash = attention == "flash"
    if flash:  # whose keys are written faster in this way
        scratch = empty_rings(model.config, model.is_stacked, (1,), width, dtype)
    else:
        scratch = empty_cache(model.config, model.is_stacked, 1, width, dtype)
    hidden_wd = jnp.zeros((width, model.config.hidden_size), dtype)
    span = width if flash else min(width, chunk + reach)

    def run_chunk(index, carry):
        scratch, hidden_wd = carry
        start = index * chunk
        near = jnp.clip(start + chunk - span, 0, width - span)
        cut = functools.partial(lax.dynamic_slice_in_dim, start_index=start, slice_size=chunk)
        around = functools.partial(lax.dynamic_slice_in_dim, start_index=near, slice_size=span)
        form_c, form_w = cut(packed.form_w), around(packed.form_w)
        own_cw = (
            ((near + jnp.arange(span)) <= (start + jnp.arange(chunk))[:, None])
            & (around(packed.fork_w) == cut(packed.fork_w)[:, None])
            & ((form_w == 0) | (form_w == form_c[:, None]))
        )
        row, position_1c = packed.row_k[index], cut(packed.position_w)[None]
        branch_1c = cut(packed.branch_w)[None]
        slot_1 = slot_r[row][None]
        view = view_of(attention, columns, path_rbs[row][None], branch_1c, depth_rs[row][None], slot_1)
        sight = flash_attention.sight(own_cw[None], jnp.zeros(1, jnp.int32)) if flash else None
        own = _Scratch(start, near, span, own_cw[None], around(packed.position_w)[None], sight)
        attend = _fork_attention(view, slot_r[row], position_1c, own)
        x_1cd = model.embed_tokens(cut(packed.token_w)[None])
        x_1cd, scratch = model.run_layers(x_1cd, position_1c, attend, pool, scratch)
        return scratch, lax.dynamic_update_slice_in_dim(hidden_wd, x_1cd[0].astype(dtype), start, 0)

    return lax.fori_loop(0, packed.chunks, run_chunk, (scratch, hidden_wd))


@dataclasses.dataclass(frozen=True)
class _Scratch:
    """The scratch as a chunk meets it: written from `start` on, read from `near` on, `span` columns.

    `seen_1cw`, `position_1w` and `sight` are of the columns that are read.
    """

    start: jax.Array
    near: jax.Array
    span: int
    seen_1cw: jax.Array
    position_1w: jax.Array
    sight: Sight | None


def _fork_attention(view: View, slot, position_1c, own: _Scratch):
    """The `attend` of one chunk of packed forks, which reads a pool and writes the scratch."""

    def attend(query_1che, key_1cge, value_1cge, cache, window):
        blocks, scratch, layer = cache
        flash = view.attention == "flash"
        axes = RING_COLUMNS if flash else COLUMNS
        new = KeyValue(
            key_1cge.transpose(0, 2, 1, 3) if flash else key_1cge.transpose(0, 2, 3, 1),
            value_1cge.swapaxes(1, 2),
        )
        scratch = jax.tree.map(
            lambda x, new, axis: write_part(x, new, own.start, axis, layer), scratch, new, axes
        )
        near = jax.tree.map(lambda x, axis: read_part(x, own.near, own.span, axis, layer), scratch, axes)
        seen_1cw = own.seen_1cw
        if window is not None:
            seen_1cw = seen_1cw & _within(window, position_1c, own.position_1w)
        if flash:
            sight = own.sight if window is None else own.sight.of(seen_1cw)
            sources = [Source(*near, sight, columns_first=True), *view.sources(blocks, window, position_1c)]
            return flash_attention.attend(query_1che, sources), scratch
        query = grouped(query_1che, key_1cge.shape[2])
        parts = gather(None, query, *near, seen_1cw[:, None, :, None])
        parts = view.gather(parts, query, blocks, window, position_1c, slot)
        return finished(parts, query_1che), scratch

    return attend
