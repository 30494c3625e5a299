"""Settling a round: the finished steps of ready problems are exchanged, scored, selected and committed."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cord_jax import commits, packing, proposals, readers, scoring, slots
from cord_jax.commits import Chosen, Passage
from cord_jax.control import when
from cord_jax.exchange import Exchange
from cord_jax.readers import ReaderConstants, ReaderPlan, pytree
from cord_jax.selection import select
from cord_jax.state import ANSWERING, DONE, SEARCHING, History, SearchPlan, SearchState, start_rows


@pytree
class Candidates:
    """The candidates of a sub-batch after the exchange.

    Attributes:
      token_urjt, length_urj: int32, the canonical steps in every vocabulary u.
      ended_rj, dropped_rj: int8, indices into `exchange.ENDED` and `exchange.DROPPED`; `ABSENT` where the
        beam was not open.
      concluded_rj: bool, complete hypotheses.
      sampled_rj: int32, tokens that their writers sampled.
    """

    token_urjt: jax.Array
    length_urj: jax.Array
    ended_rj: jax.Array
    dropped_rj: jax.Array
    concluded_rj: jax.Array
    sampled_rj: jax.Array


@pytree
class Decision:
    """What a selection means for a sub-batch, in the numbering of the new beams.

    Attributes:
      kept_rb: bool, beams that exist; score_rb: float32.
      stepped_rb: bool, beams that got a step; chosen_rb: int32, its candidate.
      parent_rb: int32, the beam whose path each continues.
      open_rb: bool, beams that are extended.
      origin_rb: int32, as in `SearchState`.
      ended_r, stuck_r: bool, searches that are over, and those of which nothing is left.
      writer_r: int32, the proposer who would write the answer.
    """

    kept_rb: jax.Array
    score_rb: jax.Array
    stepped_rb: jax.Array
    chosen_rb: jax.Array
    parent_rb: jax.Array
    open_rb: jax.Array
    origin_rb: jax.Array
    ended_r: jax.Array
    stuck_r: jax.Array
    writer_r: jax.Array


def by_proposer(plan: SearchPlan, values):
    """Per-reader arrays `[x, q]` (None for readers that only score) as one array `[x, j]` of candidates."""
    rows = next(value.shape[0] for value in values if value is not None)
    result = [None] * plan.num_proposers
    for reader, value in zip(plan.readers, values):
        for place, proposer in enumerate(reader.proposers):
            result[proposer] = value.reshape(rows, plan.num_beams, -1)[:, :, place]
    return jnp.stack(result, axis=2).reshape(rows, -1)


@jax.named_scope("exchange")
def exchange_steps(plan: SearchPlan, exchange: Exchange, state: SearchState, slot_r, valid_r):
    """The callback of a round: ids of finished proposals out, canonical steps in every vocabulary in.

    Returns:
      `(candidates, longest)`: the `Candidates`, and the tokens of the longest step; if it exceeds
      `step_width`, the candidates are cut short and must not be used.
    """
    take = functools.partial(slots.take, slot_r=plan.shards.among_all(slot_r, plan.slots))
    rows, candidates, width = slot_r.shape[0], plan.candidates, plan.step_width
    vocabularies = len(exchange.vocabularies)
    written = []
    for reader in state.readers:
        if reader.rows is not None:
            mine = jax.tree.map(take, dataclasses.replace(reader.rows, local=()))
            written.append((proposals.sampled_tokens(mine), mine.count_nq, mine.stopped_nq))
    shapes = {
        "token_urjt": jax.ShapeDtypeStruct((vocabularies, rows, candidates, width), jnp.int32),
        "length_urj": jax.ShapeDtypeStruct((vocabularies, rows, candidates), jnp.int32),
        "ended_rj": jax.ShapeDtypeStruct((rows, candidates), jnp.int8),
        "dropped_rj": jax.ShapeDtypeStruct((rows, candidates), jnp.int8),
        "concluded_rj": jax.ShapeDtypeStruct((rows, candidates), jnp.bool_),
        "longest": jax.ShapeDtypeStruct((), jnp.int32),
    }
    told = take(state.problem_n), take(state.step_n), valid_r, take(state.open_nb), take(state.thinking_nb), written
    # The callback runs on one device: what it takes and gives is whole on all.
    told = plan.shards.replicated(told)
    exchanged = plan.shards.replicated(jax.pure_callback(functools.partial(exchange, width), shapes, *told))
    longest = exchanged.pop("longest")
    sampled = [None if s.rows is None else take(s.rows.count_nq) for s in state.readers]
    return Candidates(sampled_rj=by_proposer(plan, sampled), **exchanged), longest


def settle_steps(
    plan: SearchPlan,
    exchange: Exchange,
    constants: tuple[ReaderConstants, ...],
    state: SearchState,
    ready_n,
) -> SearchState:
    """Exchanges, scores, selects and commits the steps of a sub-batch of ready problems."""
    shards = plan.shards
    slot_r = shards.choose(jnp.where(ready_n, state.waited_n + 1, 0))
    valid_r = slots.take(ready_n, shards.among_all(slot_r, plan.slots))
    candidates, longest = exchange_steps(plan, exchange, state, slot_r, valid_r)
    state = dataclasses.replace(state, longest=jnp.maximum(state.longest, longest))

    settle = functools.partial(shards.each, functools.partial(_score_and_settle, plan), constants)
    return when(longest <= plan.step_width, lambda state: settle(state, slot_r, valid_r, candidates), state)


def _score_and_settle(plan, constants, state, slot_r, valid_r, candidates: Candidates) -> SearchState:
    """What follows the exchange, on one shard."""
    score_rj, passage = score(plan, constants[plan.meta], state, slot_r, valid_r, candidates)
    return settle_scored(plan, constants, state, slot_r, valid_r, candidates, score_rj, passage)


def remaining(candidates: Candidates, valid_r):
    """The candidates that were not dropped, of the rows that count, bool [r, j]."""
    return (candidates.dropped_rj == 0) & valid_r[:, None]


@jax.named_scope("commit")
def settle_scored(
    plan: SearchPlan,
    constants: tuple[ReaderConstants, ...],
    state: SearchState,
    slot_r,
    valid_r,
    candidates: Candidates,
    score_rj,
    passage: Passage | None = None,
) -> SearchState:
    """Selects among scored candidates and commits what was chosen; nothing changes if a pool has no room for
    it. Of one shard.

    Args:
      score_rj: float32, -inf where a candidate was dropped.
      passage: what the scoring pass has read; None if the meta-prover has to read the chosen steps anew.
    """
    shards = plan.shards
    decision = _decide(plan, state, slot_r, valid_r, candidates, score_rj)
    chosen = [_chosen(plan, reader, slot_r, valid_r, candidates, decision, state) for reader in plan.readers]
    needs = [
        jnp.where(valid_r, c.length_rb.sum(1) + commits.cue_lengths(k, c).sum(1), 0)
        for k, c in zip(constants, chosen)
    ]
    rooms = [
        commits.room(s, c, need, reader.blocks)
        for reader, s, c, need in zip(plan.readers, state.readers, chosen, needs)
    ]
    short = jnp.stack([(valid_r & ~fits).any() for _, fits in rooms])
    state = dataclasses.replace(state, short_yx=state.short_yx | short)

    def commit(state: SearchState) -> SearchState:
        noted = _note(plan, state, slot_r, valid_r, candidates, score_rj, decision)
        new_readers = []
        for index, (reader, k, s, c, (compacts_r, _)) in enumerate(
            zip(plan.readers, constants, state.readers, chosen, rooms)
        ):
            s = commits.compact(reader.stacked, s, shards, c, valid_r & compacts_r)
            if index == plan.meta and passage is not None:
                s = commits.take_scored(reader, s, shards, c, passage, decision.chosen_rb, chunk=plan.chunk)
                c = commits.cues_only(c)
            if reader.proposers or passage is None or index != plan.meta:
                s, full_rbs = commits.append(reader, k, s, shards, c, chunk=plan.chunk)
                s = _restart(plan, index, s, noted, slot_r, valid_r, full_rbs, decision)
            new_readers.append(s)
        return dataclasses.replace(noted, readers=tuple(new_readers))

    return when(~shards.agreed(short.any()), commit, state)


def _decide(plan, state, slot_r, valid_r, candidates: Candidates, score_rj) -> Decision:
    """Selects, and sees which searches are over."""
    beams = plan.num_beams
    take = functools.partial(slots.take, slot_r=slot_r)
    kept_rb, source_rb, score_rb = select(
        take(state.score_nb), take(state.complete_nb), score_rj, remaining(candidates, valid_r), beams
    )
    kept_rb &= jnp.arange(beams) < plan.kept_beams
    stepped_rb = kept_rb & (source_rb >= beams)
    chosen_rb = jnp.maximum(source_rb - beams, 0)
    parent_rb = jnp.where(source_rb >= beams, chosen_rb // plan.num_proposers, source_rb)
    goes_on_rb = stepped_rb & ~packing.pick(candidates.concluded_rj, chosen_rb)
    step_r = take(state.step_n)
    ended_r = ~goes_on_rb.any(1) | (step_r >= plan.max_steps)
    # When a search ends only the winner, beam 0, matters any more.
    parent_rb = jnp.where(ended_r[:, None] | ~kept_rb, parent_rb[:, :1], parent_rb)
    origin_rb = jnp.where(
        stepped_rb,
        (step_r[:, None] - 1) * plan.candidates + chosen_rb,
        jnp.take_along_axis(take(state.origin_nb), parent_rb, axis=1),
    )
    return Decision(
        kept_rb=kept_rb,
        score_rb=score_rb,
        stepped_rb=stepped_rb,
        chosen_rb=chosen_rb,
        parent_rb=parent_rb,
        open_rb=goes_on_rb & ~ended_r[:, None],
        origin_rb=origin_rb,
        ended_r=ended_r,
        stuck_r=~kept_rb.any(1),
        writer_r=jnp.maximum(origin_rb[:, 0], 0) % plan.num_proposers,
    )


def _chosen(
    plan, reader: ReaderPlan, slot_r, valid_r, candidates: Candidates, decision: Decision, state
) -> Chosen:
    """What a reader commits: the chosen steps and next headings, or the winner and the cue of its answer."""
    first_b = jnp.arange(plan.num_beams) == 0
    ended_r = decision.ended_r
    answers_r = (
        ended_r & ~decision.stuck_r & jnp.isin(decision.writer_r, np.asarray(reader.proposers, np.int32))
    )
    needed_rb = decision.stepped_rb & jnp.where(ended_r[:, None], first_b & answers_r[:, None], True)
    length_rj = candidates.length_urj[reader.vocabulary]
    token_rjt = candidates.token_urjt[reader.vocabulary]
    next_step_r = slots.take(state.step_n, slot_r) + 1
    cue_rb = jnp.where(decision.open_rb, next_step_r[:, None], -1)
    cue_rb = jnp.where(answers_r[:, None], jnp.where(first_b, 0, -1), cue_rb)
    return Chosen(
        slot_r=slot_r,
        valid_r=valid_r,
        parent_rb=decision.parent_rb,
        length_rb=jnp.where(needed_rb, packing.pick(length_rj, decision.chosen_rb), 0),
        token_rbt=jnp.take_along_axis(token_rjt, decision.chosen_rb[..., None], axis=1),
        cue_rb=cue_rb if reader.proposers else jnp.full_like(cue_rb, -1),
        permanent_r=answers_r,
    )


def _note(
    plan, state: SearchState, slot_r, valid_r, candidates: Candidates, score_rj, decision
) -> SearchState:
    """The slots' small state after a selection, and what happened in the history."""
    beams = plan.num_beams
    take = functools.partial(slots.take, slot_r=slot_r)
    step_r = take(state.step_n)
    tokens_rj = candidates.length_urj[plan.readers[plan.meta].vocabulary]
    tokens_rb = jnp.where(decision.stepped_rb, packing.pick(tokens_rj, decision.chosen_rb), 0)
    rank_rj = jnp.full(score_rj.shape, -1, jnp.int8)
    for beam in range(beams):
        is_rj = jnp.arange(plan.candidates) == decision.chosen_rb[:, beam, None]
        rank_rj = jnp.where(is_rj & decision.stepped_rb[:, beam, None], jnp.int8(beam), rank_rj)
    noted = History(
        score_nmj=score_rj,
        rank_nmj=rank_rj,
        ended_nmj=candidates.ended_rj,
        dropped_nmj=candidates.dropped_rj,
        tokens_nmj=tokens_rj,
        sampled_nmj=candidates.sampled_rj,
    )
    at_step_rm1 = (jnp.arange(plan.max_steps) == (step_r - 1)[:, None])[..., None]
    history = jax.tree.map(
        lambda old, new: slots.put(old, slot_r, valid_r, jnp.where(at_step_rm1, new[:, None], take(old))),
        state.history,
        noted,
    )
    by_beam = remaining(candidates, valid_r).reshape(-1, beams, plan.num_proposers)
    lost_rb = take(state.open_nb) & ~by_beam.any(-1)
    ended_r, stuck_r = decision.ended_r, decision.stuck_r
    updates = dict(
        phase_n=jnp.where(stuck_r, DONE, jnp.where(ended_r, ANSWERING, SEARCHING)),
        step_n=jnp.where(ended_r, step_r, step_r + 1),
        waited_n=jnp.zeros_like(step_r),
        open_nb=decision.open_rb,
        complete_nb=decision.kept_rb & ~decision.open_rb,
        score_nb=decision.score_rb,
        thinking_nb=jnp.take_along_axis(take(state.thinking_nb), decision.parent_rb, axis=1) + tokens_rb,
        origin_nb=jnp.where(stuck_r[:, None], take(state.origin_nb), decision.origin_rb),
        stuck_n=jnp.where(stuck_r, jnp.argmax(lost_rb, axis=1).astype(jnp.int32), -1),
        writer_n=decision.writer_r,
    )
    return dataclasses.replace(
        state,
        history=history,
        **{name: slots.put(getattr(state, name), slot_r, valid_r, new) for name, new in updates.items()},
    )


