"""Judging: after every candidate the meta-prover states an answer, some times over (paper, "selection criteria"; method,
section 3.13).

The candidates of a round are read into the meta-prover's KV cache, each as a node of its own with the closing behind it.
Its judgments are rows of the token loop that fork from there. When they have ended, the exchange grades them, the
candidates are scored, and the steps of those that are chosen lie in the cache already. Everything here is of one shard.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cord_jax.search import commits
from cord_jax.search.commits import Branches, Chosen
from cord_jax.search.exchange import Candidates
from cord_jax.search.jax_tools import when
from cord_jax.search.judgments import Judgments, judge_constants
from cord_jax.search.proposals import propose
from cord_jax.search.readers import ReaderConstants, ReaderState
from cord_jax.search.sampling import judgment_key
from cord_jax.search.slots import SubBatch
from cord_jax.search.state import JUDGING, SearchPlan, SearchState
from cord_jax.search.tasks import Texts, begin_texts
from cord_jax.search.tree import first_node, of_node


@jax.named_scope("judge")
def begin_judging(
    plan: SearchPlan,
    constants: tuple[ReaderConstants, ...],
    state: SearchState,
    batch: SubBatch,
    candidates: Candidates,
) -> SearchState:
    """Reads the candidates of a sub-batch and begins their judgments; nothing changes if the KV cache has no room."""
    meta, shards = plan.meta, plan.shards
    reader, k = plan.judging.reader(plan.readers[meta]), judge_constants(constants[meta])
    take = functools.partial(jax.tree.map, batch.take)
    tree, frontier = take(state.tree), take(state.frontier)
    valid_rj = candidates.remaining(batch)
    branches = _branches(plan, state, batch, valid_rj)
    token_rjt = candidates.token_urjt[reader.vocabulary]
    none_r = jnp.zeros_like(batch.valid_r)
    chosen = Chosen(
        length_rb=jnp.where(valid_rj, candidates.length_urj[reader.vocabulary], 0),
        token_rbt=token_rjt,
        cue_rb=jnp.where(valid_rj, 0, -1),
        permanent_r=none_r,
        shared_r=none_r,
    )
    need_r = commits.needed(k, batch, chosen)
    compacts_r, fits_r = commits.room(reader, state.readers[meta], batch, branches, need_r)
    short = (batch.valid_r & ~fits_r).any()
    short_yx = state.meters.short_yx.at[:, meta].set(state.meters.short_yx[:, meta] | short)
    state = dataclasses.replace(state, meters=dataclasses.replace(state.meters, short_yx=short_yx))
    place_j = np.arange(plan.candidates) // plan.num_proposers
    proposer_j = np.arange(plan.candidates, dtype=np.int32) % plan.num_proposers

    def begin(state: SearchState) -> SearchState:
        s = commits.compact(reader, state.readers[meta], shards, batch.among(compacts_r), branches)
        s, full_rjs = _read(plan, k, s, batch, chosen, branches)
        step_rj = of_node(tree.depth_nmj, frontier.node_nb)[:, place_j] + 1
        texts = plan.judging.texts
        repeat = functools.partial(jnp.repeat, repeats=texts, axis=1)
        number_q = np.tile(np.arange(texts, dtype=np.uint32), plan.candidates)
        keys = jax.vmap(jax.vmap(judgment_key, (None, 0, 0, 0, 0)), (0, 0, 0, None, None))
        begun = Texts(
            limit_rq=jnp.full((len(batch.slot_r), len(number_q)), plan.judging.max_tokens),
            drawn_rq=jnp.zeros((len(batch.slot_r), len(number_q)), jnp.int32),
            key_rq2=keys(
                batch.take(state.clock.key_n2),
                repeat(step_rj),
                repeat(frontier.label_nb[:, place_j]),
                np.repeat(proposer_j, texts),
                number_q,
            ),
            boundary_rq=jnp.full((len(batch.slot_r), len(number_q)), reader.start),
            running_rq=repeat(valid_rj),
        )
        judgments = state.judgments
        rows = begin_texts(_as_reader(s, judgments), batch, full_rjs, begun)
        last_rj1 = commits.last_columns(full_rjs)[..., None]
        view_rjs = full_rjs & (jnp.arange(full_rjs.shape[-1]) != last_rj1)
        judgments = dataclasses.replace(
            judgments,
            view_njs=batch.put(judgments.view_njs, view_rjs),
            rows=rows,
            graded_n=batch.put(judgments.graded_n, jnp.full_like(none_r, not plan.judging.graded_outside)),
        )
        clock = jax.tree.map(batch.take, state.clock)
        clock = dataclasses.replace(
            clock, phase_n=jnp.full_like(clock.phase_n, JUDGING), waited_n=jnp.zeros_like(clock.waited_n)
        )
        return dataclasses.replace(
            state,
            readers=(*state.readers[:meta], s, *state.readers[meta + 1 :]),
            judgments=judgments,
            clock=jax.tree.map(batch.put, state.clock, clock),
        )

    return when(~shards.agreed(short), begin, state)


def write_judgments(
    plan: SearchPlan, constants: tuple[ReaderConstants, ...], state: SearchState, quantum
) -> SearchState:
    """Writes up to a quantum of tokens of every judgment."""
    meta, shards = plan.meta, plan.shards
    reader, k = plan.judging.reader(plan.readers[meta]), judge_constants(constants[meta])

    def write(state: SearchState) -> SearchState:
        judgments = state.judgments
        s, ticks = propose(reader, shards, k, _as_reader(state.readers[meta], judgments), quantum)
        new_nq = s.rows.count_nq - judgments.rows.count_nq
        judgments = dataclasses.replace(
            judgments, rows=s.rows, tick_y=s.tick_y, written_n=judgments.written_n + new_nq.sum(1)
        )
        meters = dataclasses.replace(
            state.meters,
            ticked_y=state.meters.ticked_y + (ticks * new_nq.size).astype(jnp.float32),
            busy_y=state.meters.busy_y + new_nq.sum().astype(jnp.float32),
        )
        return dataclasses.replace(state, judgments=judgments, meters=meters)

    return when(shards.agreed(state.judgments.rows.running_nq.any()), write, state)


def _as_reader(state: ReaderState, judgments: Judgments) -> ReaderState:
    """The meta-prover's reader with candidates as its places and judgments as its rows."""
    return dataclasses.replace(
        state, view_nbs=judgments.view_njs, tick_y=judgments.tick_y, rows=judgments.rows
    )


