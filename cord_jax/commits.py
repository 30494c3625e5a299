"""Committing: a reader takes the chosen steps into its prefix trees and reads the cues of what comes next.

A step is stored once, at the pool's running cursor; a branch is the set of its columns. Cues (the heading of
the next step) lie behind the cursor, so that the next commit overwrites them. When the free tail of a pool
runs short, the columns that no branch needs any more are squeezed out.
"""

import dataclasses

import jax.numpy as jnp

from cord_jax import packing, readers
from cord_jax.control import when
from cord_jax.readers import ReaderConstants, ReaderPlan, ReaderState, pytree
from cord_jax.shards import Shards
from models import prefix_tree
from models.prefix_tree import Packed


@pytree
class Chosen:
    """What the rows of a sub-batch commit, in the numbering of the new beams.

    Attributes:
      slot_r: int32, local slot of each row; valid_r: bool, rows that count.
      parent_rb: int32, the beam whose path each new beam continues.
      length_rb: int32, tokens of its step; 0 for a beam that gets no step.
      token_rbt: int32, the step's tokens in the reader's vocabulary.
      cue_rb: int32, row of `cue_xm` that follows, -1 for none.
      permanent_r: bool, the cue becomes part of the path (the one before an answer).
    """

    slot_r: object
    valid_r: object
    parent_rb: object
    length_rb: object
    token_rbt: object
    cue_rb: object
    permanent_r: object


def cues_only(chosen: Chosen) -> Chosen:
    """What is left to read once the steps themselves are in the pool, in the new beams' numbering."""
    beams = jnp.arange(chosen.parent_rb.shape[1], dtype=jnp.int32)
    return dataclasses.replace(
        chosen,
        parent_rb=jnp.broadcast_to(beams, chosen.parent_rb.shape),
        length_rb=jnp.zeros_like(chosen.length_rb),
    )


def cue_lengths(constants: ReaderConstants, chosen: Chosen):
    """Tokens of each new beam's cue, int32 [r, b]."""
    return jnp.where(chosen.cue_rb >= 0, constants.cue_length_x[jnp.maximum(chosen.cue_rb, 0)], 0)


def room(state: ReaderState, shards: Shards, chosen: Chosen, need_r, columns: int):
    """Whether the rows' pools can take `need_r` more columns: `(as they are, after compaction)`, bool [r]
    each.
    """
    path_rbs = take_paths(state, shards, chosen)
    cursor_r = shards.take(state.cursor_n, chosen.slot_r)
    live_r = path_rbs.any(1).sum(-1)
    return cursor_r + need_r <= columns, live_r + need_r <= columns


def take_paths(state: ReaderState, shards: Shards, chosen: Chosen):
    """The paths that the new beams continue, bool [r, b, s]."""
    path_rbs = shards.take(state.path_nbs, chosen.slot_r)
    return jnp.take_along_axis(path_rbs, chosen.parent_rb[..., None], axis=1)


def compact(stacked: bool, state: ReaderState, shards: Shards, chosen: Chosen, needed_r) -> ReaderState:
    """Squeezes the columns on no path of a new beam out of the pools of the rows that need it."""
    path_rbs = take_paths(state, shards, chosen)
    live_rs = path_rbs.any(1)
    order_rs = jnp.argsort(~live_rs, axis=1, stable=True)

    def permute(layer):
        def one(x_ngse):
            rows = jnp.take_along_axis(shards.take(x_ngse, chosen.slot_r), order_rs[:, None, :, None], axis=2)
            return shards.put(x_ngse, chosen.slot_r, needed_r, rows)

        return tuple(map(one, layer))

    def squeeze(state: ReaderState):
        def permuted(x_ns):
            return shards.put(
                x_ns,
                chosen.slot_r,
                needed_r,
                jnp.take_along_axis(shards.take(x_ns, chosen.slot_r), order_rs, axis=1),
            )

        # Paths of beams that nobody continues lose columns here; they are never read again.
        old_rbs = shards.take(state.path_nbs, chosen.slot_r) & live_rs[:, None]
        path_rbs = jnp.take_along_axis(old_rbs, order_rs[:, None], axis=2)
        return dataclasses.replace(
            state,
            pool=prefix_tree.over_layers(stacked, permute, state.pool),
            token_ns=permuted(state.token_ns),
            depth_ns=permuted(state.depth_ns),
            path_nbs=shards.put(state.path_nbs, chosen.slot_r, needed_r, path_rbs),
            cursor_n=shards.put(state.cursor_n, chosen.slot_r, needed_r, live_rs.sum(-1).astype(jnp.int32)),
        )

    return when(needed_r.any(), squeeze, state)