def _restart(plan, index, reader_state, noted: SearchState, slot_r, valid_r, full_rbs, decision: Decision):
    """Rows of open beams begin the next step, and the winner's writer its answer; others stand still."""
    take = functools.partial(slots.take, slot_r=slot_r)
    ended_r = decision.ended_r
    limit_rb = jnp.minimum(plan.max_step_tokens, plan.max_thinking_tokens - take(noted.thinking_nb))
    answer_limit = min(plan.max_step_tokens, plan.max_answer_tokens)
    return start_rows(
        plan,
        index,
        reader_state,
        slot_r,
        valid_r,
        full_rbs,
        decision.open_rb,
        jnp.where(ended_r[:, None], answer_limit, limit_rb),
        jnp.where(ended_r, 0, take(noted.step_n)),
        take(noted.key_n2),
        jnp.zeros_like(slot_r),
        ended_r & ~decision.stuck_r,
        decision.writer_r,
    )


@jax.named_scope("score")
def score(plan, meta_constants: ReaderConstants, state: SearchState, slot_r, valid_r, candidates: Candidates):
    """`(score_rj, passage)` of all candidates; the passage is None unless one pass took them all."""
    shards, group = plan.shards, plan.score_group
    meta_plan, meta_state = plan.readers[plan.meta], state.readers[plan.meta]
    token_rjt = candidates.token_urjt[meta_plan.vocabulary]
    length_rj = candidates.length_urj[meta_plan.vocabulary]
    candidate_rj = remaining(candidates, valid_r)
    beam_j = np.arange(plan.candidates) // plan.num_proposers
    base_rj = slots.take(meta_state.length_nb, slot_r)[:, beam_j]
    branch_rj = jnp.broadcast_to(beam_j, base_rj.shape).astype(jnp.int32)
    run = functools.partial(
        scoring.score_candidates,
        readers.decoder(meta_plan, meta_constants),
        meta_constants.defined_v,
        meta_state.pool,
        slot_r,
        slots.take(meta_state.path_nbs, slot_r),
        slots.take(meta_state.depth_ns, slot_r),
        jax.tree.map(lambda x: slots.take(x, slot_r), state.closings),
        shards=shards,
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
    return score_xrj.swapaxes(0, 1).reshape(candidate_rj.shape), None
