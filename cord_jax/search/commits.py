"""Committing: readers take what has been chosen into their prefix trees, and the cues of what comes next.

A text is stored once, at the pool's running cursor; a branch is the set of its columns. Cues (the heading of the
next step) lie behind the cursor, so that the next commit overwrites them. Columns that no branch needs any more are
squeezed out when that frees a region of the pool. Everything here is of one shard.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import lax

from cord_jax.search import packing, readers, slots
from cord_jax.search.jax_tools import pytree, when
from cord_jax.search.packing import Forks
from cord_jax.search.readers import ReaderConstants, ReaderPlan, ReaderState
from cord_jax.search.shards import Shards
from cord_jax.search.slots import SubBatch
from models.attention import kv_cache
from models.attention.kv_cache import Moves, Scratch
from models.attention.prefix_tree import Packed
from models.prefill import prefill


@pytree
class Chosen:
    """What the rows of a sub-batch commit, in the numbering of the new beams.

    Attributes:
      parent_rb: int32, the beam whose path each new beam continues.
      length_rb: int32, tokens of its text; 0 for a beam that gets none.
      token_rbt: int32, the text's tokens in the reader's vocabulary.
      cue_rb: int32, row of `cue_xm` that follows, -1 for none.
      permanent_r: bool, the cue becomes part of the path (the one before an answer).
      shared_r: bool, the text and the cue of beam 0 are those of every beam.
    """

    parent_rb: jax.Array
    length_rb: jax.Array
    token_rbt: jax.Array
    cue_rb: jax.Array
    permanent_r: jax.Array
    shared_r: jax.Array


@pytree
class Passage:
    """What a pass over packed forks has read.

    Attributes:
      packed: its tokens, those of the rows of a shard.
      scratch: their keys and values.
      start_rx: int32, the place of each fork's first token.
    """

    packed: Packed
    scratch: Scratch
    start_rx: jax.Array


@pytree
class Segments:
    """Segments of a passage; x of a row belongs to its beam x mod B: the first B are texts, the others, if any, cues.

    Attributes:
      start_rx, length_rx: int32, where each lies in the packed text.
      permanent_rx: bool, it becomes part of its beam's path; what does not must come last.
    """

    start_rx: jax.Array
    length_rx: jax.Array
    permanent_rx: jax.Array


def cues_only(chosen: Chosen, taken_r) -> Chosen:
    """What is left to read where the texts themselves are in the pool, in the new beams' numbering."""
    beams = jnp.arange(chosen.parent_rb.shape[1], dtype=jnp.int32)
    return dataclasses.replace(
        chosen,
        parent_rb=jnp.where(taken_r[:, None], beams, chosen.parent_rb),
        length_rb=jnp.where(taken_r[:, None], 0, chosen.length_rb),
    )


def cue_lengths(constants: ReaderConstants, chosen: Chosen):
    """Tokens of each new beam's cue, int32 [r, b]."""
    return jnp.where(chosen.cue_rb >= 0, constants.cue_length_x[jnp.maximum(chosen.cue_rb, 0)], 0)


def take_paths(state: ReaderState, batch: SubBatch, chosen: Chosen):
    """The paths that the new beams continue, bool [r, b, s]."""
    return jnp.take_along_axis(batch.take(state.path_nbs), chosen.parent_rb[..., None], axis=1)


def room(plan: ReaderPlan, state: ReaderState, batch: SubBatch, chosen: Chosen, need_r):
    """What the rows' pools must do to take `need_r` more columns.

    Returns: `(compact_r, fits_r)`, bool: whether compaction frees a region of the pool, and whether there is room
      after it.
    """
    cursor_r = batch.take(state.cursor_n)
    live_r = take_paths(state, batch, chosen).any(1).sum(-1)
    end_k = jnp.array([0, *plan.execution.tree.regions(plan.blocks)])

    def regions(columns_r):
        return (columns_r[:, None] > end_k).sum(-1)

    return regions(live_r + need_r) < regions(cursor_r + need_r), live_r + need_r <= plan.columns


