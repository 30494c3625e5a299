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
head, e head width, d model width, x a leading axis of any meaning, or a few chunks' tokens.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from models.attention import tree_pieces, tree_triton
from models.attention.kv_cache import (
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
from models.attention.online_softmax import by_row, finished, gather, grouped, of_rows
from models.attention.tree_triton import Sight, Source
from models.cpu.leading import Leading

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


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["seen", "depth", "guides"], meta_fields=["attention"]
)
@dataclasses.dataclass(frozen=True)
class View:
    """What queries see of a pool; a list has an entry a block, and all arrays lead with x.

    Attributes:
      attention: how the pool is read, one of `ATTENTION`.
      seen: bool [x, c, s].
      depth: depth of the token in each column, int32 [x, s].
      guides: what tells which columns are read: of "blocks" whether any query sees anything, bool [x]; of "pieces" and
        "flash" `tree_pieces.Pieces` and `tree_triton.Sight`.
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
            return tree_pieces.gather_pool(parts, query, blocks, slot, found, seen)

        def read(block, mask, parts):
            if slot is not None:
                block = [lax.dynamic_slice_in_dim(x, slot, 1) for x in block]
            return gather(parts, query, *block, mask[:, None, :, None])

        parts = read(blocks[0], seen[0], parts)
        for block, needed, mask in zip(blocks[1:], self.guides[1:], seen[1:]):
            of_block = functools.partial(read, block, mask)
            parts = lax.cond(needed.any(), of_block, lambda parts: parts, parts)
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
            guides = [path.any((1, 2)) for path in paths]
        case "pieces":
            of_branch_xbc = branch_xc[:, None] == jnp.arange(path_xbs.shape[1])[:, None]
            busy_xbc = of_branch_xbc if busy_xc is None else of_branch_xbc & busy_xc[:, None]
            guides = [tree_pieces.pieces(path & busy_xbc.any(-1, keepdims=True)) for path in paths]
        case "flash":
            guides = [tree_triton.sight(mask, slot_x) for mask in seen]
        case _:
            raise ValueError(f"attention must be one of {', '.join(ATTENTION)}, found {attention!r}")
    return View(attention, seen, [depth_xs[:, start:end] for start, end in spans(blocks)], guides)


def decode_attention(view: View, column, position_nq, written_nqt, local_position_nqt, running_nq):
    """The `attend` of one decoded token for every query row.

    Args:
      view: what the rows see of the pool.
      column: ring-buffer column that this token writes, int32 scalar.
      position_nq: depth of the new token.
      written_nqt: ring-buffer columns that a row sees, this token's included.
      local_position_nqt: depth of the token in each ring-buffer column.
      running_nq: bool, rows whose attention matters.

    Returns:
      A function for `Decoder.run_layers` that reads a pool and writes ring buffers [n, q, g, t, e].
    """
    num_slots, num_rows = position_nq.shape
    # To a slot's queries its rings are one text, of which each sees the part that is its own.
    own_qq1 = jnp.eye(num_rows, dtype=bool)[..., None]
    if view.attention == "flash":
        own_sight = tree_triton.sight(written_nqt[:, None] & own_qq1, num_rows * jnp.arange(num_slots))

    def attend(query_nqhe, key_nqge, value_nqge, cache, window):
        blocks, rings, layer = cache
        new = KeyValue(key_nqge[:, :, :, None], value_nqge[:, :, :, None])
        rings = jax.tree.map(lambda x, new: write_part(x, new, column, -2, layer), rings, new)
        near_nqt = written_nqt
        if window is not None:
            near_nqt = written_nqt & (position_nq[..., None] - local_position_nqt < window)
        if view.attention == "pieces":
            seen = view.within(window, position_nq)
            out_nqhe = tree_pieces.decode_attention(
                query_nqhe, rings, layer, near_nqt, blocks, view.guides, seen, running_nq
            )
            return out_nqhe, rings
        local = jax.tree.map(lambda x: read_part(x, 0, x.shape[-2], -2, layer), rings)
        if view.attention == "flash":
            near = own_sight if window is None else own_sight.of(near_nqt[:, None] & own_qq1)
            flat = [x.reshape(num_slots * num_rows, *x.shape[2:]) for x in local]
            sources = [Source(*flat, near, columns_first=True), *view.sources(blocks, window, position_nq)]
            return tree_triton.attend(query_nqhe, sources), rings
        query = grouped(query_nqhe, key_nqge.shape[2])
        ring = gather(None, by_row(query), *local, near_nqt[:, :, None, None, None], ring=True)
        parts = view.gather(of_rows(ring), query, blocks, window, position_nq)
        return finished(parts, query_nqhe), rings

    return attend


def extend(
    model,
    pool,
    slot_r,
    path_rbs,
    depth_rs,
    packed: Packed,
    *,
    chunk: int,
    reach: int,
    attention: str,
    together: int = 1,
    leaves_out: bool = False,
):
    """Runs packed forks of prefix trees through the decoder, some chunks at a time.

    Cost follows the number of tokens and not the capacity w.

    Args:
      model: the decoder.
      pool: it is only read.
      slot_r: the slot of each row.
      path_rbs: the columns of each branch of a row.
      depth_rs: depth of the token in each column.
      packed: the tokens; w must be a multiple of `together` chunks.
      chunk: tokens whose attention is computed at a time.
      reach: most places from a fork's first token to its last; attention reads only so much of the scratch.
      attention: one of `ATTENTION`.
      together: chunks whose products with weights are computed at a time.
      leaves_out: whether the last of these products leave out the chunks that are not to be run (`models.leading`).

    Returns:
      The scratch cache, one row of w columns, with the keys and values of all tokens, and the final hidden states
      [w, d]. What lies beyond the ends of forks is undefined. With "flash" its keys are those of ring buffers.
    """
    width = packed.token_w.shape[0]
    if width % (chunk * together):
        raise ValueError(f"the packed width {width} is not a multiple of {together} chunks of {chunk} tokens")
    columns = block_columns(model.is_stacked, pool)
    dtype = jax.tree.leaves(pool)[0].dtype
    flash = attention == "flash"
    if flash:  # whose keys are written faster in this way
        scratch = empty_rings(model.config, model.is_stacked, (1,), width, dtype)
    else:
        scratch = empty_cache(model.config, model.is_stacked, 1, width, dtype)
    hidden_wd = jnp.zeros((width, model.config.hidden_size), dtype)
    span = width if flash else min(width, chunk + reach)

    def run_chunks(index, carry):
        scratch, hidden_wd = carry
        first = index * together
        row_k = lax.dynamic_slice_in_dim(packed.row_k, first, together)
        place_kc = (first * chunk + jnp.arange(together * chunk)).reshape(together, chunk)
        near_k = jnp.clip(place_kc[:, -1] + 1 - span, 0, width - span)
        near_kw = near_k[:, None] + jnp.arange(span)
        form_kc, form_kw = packed.form_w[place_kc], packed.form_w[near_kw]
        own_kcw = (
            (near_kw[:, None] <= place_kc[..., None])
            & (packed.fork_w[near_kw][:, None] == packed.fork_w[place_kc][..., None])
            & ((form_kw[:, None] == 0) | (form_kw[:, None] == form_kc[..., None]))
        )
        position_kc = packed.position_w[place_kc]
        chunks = _Chunks(
            slot_k=slot_r[row_k],
            position_kc=position_kc,
            view=view_of(
                attention, columns, path_rbs[row_k], packed.branch_w[place_kc], depth_rs[row_k], slot_r[row_k]
            ),
            near_k=near_k,
            seen_kcw=own_kcw,
            position_kw=packed.position_w[near_kw],
            sight=tree_triton.sight(own_kcw, jnp.zeros(together, jnp.int32)) if flash else None,
        )
        number = jnp.minimum(together, packed.chunks - first)
        attend = _fork_attention(chunks, first * chunk, number)
        x_1xd = model.embed_tokens(packed.token_w[place_kc.reshape(1, -1)])
        rows = Leading(number * chunk, least=chunk) if leaves_out else None
        x_1xd, scratch = model.run_layers(x_1xd, position_kc.reshape(1, -1), attend, pool, scratch, rows=rows)
        return scratch, lax.dynamic_update_slice_in_dim(hidden_wd, x_1xd[0].astype(dtype), first * chunk, 0)

    return lax.fori_loop(0, -(-packed.chunks // together), run_chunks, (scratch, hidden_wd))


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["slot_k", "position_kc", "view", "near_k", "seen_kcw", "position_kw", "sight"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class _Chunks:
    """Some chunks: what they read of the pool, and of the scratch, w columns from `near_k` on.

    Attributes:
      slot_k: whose columns they read; position_kc: depth of their tokens.
      view: what they see of the pool; an x is a chunk.
      seen_kcw, position_kw: what they see of the scratch, and at which depth; sight: the same for "flash", else None.
    """

    slot_k: jax.Array
    position_kc: jax.Array
    view: View
    near_k: jax.Array
    seen_kcw: jax.Array
    position_kw: jax.Array
    sight: Sight | None


def _fork_attention(chunks: _Chunks, start, number):
    """The `attend` of some chunks of packed forks, which reads a pool and writes the scratch.

    Args:
      start: where they lie in the scratch; number: how many of them matter.
    """
    together, chunk = chunks.position_kc.shape
    flash = chunks.view.attention == "flash"
    axes = RING_COLUMNS if flash else COLUMNS

    def attend_one(one: _Chunks, query_1che, blocks, scratch, layer, window):
        """The output of one chunk, whose arrays lead with an axis of 1."""
        span = one.seen_kcw.shape[-1]
        near = jax.tree.map(lambda x, axis: read_part(x, one.near_k[0], span, axis, layer), scratch, axes)
        seen_1cw, position_1c = one.seen_kcw, one.position_kc
        if window is not None:
            seen_1cw = seen_1cw & _within(window, position_1c, one.position_kw)
        if flash:
            sight = one.sight if window is None else one.sight.of(seen_1cw)
            sources = [
                Source(*near, sight, columns_first=True),
                *one.view.sources(blocks, window, position_1c),
            ]
            return tree_triton.attend(query_1che, sources)
        query = grouped(query_1che, blocks[0].key.shape[-3])
        parts = gather(None, query, *near, seen_1cw[:, None, :, None])
        parts = one.view.gather(parts, query, blocks, window, position_1c, one.slot_k[0])
        return finished(parts, query_1che)

    def attend(query_1xhe, key_1xge, value_1xge, cache, window):
        blocks, scratch, layer = cache
        new = KeyValue(
            key_1xge.transpose(0, 2, 1, 3) if flash else key_1xge.transpose(0, 2, 3, 1),
            value_1xge.swapaxes(1, 2),
        )
        scratch = jax.tree.map(
            lambda x, new, axis: write_part(x, new, start, axis, layer), scratch, new, axes
        )
        if together == 1:
            return attend_one(chunks, query_1xhe, blocks, scratch, layer, window), scratch

        def of_chunk(k, out_1xhe):
            one = jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, k, 1), chunks)
            query_1che = lax.dynamic_slice_in_dim(query_1xhe, k * chunk, chunk, 1)
            out_1che = attend_one(one, query_1che, blocks, scratch, layer, window)
            return lax.dynamic_update_slice_in_dim(out_1xhe, out_1che, k * chunk, 1)

        return lax.fori_loop(0, number, of_chunk, jnp.zeros_like(query_1xhe)), scratch

    return attend