def record(
    state: ReaderState,
    shards: Shards,
    chosen: Chosen,
    length_rx,
    token_rw,
    position_rw,
    step_segments: int,
    permanent_rx,
) -> tuple[ReaderState, object]:
    """Notes the columns `cursor ... cursor + sum(length)` that were written into the pools: a segment x of
    new beam x mod B each, the first `step_segments` of them steps and the rest cues.

    Returns:
      The state with paths in the new beams' numbering, and the columns of the cues, bool [r, b, s].
    """
    slot_r, valid_r = chosen.slot_r, chosen.valid_r
    cursor_r = shards.take(state.cursor_n, slot_r)
    num_columns = state.token_ns.shape[1]
    num_beams = chosen.parent_rb.shape[1]
    offset_rs = jnp.arange(num_columns) - cursor_r[:, None]
    written_rs = (offset_rs >= 0) & (offset_rs < length_rx.sum(1, keepdims=True))
    place_rs = jnp.clip(offset_rs, 0, token_rw.shape[1] - 1)
    segment_rs = packing.pick(packing.places(length_rx, token_rw.shape[1])[0], place_rs)

    def noted(x_ns, new_rw):
        rows = jnp.where(written_rs, packing.pick(new_rw, place_rs), shards.take(x_ns, slot_r))
        return shards.put(x_ns, slot_r, valid_r, rows)

    mine_rbs = written_rs[:, None] & (segment_rs[:, None] % num_beams == jnp.arange(num_beams)[:, None])
    stays_rs = packing.pick(permanent_rx, segment_rs)
    path_rbs = take_paths(state, shards, chosen) | (mine_rbs & stays_rs[:, None])
    cue_rbs = mine_rbs & (segment_rs >= step_segments)[:, None]
    kept_r = jnp.where(permanent_rx, length_rx, 0).sum(1)
    state = dataclasses.replace(
        state,
        token_ns=noted(state.token_ns, token_rw),
        depth_ns=noted(state.depth_ns, position_rw),
        cursor_n=shards.put(state.cursor_n, slot_r, valid_r, cursor_r + kept_r),
        path_nbs=shards.put(state.path_nbs, slot_r, valid_r, path_rbs),
        length_nb=shards.put(state.length_nb, slot_r, valid_r, path_rbs.sum(-1).astype(jnp.int32)),
    )
    return state, cue_rbs


def move_scored(
    plan: ReaderPlan,
    state: ReaderState,
    shards: Shards,
    chosen: Chosen,
    scratch,
    start_rb,
    width: int,
    *,
    chunk: int,
) -> ReaderState:
    """Commits steps whose keys and values the scoring pass has already computed, at `start_rb` of its
    scratch.
    """
    stacked = plan.stacked
    beam_rw, offset_rw = packing.places(chosen.length_rb, width)
    base_rb = jnp.take_along_axis(shards.take(state.length_nb, chosen.slot_r), chosen.parent_rb, axis=1)
    cursor_r = shards.take(state.cursor_n, chosen.slot_r)
    source_rw = packing.pick(start_rb, beam_rw) + offset_rw
    limit = prefix_tree.columns(scratch) - 1
    pool = prefix_tree.commit(
        stacked,
        state.pool,
        scratch,
        chosen.slot_r,
        jnp.clip(source_rw, 0, limit),
        cursor_r,
        jnp.where(chosen.valid_r, chosen.length_rb.sum(1), 0),
        chunk=chunk,
        write=shards.select_columns if plan.split_columns else shards.write_columns,
    )
    state, _ = record(
        dataclasses.replace(state, pool=pool),
        shards,
        chosen,
        chosen.length_rb,
        packing.pick_token(chosen.token_rbt, beam_rw, offset_rw),
        packing.pick(base_rb, beam_rw) + offset_rw,
        chosen.length_rb.shape[1],
        jnp.ones_like(chosen.length_rb, bool),
    )
    return state


