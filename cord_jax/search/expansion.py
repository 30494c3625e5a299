"""Expanding: the candidates of a round become nodes, and the decoding says which nodes are extended next."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cord_jax.search import tree as trees
from cord_jax.search.commits import Branches, Chosen
from cord_jax.search.decodings import Decision, Round
from cord_jax.search.exchange import Candidates
from cord_jax.search.jax_tools import pytree
from cord_jax.search.packing import pick
from cord_jax.search.readers import ReaderPlan
from cord_jax.search.slots import SubBatch
from cord_jax.search.state import (
    ANSWERING,
    DONE,
    RECALLING,
    REVIEWING,
    SEARCHING,
    Progress,
    SearchPlan,
    SearchState,
)
from cord_jax.search.tasks import Start, Task
from cord_jax.search.tree import LOST, NONE, ROOT, Frontier, Tree, of_node


def expansion_task(
    plan: SearchPlan, state: SearchState, batch: SubBatch, candidates: Candidates, score_rj, scorer_memory
) -> tuple[Task, jax.Array]:
    """Makes nodes of scored candidates and decides what comes next; of one shard.

    Args:
      score_rj: float32, -inf where a candidate was dropped.
      scorer_memory: what the scorer remembers then.

    Returns: the task, and the candidate whose step each place commits, int32 [r, b].
    """
    take = functools.partial(jax.tree.map, batch.take)
    number_r, frontier = batch.take(state.progress.round_n), take(state.frontier)
    tree = _grown(plan, take(state.tree), frontier, number_r, candidates, score_rj)
    settled = Round(number_r, score_rj, candidates.remaining(batch), candidates.concluded_rj)
    memory, decision = plan.decoding.decide(take(state.memory), tree, frontier, settled)
    tree = dataclasses.replace(tree, rank_nmj=trees.at_round(tree.rank_nmj, number_r, decision.rank_rj))
    first_b = jnp.arange(plan.places) == 0
    stuck_rb = decision.stuck_r[:, None] & first_b
    node_rb = jnp.where(stuck_rb, decision.stuck_node_r[:, None], decision.node_rb)
    frontier = _next_frontier(plan, tree, frontier, dataclasses.replace(decision, node_rb=node_rb))
    first_r1 = trees.first_node(number_r, plan.candidates)[:, None]
    in_hand_rb = (frontier.node_nb >= first_r1) & (frontier.node_nb < first_r1 + plan.candidates)
    aside_rb = ~in_hand_rb & ~of_node(tree.committed_nmj, frontier.node_nb, root=True)
    recalls_r = aside_rb.any(1)
    # Where a step is not in hand, all steps of the row wait until it is.
    source_rb = jnp.where(in_hand_rb & ~recalls_r[:, None], frontier.node_nb - first_r1, NONE)
    progress = dataclasses.replace(
        take(state.progress),
        round_n=number_r + 1,
        over_n=decision.over_r,
        stuck_n=jnp.where(decision.stuck_r, decision.stuck_node_r, NONE),
    )
    phase_r = jnp.where(decision.over_r, _after_search(plan), SEARCHING)
    if not plan.review_forms:
        phase_r = jnp.where(decision.stuck_r, DONE, phase_r)
    phase_r = jnp.where(recalls_r, RECALLING, phase_r)
    next_ = _Next(tree, frontier, memory, progress, source_rb, ~recalls_r)
    task = _task(plan, state, batch, candidates, next_, phase_r)
    task.updates["scorer_memory"] = scorer_memory
    return task, jnp.maximum(source_rb, 0)


def recall_task(plan: SearchPlan, state: SearchState, batch: SubBatch, candidates: Candidates) -> Task:
    """Commits the steps of a frontier's nodes that were left aside when they were proposed."""
    take = functools.partial(jax.tree.map, batch.take)
    tree, frontier, progress = take(state.tree), take(state.frontier), take(state.progress)
    missing_rb = ~of_node(tree.committed_nmj, frontier.node_nb, root=True)
    place_b = jnp.arange(plan.places, dtype=jnp.int32) * plan.num_proposers
    next_ = _Next(
        tree,
        frontier,
        take(state.memory),
        progress,
        jnp.where(missing_rb, place_b, NONE),
        jnp.ones_like(progress.over_n),
    )
    phase_r = jnp.where(progress.over_n, _after_search(plan), SEARCHING)
    return _task(plan, state, batch, candidates, next_, phase_r)


