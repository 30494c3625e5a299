"""Committing: writes chosen texts, and the forced beginnings of what comes next, into each model's KV cache.

A text is stored once, at the cache's running cursor, and its columns carry the number of its node; what a place of the
frontier sees are the columns of its lineage. Cues (the heading of the next step) lie behind the cursor, so that the
next commit overwrites them. Columns of nodes that nobody needs any more are squeezed out when that frees a region of
the cache. Everything here is of one shard.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import lax

from cord_jax.search import packing, readers, slots
from cord_jax.search.jax_tools import axes, pytree, when
from cord_jax.search.packing import Forks
from cord_jax.search.readers import ReaderConstants, ReaderPlan, ReaderState
from cord_jax.search.shards import Shards
from cord_jax.search.slots import SubBatch
from cord_jax.search.tree import NONE, ROOT
from models.attention import kv_cache
from models.attention.kv_cache import Moves, Scratch
from models.attention.prefix_tree import Packed
from models.prefill import prefill


@pytree
class Chosen:
    """Texts that a reader commits for the rows of a sub-batch.

    Attributes:
      length_rb: int32, tokens of the text of each place; 0 for a place that gets none.
      token_rbt: int32, the text's tokens in the reader's vocabulary.
      cue_rb: int32, row of `cue_xt` that follows, -1 for none.
      permanent_r: bool, the cue becomes part of the text (the one before an answer).
      shared_r: bool, the cue of place 0 is that of every place.
    """

    length_rb: jax.Array = axes("row", "place")
    token_rbt: jax.Array = axes("row", "place", "token")
    cue_rb: jax.Array = axes("row", "place")
    permanent_r: jax.Array = axes("row")
    shared_r: jax.Array = axes("row")


@pytree
class Branches:
    """The nodes of the tree that texts are committed for.

    Attributes:
      node_rb: int32, the node whose text each place commits.
      lineage_rbi: bool, the nodes from the root to that of each place, both included.
      keeps_ri: bool, the nodes whose columns must stay in the KV caches.
    """

    node_rb: jax.Array = axes("row", "place")
    lineage_rbi: jax.Array = axes("row", "place", "node")
    keeps_ri: jax.Array = axes("row", "node")


@pytree
class Passage:
    """Packed forks that were read in one pass.

    Attributes:
      packed: its tokens, those of the rows of a shard.
      scratch: their keys and values.
      start_rx: int32, the place of each fork's first token.
    """

    packed: Packed
    scratch: Scratch
    start_rx: jax.Array


@pytree
class Scored:
    """Candidates that the meta-prover has read to score them, and so need not read again to commit their steps.

    Attributes:
      passage: all that it has read; the candidates' steps are its forks.
      row_r: bool, the rows of which it has read them.
      choice_rb: int32, the candidate whose step each place commits.
    """

    passage: Passage
    row_r: jax.Array
    choice_rb: jax.Array


@pytree
class Segments:
    """Parts x of a passage, of which each belongs to the place x mod B; the first B are texts, others are cues.

    Attributes:
      start_rx, length_rx: int32, where each lies in its packed text.
      permanent_rx: bool, it becomes part of the text of its node; what does not must come last.
    """

    start_rx: jax.Array
    length_rx: jax.Array
    permanent_rx: jax.Array


def cue_lengths(constants: ReaderConstants, batch: SubBatch, chosen: Chosen):
    """Tokens of each place's cue, int32 [r, b]; 0 in rows that do not count."""
    length_rb = constants.cue_length_x[jnp.maximum(chosen.cue_rb, 0)]
    return jnp.where((chosen.cue_rb >= 0) & batch.valid_r[:, None], length_rb, 0)


def needed(constants: ReaderConstants, batch: SubBatch, chosen: Chosen):
    """Columns that a commit takes, int32 [r]."""
    length_r = jnp.where(batch.valid_r, chosen.length_rb.sum(1), 0)
    return length_r + cue_lengths(constants, batch, chosen).sum(1)