@jax.named_scope("compact")
def compact(
    plan: ReaderPlan, state: ReaderState, shards: Shards, batch: SubBatch, chosen: Chosen
) -> ReaderState:
    """Squeezes the columns on no path of a new beam out of the pools of the rows that count."""

    def squeeze(state: ReaderState):
        live_rs = take_paths(state, batch, chosen).any(1)
        # Where shards agree to compact a row, those whose row does not count leave its columns where they are.
        order_rs = jnp.argsort(batch.valid_r[:, None] & ~live_rs, axis=1, stable=True)

        def permuted(x_ns):
            return batch.put(x_ns, jnp.take_along_axis(batch.take(x_ns), order_rs, axis=1))

        def permuted_row(row, pool):
            permute = functools.partial(_permuted, plan.execution.stacked, batch.slot_r[row], order_rs[row])
            return when(shards.agreed(batch.valid_r[row]), permute, pool)

        # Paths of beams that nobody continues lose columns here; they are never read again.
        old_rbs = batch.take(state.path_nbs) & live_rs[:, None]
        path_rbs = jnp.take_along_axis(old_rbs, order_rs[:, None], axis=2)
        return dataclasses.replace(
            state,
            pool=lax.fori_loop(0, shards.rows, permuted_row, state.pool),
            token_ns=permuted(state.token_ns),
            depth_ns=permuted(state.depth_ns),
            path_nbs=batch.put(state.path_nbs, path_rbs),
            cursor_n=batch.put(state.cursor_n, live_rs.sum(-1).astype(jnp.int32)),
        )

    return when(shards.agreed(batch.valid_r.any()), squeeze, state)


def _permuted(stacked: bool, slot, order_s, pool):
    """The pool with the columns of a slot in another order."""

    def permute(layer, blocks):
        def one(axis, *parts):
            taken = [kv_cache.as_stored(slots.take_one(x, slot, layer)) for x in parts]
            whole = kv_cache.as_stored(jnp.concatenate(taken, axis=axis))
            ends = [end for _, end in kv_cache.spans([x.shape[axis] for x in parts])]
            moved = jnp.split(jnp.take(whole, order_s, axis=axis), ends[:-1], axis)
            moved = map(kv_cache.as_stored, moved)
            return tuple(slots.put_one(x, slot, new, layer) for x, new in zip(parts, moved))

        moved = jax.tree.map(one, kv_cache.COLUMNS, *blocks)
        return tuple(map(kv_cache.KeyValue, *moved))

    if stacked:
        return lax.fori_loop(0, len(pool[0].key), permute, pool)
    return tuple(permute(None, blocks) for blocks in pool)