def _after_search(plan: SearchPlan) -> int:
    """The phase that follows the search."""
    if not plan.answers:
        return DONE
    return REVIEWING if plan.review_forms else ANSWERING


@pytree
class _Next:
    """The state that rows go on with.

    Attributes:
      tree, frontier, memory, progress: of the rows.
      source_rb: int32, the candidate whose step each place commits, `NONE` for none.
      goes_on_r: bool, something is written next.
    """

    tree: Tree
    frontier: Frontier
    memory: Any
    progress: Progress
    source_rb: jax.Array
    goes_on_r: jax.Array


def _grown(plan, tree: Tree, frontier: Frontier, number_r, candidates: Candidates, score_rj) -> Tree:
    """The tree with the round's candidates as nodes."""
    place_j = np.arange(plan.candidates) // plan.num_proposers
    parent_rj = frontier.node_nb[:, place_j]
    tokens_rj = candidates.length_urj[plan.readers[plan.meta].vocabulary]
    new = Tree(
        parent_nmj=parent_rj,
        depth_nmj=of_node(tree.depth_nmj, parent_rj) + 1,
        score_nmj=score_rj,
        complete_nmj=candidates.concluded_rj,
        beam_nmj=frontier.label_nb[:, place_j],
        rank_nmj=jnp.full(score_rj.shape, LOST, jnp.int16),
        ended_nmj=candidates.ended_rj,
        dropped_nmj=candidates.dropped_rj,
        tokens_nmj=tokens_rj,
        thinking_nmj=of_node(tree.thinking_nmj, parent_rj) + tokens_rj,
        sampled_nmj=candidates.sampled_rj,
        committed_nmj=jnp.zeros_like(candidates.concluded_rj),
    )
    return jax.tree.map(lambda old, x: trees.at_round(old, number_r, x), tree, new)


def _next_frontier(plan, tree: Tree, frontier: Frontier, decision: Decision) -> Frontier:
    """The frontier that a decision asks for; places without a node keep the lineage of the first, whose KV cache they
    may look at: rows that stand still attend to something, too.
    """
    lineage_rbi = trees.lineages(tree, frontier, decision.node_rb)
    first_r1i = jnp.where(
        decision.node_rb[:, :1, None] >= ROOT, lineage_rbi[:, :1], jnp.arange(plan.nodes) == ROOT
    )
    none_rb1 = (decision.node_rb < ROOT)[..., None]
    return Frontier(
        decision.node_rb, decision.open_rb, decision.label_rb, jnp.where(none_rb1, first_r1i, lineage_rbi)
    )


