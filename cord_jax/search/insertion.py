"""Inserting problems into free slots, and reading their prompts piece by piece."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from cord_jax.search import packing
from cord_jax.search.closings import Closings
from cord_jax.search.commits import Branches, Chosen
from cord_jax.search.jax_tools import axes, pytree
from cord_jax.search.sampling import problem_key
from cord_jax.search.slots import SubBatch
from cord_jax.search.state import (
    READING,
    SEARCHING,
    Answer,
    Clock,
    Progress,
    Review,
    SearchPlan,
    SearchState,
    SlotPlan,
    SlotState,
)
from cord_jax.search.tasks import Start, Task
from cord_jax.search.tree import NONE, ROOT, first_frontier


@pytree
class Insertion:
    """Prompts for the rows of a sub-batch.

    Attributes:
      slot_r: int32, local slots; valid_r: bool, rows that count.
      problem_r: int32, the host's numbers of the problems.
      digest_r2: uint32, 64 bits of a hash of each problem's id.
      prompt_rt, prompt_length_r: for each reader the prompt's tokens and their number, int32.
      replayed_r: int32, rounds of each that were settled before.
      closings: of the rows' problems; None where nothing is scored.
      reviewed: closings of the review; None where winners are not reviewed.
      memory: what the decoding remembers to begin with; None for what it makes itself.
    """

    slot_r: jax.Array = axes("row")
    valid_r: jax.Array = axes("row")
    problem_r: jax.Array = axes("row")
    digest_r2: jax.Array = axes("row", "word")
    prompt_rt: tuple[jax.Array, ...] = axes("row", "token")
    prompt_length_r: tuple[jax.Array, ...] = axes("row")
    replayed_r: jax.Array = axes("row")
    closings: Closings | None = None
    reviewed: Closings | None = None
    memory: Any = None


def insert(plan: SearchPlan, state: SearchState, insertion: Insertion) -> SearchState:
    """Puts problems into free slots; the rounds that follow read their prompts."""

    def of_shard(_, state, insertion):
        batch = SubBatch(insertion.slot_r, insertion.valid_r)
        rows, zeros_r = len(insertion.slot_r), jnp.zeros_like(insertion.problem_r)
        fresh = dict(
            frontier=first_frontier(rows, plan.places, plan.nodes, plan.opened_first),
            memory=plan.decoding.empty_memory(rows, plan.nodes)
            if insertion.memory is None
            else insertion.memory,
            scorer_memory=plan.scorer.empty_memory(rows, plan.decoding.max_rounds, plan.candidates),
            progress=Progress(zeros_r, insertion.replayed_r, zeros_r > 0, zeros_r + NONE),
            answer=Answer(batch.take(state.answer.token_na), zeros_r, zeros_r),
            closings=insertion.closings,
        )
        if plan.review_forms:
            scores_rf = jnp.full((rows, plan.review_forms), -jnp.inf)
            fresh["review"] = Review(insertion.reviewed, scores_rf)
        written = {name: jax.tree.map(batch.put, getattr(state, name), new) for name, new in fresh.items()}
        if plan.judging is not None:
            judgments = state.judgments
            written["judgments"] = dataclasses.replace(
                judgments, written_n=batch.put(judgments.written_n, zeros_r)
            )
        return dataclasses.replace(insert_prompts(plan, state, insertion), **written)

    return plan.shards.each(of_shard, None, state, insertion)


def insert_prompts(plan: SlotPlan, state: SlotState, insertion: Insertion) -> SlotState:
    """Puts prompts into free slots of one shard."""
    batch = SubBatch(insertion.slot_r, insertion.valid_r)
    new_readers = []
    for s, prompt_rt, length_r in zip(state.readers, insertion.prompt_rt, insertion.prompt_length_r):
        room = s.prompt_nt.shape[1] - prompt_rt.shape[1]
        fresh = dict(
            prompt_nt=jnp.pad(prompt_rt, ((0, 0), (0, room))),
            prompt_length_n=length_r,
            cursor_n=jnp.zeros_like(length_r),
            length_nb=jnp.zeros_like(batch.take(s.length_nb)),
            node_ns=jnp.full_like(batch.take(s.node_ns), NONE),
            path_nbs=jnp.zeros_like(batch.take(s.path_nbs)),
        )
        written = {name: batch.put(getattr(s, name), new) for name, new in fresh.items()}
        new_readers.append(dataclasses.replace(s, **written))
    zeros_r = jnp.zeros_like(insertion.problem_r)
    key_r2 = jax.vmap(functools.partial(problem_key, plan.seed))(insertion.digest_r2)
    clock = Clock(zeros_r + READING, insertion.problem_r, key_r2, zeros_r, zeros_r)
    return dataclasses.replace(
        state, readers=tuple(new_readers), clock=jax.tree.map(batch.put, state.clock, clock)
    )


def prompt_task(plan: SlotPlan, state: SlotState, batch: SubBatch, replayed_r=0) -> Task:
    """Reads the next piece of the rows' prompts; with the last one, the heading of the first step.

    A piece is no longer than a step is, so that it does not hold up the problems beside it for long.

    Args:
      replayed_r: int32, rounds that were settled before: of rows with any, the first step is not written again.
    """
    piece, clock = plan.read_width, jax.tree.map(batch.take, state.clock)
    first_b = jnp.arange(plan.places) == 0
    longest_r = jnp.max(jnp.stack([batch.take(s.prompt_length_n) for s in state.readers]), axis=0)
    last_r = clock.read_n + piece >= longest_r
    zeros_r, zeros_rb = jnp.zeros_like(clock.read_n), jnp.zeros((len(batch.slot_r), plan.places), jnp.int32)
    chosen = []
    for reader, s in zip(plan.readers, state.readers):
        place_rt = clock.read_n[:, None] + jnp.arange(piece)
        token_rt = packing.pick(batch.take(s.prompt_nt), jnp.minimum(place_rt, s.prompt_nt.shape[1] - 1))
        length_r = jnp.clip(batch.take(s.prompt_length_n) - clock.read_n, 0, piece)
        follows_r = last_r & bool(reader.proposers)
        chosen.append(
            Chosen(
                length_rb=jnp.where(first_b, length_r[:, None], 0),
                token_rbt=jnp.broadcast_to(token_rt[:, None], (*zeros_rb.shape, piece)),
                cue_rb=jnp.where(first_b & follows_r[:, None], 1, -1),
                permanent_r=jnp.zeros_like(last_r),
                shared_r=jnp.ones_like(last_r),
            )
        )
    opens_rb = (jnp.arange(plan.places) < plan.opened_first) & last_r[:, None]
    start = Start(
        open_rb=opens_rb & (zeros_r >= replayed_r)[:, None],
        limit_rb=zeros_rb + plan.first_limit,
        step_rb=zeros_rb + 1,
        label_rb=zeros_rb + jnp.arange(plan.places, dtype=jnp.int32),
        drawn_r=zeros_r,
        answering_r=jnp.zeros_like(last_r),
        writer_r=zeros_r,
    )
    root_ri = jnp.broadcast_to(jnp.arange(plan.nodes) == ROOT, (len(zeros_r), plan.nodes))
    lineage_rbi = jnp.broadcast_to(root_ri[:, None], (*zeros_rb.shape, plan.nodes))
    clock = dataclasses.replace(
        clock,
        phase_n=jnp.where(last_r, SEARCHING, READING),
        read_n=clock.read_n + piece,
        waited_n=zeros_r,
    )
    return Task(tuple(chosen), Branches(zeros_rb, lineage_rbi, root_ri), start, dict(clock=clock))