def paths(state: ReaderState, batch: SubBatch, lineage_rbi):
    """The columns that hold the texts of each place's nodes, bool [r, b, s]."""
    node_rs = batch.take(state.node_ns)
    found_rbs = jnp.take_along_axis(lineage_rbi, jnp.maximum(node_rs, 0)[:, None], axis=2)
    return found_rbs & (node_rs >= ROOT)[:, None]


def _living(state: ReaderState, batch: SubBatch, branches: Branches):
    """The columns that must stay, bool [r, s]."""
    return paths(state, batch, branches.keeps_ri[:, None])[:, 0]


def room(plan: ReaderPlan, state: ReaderState, batch: SubBatch, branches: Branches, need_r):
    """Finds out what the rows' KV caches must do to take `need_r` more columns.

    Returns: `(compact_r, fits_r)`, bool: whether compaction frees a region of the cache, and whether there is room
      after it.
    """
    cursor_r = batch.take(state.cursor_n)
    live_r = _living(state, batch, branches).sum(-1)
    end_k = jnp.array([0, *plan.execution.tree.regions(plan.blocks)])

    def regions(columns_r):
        return (columns_r[:, None] > end_k).sum(-1)

    return regions(live_r + need_r) < regions(cursor_r + need_r), live_r + need_r <= plan.columns


@jax.named_scope("compact")
def compact(
    plan: ReaderPlan, state: ReaderState, shards: Shards, batch: SubBatch, branches: Branches
) -> ReaderState:
    """Squeezes columns that nobody needs any more out of the KV caches of the rows that count."""

    def squeeze(state: ReaderState):
        live_rs = _living(state, batch, branches)
        # Where shards agree to compact a row, those whose row does not count leave its columns where they are.
        order_rs = jnp.argsort(batch.valid_r[:, None] & ~live_rs, axis=1, stable=True)

        def permuted(x_ns, x_rs):
            return batch.put(x_ns, jnp.take_along_axis(x_rs, order_rs, axis=1))

        def permuted_row(row, pool):
            stacked = plan.execution.stacked
            permute = functools.partial(_permuted, stacked, batch.slot_r[row], order_rs[row])
            return when(shards.agreed(batch.valid_r[row]), permute, pool)

        node_rs = jnp.where(live_rs, batch.take(state.node_ns), NONE)
        return dataclasses.replace(
            state,
            pool=lax.fori_loop(0, shards.rows, permuted_row, state.pool),
            token_ns=permuted(state.token_ns, batch.take(state.token_ns)),
            depth_ns=permuted(state.depth_ns, batch.take(state.depth_ns)),
            node_ns=permuted(state.node_ns, node_rs),
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
    branches: Branches,
    passage: Passage,
    segments: Segments,
    width: int,
) -> tuple[ReaderState, jax.Array]:
    """Moves segments of a passage to the KV caches' cursors, one behind another.

    Args:
      width: tokens of all segments of a row, at most.

    Returns:
      The state, whose paths are those of the branches, and the columns of the cues, bool [r, b, s].
    """
    places = branches.node_rb.shape[1]
    chunk = plan.execution.chunk
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

    def noted(x_ns, new_rs):
        return batch.put(x_ns, jnp.where(written_rs, new_rs, batch.take(x_ns)))

    source_rs = packing.pick(source_rw, place_rs)
    stays_rs = packing.pick(segments.permanent_rx, segment_rs)
    node_rs = jnp.where(stays_rs, packing.pick(branches.node_rb, segment_rs % places), NONE)
    kept_r = jnp.where(segments.permanent_rx, length_rx, 0).sum(1)
    state = dataclasses.replace(
        state,
        pool=pool,
        token_ns=noted(state.token_ns, passage.packed.token_w[source_rs]),
        depth_ns=noted(state.depth_ns, passage.packed.position_w[source_rs]),
        node_ns=noted(state.node_ns, node_rs),
        cursor_n=batch.put(state.cursor_n, cursor_r + kept_r),
    )
    path_rbs = paths(state, batch, branches.lineage_rbi)
    state = dataclasses.replace(
        state,
        path_nbs=batch.put(state.path_nbs, path_rbs),
        length_nb=batch.put(state.length_nb, path_rbs.sum(-1).astype(jnp.int32)),
    )
    of_place_rbs = segment_rs[:, None] == places + jnp.arange(places)[:, None]
    return state, written_rs[:, None] & of_place_rbs