def _task(plan, state: SearchState, batch: SubBatch, candidates: Candidates, next_: _Next, phase_r) -> Task:
    """Commits steps and begins what is written from the frontier: next steps, or the winner's answer.

    Of a search that is over only the winner matters, and only to the teacher who writes its answer and, if it is
    reviewed, to the meta-prover; the answer is begun after the review then.
    """
    tree, frontier, over_r = next_.tree, next_.frontier, next_.progress.over_n
    winner_r = frontier.node_nb[:, 0]
    writer_r = jnp.maximum(winner_r - 1, 0) % plan.num_proposers
    ends_r = next_.goes_on_r & over_r & (winner_r > ROOT) & (next_.progress.stuck_n < ROOT) & plan.answers
    answers_r = ends_r & (plan.review_forms == 0)
    opens_rb = frontier.open_nb & next_.goes_on_r[:, None]
    depth_rb = of_node(tree.depth_nmj, frontier.node_nb)
    cue_rb = jnp.where(opens_rb, depth_rb + 1, -1)
    none_rb = jnp.zeros_like(opens_rb)
    chosen = tuple(
        _chosen(
            plan,
            reader,
            candidates,
            next_,
            jnp.where(
                over_r[:, None], jnp.where(reader.writes(writer_r) & answers_r, 0, -1)[:, None], cue_rb
            ),
            ends_r & (reader.writes(writer_r) | (plan.review_forms > 0 and index == plan.meta)),
            _held(state, batch, index, frontier) if plan.judging and index == plan.meta else none_rb,
        )
        for index, reader in enumerate(plan.readers)
    )
    limit_rb = plan.max_thinking_tokens - of_node(tree.thinking_nmj, frontier.node_nb)
    answer_limit = min(plan.max_step_tokens, plan.max_answer_tokens)
    start = Start(
        open_rb=opens_rb & (next_.progress.round_n >= next_.progress.replayed_n)[:, None],
        limit_rb=jnp.where(over_r[:, None], answer_limit, jnp.minimum(plan.max_step_tokens, limit_rb)),
        step_rb=jnp.where(over_r[:, None], 0, depth_rb + 1),
        label_rb=jnp.where(over_r[:, None], 0, frontier.label_nb),
        drawn_r=jnp.zeros_like(batch.slot_r),
        answering_r=answers_r,
        writer_r=writer_r,
    )
    committed_rb = jnp.where(next_.source_rb >= 0, frontier.node_nb, NONE)
    is_new_ri = (committed_rb[..., None] == jnp.arange(1, plan.nodes)).any(1)
    committed_rmj = tree.committed_nmj | is_new_ri.reshape(tree.committed_nmj.shape)
    clock = jax.tree.map(batch.take, state.clock)
    answer = jax.tree.map(batch.take, state.answer)
    updates = dict(
        tree=dataclasses.replace(tree, committed_nmj=committed_rmj),
        frontier=frontier,
        memory=next_.memory,
        progress=next_.progress,
        clock=dataclasses.replace(clock, phase_n=phase_r, waited_n=jnp.zeros_like(clock.waited_n)),
        answer=dataclasses.replace(answer, writer_n=writer_r),
    )
    keeps_ri = plan.decoding.keeps(next_.memory, tree, frontier.lineage_nbi)
    return Task(chosen, Branches(frontier.node_nb, frontier.lineage_nbi, keeps_ri), start, updates)


def _held(state: SearchState, batch: SubBatch, reader: int, frontier: Frontier):
    """The places whose step stands in a reader's KV cache already, bool [r, b]: it was read to be judged."""
    node_r1s = batch.take(state.readers[reader].node_ns)[:, None]
    return (node_r1s == frontier.node_nb[..., None]).any(-1)


def _chosen(
    plan, reader: ReaderPlan, candidates: Candidates, next_: _Next, cue_rb, winner_r, held_rb
) -> Chosen:
    """Says what a reader commits: chosen steps and the cues of what comes next.

    Args:
      winner_r: bool, of searches that are over the reader takes the winner's step.
      held_rb: bool, steps that it holds already.
    """
    first_b = jnp.arange(plan.places) == 0
    over_r = next_.progress.over_n
    needed_rb = (next_.source_rb >= 0) & jnp.where(over_r[:, None], first_b & winner_r[:, None], True)
    needed_rb &= ~held_rb
    source_rb = jnp.maximum(next_.source_rb, 0)
    length_rb = pick(candidates.length_urj[reader.vocabulary], source_rb)
    token_rbt = jnp.take_along_axis(candidates.token_urjt[reader.vocabulary], source_rb[..., None], axis=1)
    cue_rb = jnp.where(over_r[:, None] & ~first_b, -1, cue_rb)
    return Chosen(
        length_rb=jnp.where(needed_rb, length_rb, 0),
        token_rbt=jnp.pad(token_rbt, ((0, 0), (0, 0), (0, plan.read_width - plan.step_width))),
        cue_rb=cue_rb if reader.proposers else jnp.full_like(cue_rb, -1),
        permanent_r=over_r,
        shared_r=jnp.zeros_like(over_r),
    )
