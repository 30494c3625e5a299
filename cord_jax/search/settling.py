"""Settling a step: the finished proposals of ready problems are exchanged, scored and selected."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cord_jax.search import packing, proposals
from cord_jax.search.commits import Chosen, Passage
from cord_jax.search.exchange import Exchange
from cord_jax.search.jax_tools import pytree
from cord_jax.search.readers import ReaderConstants, ReaderPlan
from cord_jax.search.scorers import predictive_perplexity
from cord_jax.search.selection import select
from cord_jax.search.slots import SubBatch
from cord_jax.search.state import ANSWERING, DONE, SEARCHING, History, SearchPlan, SearchState
from cord_jax.search.tasks import Start, Task


@pytree
class Candidates:
    """The candidates of a sub-batch after the exchange.

    Attributes:
      token_urjt, length_urj: int32, the canonical steps in every vocabulary u.
      ended_rj, dropped_rj: int8, indices into `steps.ENDED` and `steps.DROPPED`; `ABSENT` where the
        beam was not open.
      concluded_rj: bool, complete hypotheses.
      sampled_rj: int32, tokens that their writers sampled.
      replayed_r: bool, rows that an earlier run has settled; score_rj: float32, their scores.
    """

    token_urjt: jax.Array
    length_urj: jax.Array
    ended_rj: jax.Array
    dropped_rj: jax.Array
    concluded_rj: jax.Array
    sampled_rj: jax.Array
    replayed_r: jax.Array
    score_rj: jax.Array


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


@jax.named_scope("exchange")
def exchange_steps(
    plan: SearchPlan, exchange: Exchange, state: SearchState, batch: SubBatch
) -> tuple[Candidates, jax.Array]:
    """The callback of a round: ids of finished proposals out, canonical steps in every vocabulary in.

    Args:
      batch: rows of all shards, their slots numbered among all.

    Returns:
      The `Candidates`, and the tokens of the longest step; if it exceeds `step_width`, the candidates are cut short
      and must not be used. Where no row counts, there is no callback.
    """
    written = []
    for reader in state.readers:
        if reader.rows is not None:
            mine = jax.tree.map(batch.take, reader.rows.small())
            written.append((proposals.sampled_tokens(mine), mine.count_nq, mine.stopped_nq))
    shapes = vars(candidate_shapes(plan, len(exchange.vocabularies), len(batch.slot_r)))
    shapes = shapes | {"longest": jax.ShapeDtypeStruct((), jnp.int32)}
    told = (
        batch.take(state.problem_n),
        batch.take(state.step_n),
        batch.valid_r,
        batch.take(state.open_nb),
        batch.take(state.thinking_nb),
        written,
    )
    # The callback runs on one device: what it takes and gives is whole on all.
    exchanged = lax.cond(
        batch.valid_r.any(),
        lambda told: jax.pure_callback(functools.partial(exchange, plan.step_width), shapes, *told),
        lambda told: jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes),
        plan.shards.replicated(told),
    )
    longest = exchanged.pop("longest")
    return Candidates(**plan.shards.replicated(exchanged)), longest


def candidate_shapes(plan: SearchPlan, vocabularies: int, rows: int) -> Candidates:
    """`Candidates` of `rows` rows as shapes."""
    of_row = functools.partial(jax.ShapeDtypeStruct, (rows, plan.candidates))
    of_vocabulary = (vocabularies, rows, plan.candidates)
    return Candidates(
        token_urjt=jax.ShapeDtypeStruct((*of_vocabulary, plan.step_width), jnp.int32),
        length_urj=jax.ShapeDtypeStruct(of_vocabulary, jnp.int32),
        ended_rj=of_row(jnp.int8),
        dropped_rj=of_row(jnp.int8),
        concluded_rj=of_row(jnp.bool_),
        sampled_rj=of_row(jnp.int32),
        replayed_r=jax.ShapeDtypeStruct((rows,), jnp.bool_),
        score_rj=of_row(jnp.float32),
    )


def remaining(candidates: Candidates, batch: SubBatch):
    """The candidates that were not dropped, of the rows that count, bool [r, j]."""
    return (candidates.dropped_rj == 0) & batch.valid_r[:, None]


def step_task(
    plan: SearchPlan, state: SearchState, batch: SubBatch, candidates: Candidates, score_rj
) -> tuple[Task, jax.Array]:
    """Selects among scored candidates: what is committed and written then. Of one shard.

    Args:
      score_rj: float32, -inf where a candidate was dropped.

    Returns: the task, and the candidate of each new beam, int32 [r, b].
    """
    decision = _decide(plan, state, batch, candidates, score_rj)
    chosen = tuple(_chosen(plan, reader, state, batch, candidates, decision) for reader in plan.readers)
    updates = _updates(plan, state, batch, candidates, score_rj, decision)
    return Task(chosen, _start(plan, batch, updates, decision), updates), decision.chosen_rb


def _decide(plan, state, batch: SubBatch, candidates: Candidates, score_rj) -> Decision:
    """Selects, and sees which searches are over."""
    beams, take = plan.num_beams, batch.take
    kept_rb, source_rb, score_rb = select(
        take(state.score_nb), take(state.complete_nb), score_rj, remaining(candidates, batch), beams
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
    plan, reader: ReaderPlan, state, batch: SubBatch, candidates: Candidates, decision: Decision
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
    token_rbt = jnp.take_along_axis(token_rjt, decision.chosen_rb[..., None], axis=1)
    next_step_r = batch.take(state.step_n) + 1
    cue_rb = jnp.where(decision.open_rb, next_step_r[:, None], -1)
    cue_rb = jnp.where(answers_r[:, None], jnp.where(first_b, 0, -1), cue_rb)
    return Chosen(
        parent_rb=decision.parent_rb,
        length_rb=jnp.where(needed_rb, packing.pick(length_rj, decision.chosen_rb), 0),
        token_rbt=jnp.pad(token_rbt, ((0, 0), (0, 0), (0, plan.read_width - plan.step_width))),
        cue_rb=cue_rb if reader.proposers else jnp.full_like(cue_rb, -1),
        permanent_r=answers_r,
        shared_r=jnp.zeros_like(answers_r),
    )


def _updates(plan, state: SearchState, batch: SubBatch, candidates: Candidates, score_rj, decision: Decision):
    """The slots' small state after a selection, and what happened in the history."""
    beams, take = plan.num_beams, batch.take
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
    by_beam = remaining(candidates, batch).reshape(-1, beams, plan.num_proposers)
    lost_rb = take(state.open_nb) & ~by_beam.any(-1)
    ended_r, stuck_r = decision.ended_r, decision.stuck_r
    return dict(
        history=jax.tree.map(
            lambda old, new: jnp.where(at_step_rm1, new[:, None], take(old)), state.history, noted
        ),
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


def _start(plan, batch: SubBatch, updates, decision: Decision) -> Start:
    """Rows of open beams begin the next step, and the winner's writer its answer; others stand still."""
    ended_r = decision.ended_r
    limit_rb = jnp.minimum(plan.max_step_tokens, plan.max_thinking_tokens - updates["thinking_nb"])
    answer_limit = min(plan.max_step_tokens, plan.max_answer_tokens)
    return Start(
        open_rb=decision.open_rb,
        limit_rb=jnp.where(ended_r[:, None], answer_limit, limit_rb),
        step_r=jnp.where(ended_r, 0, updates["step_n"]),
        drawn_r=jnp.zeros_like(batch.slot_r),
        answering_r=ended_r & ~decision.stuck_r,
        writer_r=decision.writer_r,
    )


@jax.named_scope("score")
def score(
    plan: SearchPlan, constants: ReaderConstants, state: SearchState, batch: SubBatch, candidates: Candidates
) -> tuple[jax.Array, Passage | None]:
    """`(score_rj, passage)` of all candidates, by the meta-prover, of one shard.

    The passage has what was read for the rows that were not replayed; it is None unless one pass took all candidates.
    """
    group = plan.score_group
    reader, s = plan.readers[plan.meta], state.readers[plan.meta]
    new_rj = remaining(candidates, batch.among(~candidates.replayed_r))
    beam_j = np.arange(plan.candidates) // plan.num_proposers
    base_rj = batch.take(s.length_nb)[:, beam_j]
    run = functools.partial(
        predictive_perplexity.score_candidates,
        reader,
        constants,
        s.tree(batch, batch.take(s.path_nbs)),
        jax.tree.map(batch.take, state.closings),
        shards=plan.shards,
        num_forms=plan.num_forms,
    )
    continuations = predictive_perplexity.Continuations(
        candidates.token_urjt[reader.vocabulary],
        candidates.length_urj[reader.vocabulary],
        base_rj,
        jnp.broadcast_to(beam_j, base_rj.shape).astype(jnp.int32),
        new_rj,
    )
    if group == plan.candidates:
        score_rj, passage = run(candidates=continuations)
    else:

        def split(x_rj):
            return x_rj.reshape(x_rj.shape[0], -1, group, *x_rj.shape[2:]).swapaxes(0, 1)

        groups = jax.tree.map(split, continuations)
        score_xrj = lax.map(lambda group: run(candidates=group)[0], groups)
        score_rj, passage = score_xrj.swapaxes(0, 1).reshape(new_rj.shape), None
    return jnp.where(candidates.replayed_r[:, None], candidates.score_rj, score_rj), passage