def take_scored(
    plan: ReaderPlan,
    state: ReaderState,
    shards: Shards,
    batch: SubBatch,
    chosen: Chosen,
    branches: Branches,
    scored: Scored,
) -> tuple[ReaderState, Chosen]:
    """Commits steps that the scoring pass has already read.

    Returns: the state, and what is left to be read.
    """
    scored_batch = batch.among(scored.row_r)
    segments = Segments(
        packing.pick(scored.passage.start_rx, scored.choice_rb),
        chosen.length_rb,
        jnp.ones_like(scored.choice_rb, bool),
    )
    width = chosen.token_rbt[0].size
    state, _ = take_over(plan, state, shards, scored_batch, branches, scored.passage, segments, width)
    length_rb = jnp.where(scored_batch.valid_r[:, None], 0, chosen.length_rb)
    return state, dataclasses.replace(chosen, length_rb=length_rb)


def append(
    plan: ReaderPlan,
    constants: ReaderConstants,
    state: ReaderState,
    shards: Shards,
    batch: SubBatch,
    chosen: Chosen,
    branches: Branches,
) -> tuple[ReaderState, jax.Array]:
    """Reads the chosen texts, each with its cue, and sets what proposals see of the KV cache.

    Returns: the state, and the columns of each place with its cue, bool [r, b, s].
    """
    rows, places = branches.node_rb.shape
    cue_width = constants.cue_xt.shape[1]
    cue_length_rb = cue_lengths(constants, batch, chosen)
    path_rbs = paths(state, batch, branches.lineage_rbi)
    forks = Forks(
        token_rxt=chosen.token_rbt,
        length_rx=jnp.where(batch.valid_r[:, None], chosen.length_rb, 0),
        base_rx=path_rbs.sum(-1, dtype=jnp.int32),
        branch_rx=jnp.broadcast_to(jnp.arange(places, dtype=jnp.int32), (rows, places)),
        tail_rxa=constants.cue_xt[jnp.maximum(chosen.cue_rb, 0)],
        tail_length_rx=cue_length_rb,
        form_rxa=jnp.ones((rows, places, cue_width), jnp.int32),
        offset_rxa=jnp.broadcast_to(jnp.arange(cue_width, dtype=jnp.int32), (rows, places, cue_width)),
    )
    packed, start_rb = packing.pack(forks, shards, plan.execution)
    model, tree = readers.decoder(plan, constants), state.tree(batch, path_rbs)
    scratch, _ = prefill(model, tree, packed, plan.execution)
    cue_stays_rb = jnp.broadcast_to(chosen.permanent_r[:, None], cue_length_rb.shape)
    segments = Segments(
        jnp.concatenate([start_rb, start_rb + forks.length_rx], axis=1),
        jnp.concatenate([forks.length_rx, cue_length_rb], axis=1),
        jnp.concatenate([jnp.ones_like(cue_stays_rb), cue_stays_rb], axis=1),
    )
    passage = Passage(packed, scratch, start_rb)
    state, cue_rbs = take_over(plan, state, shards, batch, branches, passage, segments, places * forks.reach)
    cue_rbs = jnp.where(chosen.shared_r[:, None, None], cue_rbs[:, :1], cue_rbs)
    full_rbs = batch.take(state.path_nbs) | cue_rbs
    view_rbs = full_rbs & (jnp.arange(full_rbs.shape[-1]) != last_columns(full_rbs)[..., None])
    return dataclasses.replace(state, view_nbs=batch.put(state.view_nbs, view_rbs)), full_rbs


def last_columns(full_rbs):
    """The greatest column of each place, which holds its last token, int32 [r, b]."""
    column_s = jnp.arange(full_rbs.shape[-1], dtype=jnp.int32)
    return jnp.where(full_rbs, column_s, 0).max(-1)
