"""Settling a round: the finished steps of ready problems are exchanged, scored, selected and committed."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cord_jax import commits, packing, proposals, readers, scoring
from cord_jax.commits import Chosen
from cord_jax.exchange import ABSENT, Exchange
from cord_jax.readers import ReaderConstants, ReaderPlan
from cord_jax.selection import select
from cord_jax.state import ANSWERING, DONE, SEARCHING, History, SearchPlan, SearchState, start_rows


def by_proposer(plan: SearchPlan, values):
    """Per-reader arrays `[x, q]` (None for readers that do not propose) as one array `[x, j]` of candidates.
    """
    rows = next(value.shape[0] for value in values if value is not None)
    result = [None] * plan.num_proposers
    for reader, value in zip(plan.readers, values):
        for place, proposer in enumerate(reader.proposers):
            result[proposer] = value.reshape(rows, plan.num_beams, -1)[:, :, place]
    return jnp.stack(result, axis=2).reshape(rows, -1)


def exchange_steps(plan: SearchPlan, exchange: Exchange, state: SearchState, slot_r, valid_r):
    """The callback of a round: ids of finished proposals out, canonical steps in every vocabulary in."""
    shards = plan.shards
    rows, candidates, width = slot_r.shape[0], plan.candidates, plan.step_width
    vocabularies = len(exchange.vocabularies)
    written = []
    for reader in state.readers:
        if reader.rows is not None:
            mine = jax.tree.map(lambda x: shards.take(x, slot_r), dataclasses.replace(reader.rows, local=()))
            written.append((proposals.sampled_tokens(mine), mine.count_nq, mine.stopped_nq))
    shapes = {
        "token_urjt": jax.ShapeDtypeStruct((vocabularies, rows, candidates, width), jnp.int32),
        "length_urj": jax.ShapeDtypeStruct((vocabularies, rows, candidates), jnp.int32),
        "ended_rj": jax.ShapeDtypeStruct((rows, candidates), jnp.int8),
        "dropped_rj": jax.ShapeDtypeStruct((rows, candidates), jnp.int8),
        "concluded_rj": jax.ShapeDtypeStruct((rows, candidates), jnp.bool_),
        "longest": jax.ShapeDtypeStruct((), jnp.int32),
    }
    take = functools.partial(shards.take, slot_r=slot_r)
    return jax.pure_callback(
        functools.partial(exchange, width),
        shapes,
        take(state.problem_n),
        take(state.step_n),
        valid_r,
        take(state.open_nb),
        take(state.thinking_nb),
        written,
    )


def settle_steps(
    plan: SearchPlan, exchange: Exchange, constants: tuple[ReaderConstants, ...], state: SearchState, ready_n
) -> SearchState:
    """Exchanges, scores, selects and commits the steps of a sub-batch of ready problems."""
    shards = plan.shards
    slot_r = shards.choose(jnp.where(ready_n, state.waited_n + 1, 0))
    valid_r = shards.take(ready_n, slot_r)
    steps = exchange_steps(plan, exchange, state, slot_r, valid_r)
    state = dataclasses.replace(state, longest=jnp.maximum(state.longest, steps["longest"]))
    settle = functools.partial(
        _settle_exchanged, plan, constants, slot_r=slot_r, valid_r=valid_r, steps=steps
    )
    return lax.cond(steps["longest"] <= plan.step_width, settle, lambda state: state, state)


def _settle_exchanged(plan, constants, state, *, slot_r, valid_r, steps):
    shards, beams = plan.shards, plan.num_beams
    take = functools.partial(shards.take, slot_r=slot_r)
    meta_plan, meta_state, meta_constants = (x[plan.meta] for x in (plan.readers, state.readers, constants))
    token_rjt, length_rj = (steps[name][meta_plan.vocabulary] for name in ("token_urjt", "length_urj"))
    candidate_rj = (steps["dropped_rj"] == 0) & valid_r[:, None]
    score_rj, scratch, start_rj = _score(
        plan,
        meta_plan,
        meta_constants,
        meta_state,
        jax.tree.map(take, state.closings),
        slot_r,
        token_rjt,
        length_rj,
        candidate_rj,
    )

    kept_rb, source_rb, new_score_rb = select(
        take(state.score_nb), take(state.complete_nb), score_rj, candidate_rj, beams
    )
    kept_rb &= jnp.arange(beams) < plan.kept_beams
    chosen_rb = jnp.maximum(source_rb - beams, 0)  # candidate of a beam that got a step
    stepped_rb = kept_rb & (source_rb >= beams)
    parent_rb = jnp.where(source_rb >= beams, chosen_rb // plan.num_proposers, source_rb)
    concluded_rb = jnp.where(stepped_rb, packing.pick(steps["concluded_rj"], chosen_rb), True)
    step_r = take(state.step_n)
    ended_r = ~(kept_rb & ~concluded_rb).any(1) | (step_r >= plan.max_steps)
    stuck_r = ~kept_rb.any(1)
    # When a search ends only the winner, beam 0, matters any more; when it is stuck nothing is committed.
    first_b = jnp.arange(beams) == 0
    parent_rb = jnp.where(ended_r[:, None] | ~kept_rb, parent_rb[:, :1], parent_rb)
    commits_rb = stepped_rb & ~(ended_r[:, None] & ~first_b)
    origin_rb = jnp.where(
        stepped_rb,
        (step_r[:, None] - 1) * plan.candidates + chosen_rb,
        jnp.take_along_axis(take(state.origin_nb), parent_rb, axis=1),
    )
    writer_r = jnp.maximum(origin_rb[:, 0], 0) % plan.candidates % plan.num_proposers
    open_rb = kept_rb & ~concluded_rb & ~ended_r[:, None]

    def chosen_for(reader: ReaderPlan) -> Chosen:
        answers_r = ended_r & ~stuck_r & jnp.isin(writer_r, np.asarray(reader.proposers, np.int32))
        needed_rb = commits_rb & (~ended_r | answers_r)[:, None]
        length_rb = jnp.where(needed_rb, packing.pick(steps["length_urj"][reader.vocabulary], chosen_rb), 0)
        token_rbt = jnp.take_along_axis(steps["token_urjt"][reader.vocabulary], chosen_rb[..., None], axis=1)
        heading_rb = jnp.where(open_rb, (step_r + 1)[:, None], -1)
        cue_rb = jnp.where(answers_r[:, None], jnp.where(first_b, 0, -1), heading_rb)
        if not reader.proposers:
            cue_rb = jnp.full_like(cue_rb, -1)
        return Chosen(slot_r, valid_r, parent_rb, length_rb, token_rbt, cue_rb, answers_r)

    chosen = [chosen_for(reader) for reader in plan.readers]
    needs = [
        jnp.where(valid_r, c.length_rb.sum(1) + commits.cue_lengths(k, c).sum(1), 0)
        for k, c in zip(constants, chosen)
    ]
    rooms = [
        commits.room(s, shards, c, need, reader.columns)
        for reader, s, c, need in zip(plan.readers, state.readers, chosen, needs)
    ]
    short = jnp.stack([(valid_r & ~fits).any() for _, fits in rooms])

    def commit(state: SearchState) -> SearchState:
        new_readers = []
        for index, (reader, k, c, (as_is, _)) in enumerate(zip(plan.readers, constants, chosen, rooms)):
            s = commits.compact(reader.stacked, state.readers[index], shards, c, valid_r & ~as_is)
            if index == plan.meta and scratch is not None:
                s = commits.move_scored(
                    reader,
                    s,
                    shards,
                    c,
                    scratch,
                    packing.pick(start_rj, chosen_rb),
                    _append_width(plan, k),
                    chunk=plan.chunk,
                )
                c = dataclasses.replace(
                    c,
                    parent_rb=jnp.broadcast_to(jnp.arange(beams), parent_rb.shape),
                    length_rb=jnp.zeros_like(c.length_rb),
                )
                if not reader.proposers:  # nothing follows that it would have to read
                    new_readers.append(s)
                    continue
            s, full_rbs = commits.append(reader, k, s, shards, c, _append_width(plan, k), chunk=plan.chunk)
            new_readers.append(
                start_rows(
                    plan,
                    index,
                    s,
                    slot_r,
                    valid_r,
                    full_rbs,
                    open_rb,
                    limit_rb,
                    jnp.where(ended_r, 0, step_r + 1),
                    take(state.key_n2),
                    jnp.zeros_like(step_r),
                    ended_r & ~stuck_r,
                    writer_r,
                )
            )
        return dataclasses.replace(
            state,
            readers=tuple(new_readers),
            **{
                name: shards.put(getattr(state, name), slot_r, valid_r, value)
                for name, value in updates.items()
            },
        )

    lost_rb = take(state.open_nb) & ~candidate_rj.reshape(*candidate_rj.shape[:1], beams, -1).any(-1)
    tokens_rb = jnp.where(stepped_rb, packing.pick(length_rj, chosen_rb), 0)
    thinking_rb = jnp.take_along_axis(take(state.thinking_nb), parent_rb, axis=1) + tokens_rb
    limit_rb = jnp.minimum(plan.max_step_tokens, plan.max_thinking_tokens - thinking_rb)
    limit_rb = jnp.where(ended_r[:, None], min(plan.max_step_tokens, plan.max_answer_tokens), limit_rb)
    rank_rj = jnp.full(score_rj.shape, -1, jnp.int8)
    for beam in range(beams):
        mine_rj = (jnp.arange(plan.candidates) == chosen_rb[:, beam, None]) & stepped_rb[:, beam, None]
        rank_rj = jnp.where(mine_rj, jnp.int8(beam), rank_rj)
    noted = History(score_rj, rank_rj, steps["ended_rj"], steps["dropped_rj"], length_rj)
    at_step_rm = (jnp.arange(plan.max_steps) == (step_r - 1)[:, None])[..., None]
    history = jax.tree.map(
        lambda old, new: shards.put(old, slot_r, valid_r, jnp.where(at_step_rm, new[:, None], take(old))),
        state.history,
        noted,
    )
    sampled_rj = by_proposer(plan, [None if s.rows is None else take(s.rows.count_nq) for s in state.readers])
    present_rj = steps["dropped_rj"] != ABSENT
    by_k = lambda x_rj: x_rj.reshape(-1, beams, plan.num_proposers).sum(1)
    updates = dict(
        phase_n=jnp.where(stuck_r, DONE, jnp.where(ended_r, ANSWERING, SEARCHING)),
        step_n=jnp.where(ended_r, step_r, step_r + 1),
        waited_n=jnp.zeros_like(step_r),
        open_nb=open_rb,
        complete_nb=kept_rb & ~open_rb,
        score_nb=new_score_rb,
        thinking_nb=thinking_rb,
        origin_nb=jnp.where(stuck_r[:, None], take(state.origin_nb), origin_rb),
        stuck_n=jnp.where(stuck_r, jnp.argmax(lost_rb, axis=1).astype(jnp.int32), -1),
        writer_n=writer_r,
        proposed_nk=take(state.proposed_nk) + by_k(jnp.where(present_rj, sampled_rj, 0)),
        scored_nk=take(state.scored_nk)
        + by_k(jnp.where(candidate_rj, length_rj + take(state.closings.length_n)[:, None], 0)),
    )
    state = dataclasses.replace(state, short_of_columns=state.short_of_columns | short)
    return lax.cond(
        short.any(),
        lambda state: state,
        lambda state: commit(dataclasses.replace(state, history=history)),
        state,
    )


def _append_width(plan: SearchPlan, constants: ReaderConstants) -> int:
    """Capacity for the steps and cues of all beams."""
    return packing.round_up(plan.num_beams * (plan.step_width + constants.cue_xm.shape[1]), plan.chunk)


def _score(plan, meta_plan, meta_constants, meta_state, closings, slot_r, token_rjt, length_rj, candidate_rj):
    """Scores all candidates of the rows; the scratch is kept only if it holds them all (else None)."""
    shards, group = plan.shards, plan.score_group
    model = readers.decoder(meta_plan, meta_constants)
    pool_rows = shards.take_cache(meta_plan.stacked, meta_state.pool, slot_r)
    path_rbs, depth_rs = shards.take(meta_state.path_nbs, slot_r), shards.take(meta_state.depth_ns, slot_r)
    beam_j = np.arange(plan.candidates) // plan.num_proposers
    base_rj = shards.take(meta_state.length_nb, slot_r)[:, beam_j]
    branch_rj = jnp.broadcast_to(beam_j, base_rj.shape)
    width = packing.round_up(group * (plan.step_width + closings.token_na.shape[1]), plan.chunk)
    run = functools.partial(
        scoring.score_candidates,
        model,
        meta_constants.defined_v,
        pool_rows,
        path_rbs,
        depth_rs,
        closings,
        width=width,
        chunk=plan.chunk,
        num_forms=plan.num_forms,
    )
    if group == plan.candidates:
        return run(token_rjt, length_rj, base_rj, branch_rj, candidate_rj)

    def split(x_rj):
        return x_rj.reshape(x_rj.shape[0], -1, group, *x_rj.shape[2:]).swapaxes(0, 1)

    score_xrj = lax.map(
        lambda xs: run(*xs)[0], tuple(map(split, (token_rjt, length_rj, base_rj, branch_rj, candidate_rj)))
    )
    return score_xrj.swapaxes(0, 1).reshape(candidate_rj.shape), None, None