def take_over(
    plan: ReaderPlan,
    state: ReaderState,
    shards: Shards,
    batch: SubBatch,
    chosen: Chosen,
    passage: Passage,
    segments: Segments,
    width: int,
) -> tuple[ReaderState, jax.Array]:
    """Moves segments of a passage to the pools' cursors, one behind another.

    Args:
      width: tokens of all segments of a row, at most.

    Returns:
      The state with paths in the new beams' numbering, and the columns of the cues, bool [r, b, s].
    """
    num_beams, chunk = chosen.parent_rb.shape[1], plan.execution.chunk
    width, text_width = packing.round_up(width, chunk), passage.packed.token_w.shape[0]
    length_rx = jnp.where(batch.valid_r[:, None], segments.length_rx, 0)
    segment_rw, offset_rw = packing.places(length_rx, width)
    source_rw = jnp.clip(packing.pick(segments.start_rx, segment_rw) + offset_rw, 0, text_width - 1)
    cursor_r = batch.take(state.cursor_n)
    moves = Moves(
        slot_r=batch.slot_r,
        source_rw=source_rw,
        length_r=length_rx.sum(1),
        cursor_r=cursor_r,
        chunks_r=shards.agreed((length_rx.sum(1) + chunk - 1) // chunk),
    )
    split = plan.execution.split == "columns"
    write = shards.write_split_columns if split else slots.write_columns
    pool = kv_cache.commit(plan.execution.stacked, state.pool, passage.scratch, moves, chunk, write)
    offset_rs = jnp.arange(state.token_ns.shape[1]) - cursor_r[:, None]
    written_rs = (offset_rs >= 0) & (offset_rs < length_rx.sum(1, keepdims=True))
    place_rs = jnp.clip(offset_rs, 0, width - 1)
    segment_rs = packing.pick(segment_rw, place_rs)

    def noted(x_ns, text_w):
        new_rs = text_w[packing.pick(source_rw, place_rs)]
        return batch.put(x_ns, jnp.where(written_rs, new_rs, batch.take(x_ns)))

    of_beam_rbs = segment_rs[:, None] % num_beams == jnp.arange(num_beams)[:, None]
    mine_rbs = written_rs[:, None] & (of_beam_rbs | chosen.shared_r[:, None, None])
    stays_rs = packing.pick(segments.permanent_rx, segment_rs)
    path_rbs = take_paths(state, batch, chosen) | (mine_rbs & stays_rs[:, None])
    cue_rbs = mine_rbs & (segment_rs >= num_beams)[:, None]
    kept_r = jnp.where(segments.permanent_rx, length_rx, 0).sum(1)
    state = dataclasses.replace(
        state,
        pool=pool,
        token_ns=noted(state.token_ns, passage.packed.token_w),
        depth_ns=noted(state.depth_ns, passage.packed.position_w),
        cursor_n=batch.put(state.cursor_n, cursor_r + kept_r),
        path_nbs=batch.put(state.path_nbs, path_rbs),
        length_nb=batch.put(state.length_nb, path_rbs.sum(-1).astype(jnp.int32)),
    )
    return state, cue_rbs


def take_scored(
    plan: ReaderPlan,
    state: ReaderState,
    shards: Shards,
    batch: SubBatch,
    chosen: Chosen,
    passage: Passage,
    choice_rb,
) -> ReaderState:
    """Commits steps that the scoring pass has already read: the candidates `choice_rb`, its forks."""
    segments = Segments(
        start_rx=packing.pick(passage.start_rx, choice_rb),
        length_rx=chosen.length_rb,
        permanent_rx=jnp.ones_like(choice_rb, bool),
    )
    return take_over(plan, state, shards, batch, chosen, passage, segments, chosen.token_rbt[0].size)[0]


def append(
    plan: ReaderPlan,
    constants: ReaderConstants,
    state: ReaderState,
    shards: Shards,
    batch: SubBatch,
    chosen: Chosen,
) -> tuple[ReaderState, jax.Array]:
    """Reads the chosen texts, each with its cue, and sets the views from which proposals go on.

    Returns: the state, and the columns of each new beam with its cue, bool [r, b, s].
    """
    rows, num_beams = chosen.parent_rb.shape
    cue_width = constants.cue_xm.shape[1]
    cue_length_rb = jnp.where(batch.valid_r[:, None], cue_lengths(constants, chosen), 0)
    forks = Forks(
        token_rxt=chosen.token_rbt,
        length_rx=jnp.where(batch.valid_r[:, None], chosen.length_rb, 0),
        base_rx=jnp.take_along_axis(batch.take(state.length_nb), chosen.parent_rb, axis=1),
        branch_rx=jnp.broadcast_to(jnp.arange(num_beams, dtype=jnp.int32), (rows, num_beams)),
        tail_rxa=constants.cue_xm[jnp.maximum(chosen.cue_rb, 0)],
        tail_length_rx=cue_length_rb,
        form_rxa=jnp.ones((rows, num_beams, cue_width), jnp.int32),
        offset_rxa=jnp.broadcast_to(jnp.arange(cue_width, dtype=jnp.int32), (rows, num_beams, cue_width)),
    )
    packed, start_rb = packing.pack(forks, shards, plan.execution)
    tree = state.tree(batch, take_paths(state, batch, chosen))
    scratch, _ = prefill(readers.decoder(plan, constants), tree, packed, plan.execution)
    cue_stays_rb = jnp.broadcast_to(chosen.permanent_r[:, None], cue_length_rb.shape)
    segments = Segments(
        start_rx=jnp.concatenate([start_rb, start_rb + forks.length_rx], axis=1),
        length_rx=jnp.concatenate([forks.length_rx, cue_length_rb], axis=1),
        permanent_rx=jnp.concatenate([jnp.ones_like(cue_stays_rb), cue_stays_rb], axis=1),
    )
    passage = Passage(packed, scratch, start_rb)
    state, cue_rbs = take_over(plan, state, shards, batch, chosen, passage, segments, num_beams * forks.reach)
    full_rbs = batch.take(state.path_nbs) | cue_rbs
    view_rbs = full_rbs & (jnp.arange(full_rbs.shape[-1]) != last_columns(full_rbs)[..., None])
    return dataclasses.replace(state, view_nbs=batch.put(state.view_nbs, view_rbs)), full_rbs


def last_columns(full_rbs):
    """The greatest column of each branch, which holds its last token, int32 [r, b]."""
    column_s = jnp.arange(full_rbs.shape[-1], dtype=jnp.int32)
    return jnp.where(full_rbs, column_s, 0).max(-1)