def append(
    plan: ReaderPlan,
    constants: ReaderConstants,
    state: ReaderState,
    shards: Shards,
    chosen: Chosen,
    width: int,
    *,
    chunk: int,
) -> ReaderState:
    """Reads the chosen steps and then the cues, in one pass, and sets the views from which proposals go on.

    Args:
      width: capacity of the packed row, a multiple of `chunk`, for the steps and cues of all beams.
    """
    model = readers.decoder(plan, constants)
    slot_r = chosen.slot_r
    num_beams = chosen.parent_rb.shape[1]
    base_rb = jnp.take_along_axis(shards.take(state.length_nb, slot_r), chosen.parent_rb, axis=1)
    cue_length_rb = cue_lengths(constants, chosen)
    length_rx = jnp.where(
        chosen.valid_r[:, None], jnp.concatenate([chosen.length_rb, cue_length_rb], axis=1), 0
    )
    segment_rw, offset_rw = packing.places(length_rx, width)
    beam_rw = segment_rw % num_beams
    in_cue_rw = segment_rw >= num_beams
    cue_token_rw = constants.cue_xm[
        jnp.maximum(packing.pick(chosen.cue_rb, beam_rw), 0),
        jnp.clip(offset_rw, 0, constants.cue_xm.shape[1] - 1),
    ]
    packed = Packed(
        token_rw=jnp.where(in_cue_rw, cue_token_rw, packing.pick_token(chosen.token_rbt, beam_rw, offset_rw)),
        position_rw=packing.pick(base_rb, beam_rw)
        + offset_rw
        + jnp.where(in_cue_rw, packing.pick(chosen.length_rb, beam_rw), 0),
        branch_rw=beam_rw,
        fork_rw=beam_rw,
        form_rw=in_cue_rw.astype(jnp.int32),
        length_r=length_rx.sum(1),
    )
    pool_rows = shards.take_cache(model.is_stacked, state.pool, slot_r)
    scratch, _ = prefix_tree.extend(
        model,
        pool_rows,
        take_paths(state, shards, chosen),
        shards.take(state.depth_ns, slot_r),
        packed,
        chunk=chunk,
        whole=plan.split_columns,
    )
    source_rw = jnp.broadcast_to(jnp.arange(width), packed.token_rw.shape)
    pool = prefix_tree.commit(
        model.is_stacked,
        state.pool,
        scratch,
        slot_r,
        source_rw,
        shards.take(state.cursor_n, slot_r),
        packed.length_r,
        chunk=chunk,
        write=shards.select_columns if plan.split_columns else shards.write_columns,
    )
    permanent_rx = jnp.concatenate(
        [
            jnp.ones_like(cue_length_rb, bool),
            jnp.broadcast_to(chosen.permanent_r[:, None], cue_length_rb.shape),
        ],
        axis=1,
    )
    state, cue_rbs = record(
        dataclasses.replace(state, pool=pool),
        shards,
        chosen,
        length_rx,
        packed.token_rw,
        packed.position_rw,
        num_beams,
        permanent_rx,
    )
    full_rbs = shards.take(state.path_nbs, slot_r) | cue_rbs
    column_s = jnp.arange(full_rbs.shape[-1])
    view_rbs = full_rbs & (column_s != last_columns(full_rbs)[..., None])
    return dataclasses.replace(
        state, view_nbs=shards.put(state.view_nbs, slot_r, chosen.valid_r, view_rbs)
    ), full_rbs


def last_columns(full_rbs):
    """The greatest column of each branch, which holds its last token, int32 [r, b]."""
    column_s = jnp.arange(full_rbs.shape[-1], dtype=jnp.int32)
    return jnp.where(full_rbs, column_s, 0).max(-1)