def _branches(plan: SearchPlan, state: SearchState, batch: SubBatch, valid_rj) -> Branches:
    """The candidates as nodes below those of the frontier."""
    take = functools.partial(jax.tree.map, batch.take)
    tree, frontier = take(state.tree), take(state.frontier)
    place_j = np.arange(plan.candidates) // plan.num_proposers
    node_rj = first_node(batch.take(state.progress.round_n), plan.candidates)[:, None]
    node_rj = node_rj + jnp.arange(plan.candidates)
    is_new_rji = node_rj[..., None] == jnp.arange(plan.nodes)
    keeps_ri = plan.decoding.keeps(take(state.memory), tree, frontier.lineage_nbi)
    return Branches(
        node_rb=node_rj,
        lineage_rbi=frontier.lineage_nbi[:, place_j] | is_new_rji,
        keeps_ri=keeps_ri | (is_new_rji & valid_rj[..., None]).any(1),
    )


def _read(
    plan: SearchPlan,
    constants: ReaderConstants,
    state: ReaderState,
    batch: SubBatch,
    chosen: Chosen,
    branches: Branches,
) -> tuple[ReaderState, jax.Array]:
    """Reads the candidates, each with the closing behind it, some at a time to bound memory.

    Returns: the state, and the columns that each candidate's judgments see, bool [r, j, s]. Those of the closings lie
      behind the cursor, or belong to no node, and so are overwritten or squeezed out later.
    """
    reader, group = plan.judging.reader(plan.readers[plan.meta]), plan.score_group
    # What places see is not needed until the next commit, which finds it anew.
    of_places = state.path_nbs, state.view_nbs, state.length_nb

    def split(x_rj):
        """[r, j, ...] to [groups, r, j of a group, ...]."""
        return x_rj.reshape(x_rj.shape[0], -1, group, *x_rj.shape[2:]).swapaxes(0, 1)

    columns, slots = state.node_ns.shape[1], state.node_ns.shape[0]
    none_ngs = jnp.zeros((slots, group, columns), bool)
    state = dataclasses.replace(
        state, path_nbs=none_ngs, view_nbs=none_ngs, length_nb=jnp.zeros((slots, group), jnp.int32)
    )

    def read(carry, part):
        state, behind_r = carry
        length_rg, token_rgt, cue_rg, node_rg, lineage_rgi = part
        of_group = dataclasses.replace(chosen, length_rb=length_rg, token_rbt=token_rgt, cue_rb=cue_rg)
        new = Branches(node_rg, lineage_rgi, branches.keeps_ri)
        # The closings of the group before stay where they are.
        cursor_n = batch.put(state.cursor_n, batch.take(state.cursor_n) + behind_r)
        state = dataclasses.replace(state, cursor_n=cursor_n)
        state, full_rgs = commits.append(reader, constants, state, plan.shards, batch, of_group, new)
        return (state, commits.cue_lengths(constants, batch, of_group).sum(1)), full_rgs

    parts = (chosen.length_rb, chosen.token_rbt, chosen.cue_rb, branches.node_rb, branches.lineage_rbi)
    parts = jax.tree.map(split, parts)
    first = state, jnp.zeros_like(batch.slot_r)
    if group == plan.candidates:
        (state, _), full_rjs = read(first, jax.tree.map(lambda x: x[0], parts))
    else:
        (state, _), full_grgs = lax.scan(read, first, parts)
        full_rjs = full_grgs.swapaxes(0, 1).reshape(len(batch.slot_r), plan.candidates, columns)
    path_nbs, view_nbs, length_nb = of_places
    return dataclasses.replace(state, path_nbs=path_nbs, view_nbs=view_nbs, length_nb=length_nb), full_rjs
