"""Inserting problems into free slots, and reading their prompts piece by piece."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from cord_jax.search import packing
from cord_jax.search.commits import Chosen
from cord_jax.search.jax_tools import pytree
from cord_jax.search.sampling import problem_key
from cord_jax.search.scorers.predictive_perplexity import Closings
from cord_jax.search.slots import SubBatch
from cord_jax.search.state import READING, SEARCHING, SearchPlan, SearchState
from cord_jax.search.tasks import Start, Task


@pytree
class Insertion:
    """Problems for the rows of a sub-batch.

    Attributes:
      slot_r: int32, local slots; valid_r: bool, rows that count.
      problem_r: int32, the host's numbers of the problems.
      digest_r2: uint32, 64 bits of a hash of each problem's id.
      replayed_r: int32, steps of each that were settled before.
      closings: of the rows' problems.
      prompt_rt, prompt_length_r: for each reader the prompt's tokens and their number, int32.
    """

    slot_r: jax.Array
    valid_r: jax.Array
    problem_r: jax.Array
    digest_r2: jax.Array
    replayed_r: jax.Array
    closings: Closings
    prompt_rt: tuple[jax.Array, ...]
    prompt_length_r: tuple[jax.Array, ...]


def insert(plan: SearchPlan, state: SearchState, insertion: Insertion) -> SearchState:
    """Puts problems into free slots; the rounds that follow read their prompts."""

    def of_shard(_, state, insertion):
        return _insert(plan, state, insertion)

    return plan.shards.each(of_shard, None, state, insertion)


def _insert(plan: SearchPlan, state: SearchState, insertion: Insertion) -> SearchState:
    batch = SubBatch(insertion.slot_r, insertion.valid_r)
    key_r2 = jax.vmap(functools.partial(problem_key, plan.seed))(insertion.digest_r2)
    new_readers = []
    for s, prompt_rt, length_r in zip(state.readers, insertion.prompt_rt, insertion.prompt_length_r):
        room = s.prompt_nt.shape[1] - prompt_rt.shape[1]
        fresh = dict(
            prompt_nt=jnp.pad(prompt_rt, ((0, 0), (0, room))),
            prompt_length_n=length_r,
            cursor_n=jnp.zeros_like(length_r),
            length_nb=jnp.zeros_like(batch.take(s.length_nb)),
            path_nbs=jnp.zeros_like(batch.take(s.path_nbs)),
        )
        written = {name: batch.put(getattr(s, name), new) for name, new in fresh.items()}
        new_readers.append(dataclasses.replace(s, **written))
    zeros_r = jnp.zeros_like(insertion.problem_r)
    zeros_rb = jnp.zeros_like(batch.take(state.origin_nb))
    open_rb = zeros_rb + jnp.arange(plan.num_beams) < plan.first_beams
    fresh = dict(
        phase_n=zeros_r + READING,
        problem_n=insertion.problem_r,
        key_n2=key_r2,
        read_n=zeros_r,
        replayed_n=insertion.replayed_r,
        step_n=zeros_r + 1,
        waited_n=zeros_r,
        open_nb=open_rb,
        complete_nb=jnp.zeros_like(open_rb),
        score_nb=jnp.zeros(open_rb.shape, jnp.float32),
        thinking_nb=zeros_rb,
        origin_nb=zeros_rb - 1,
        stuck_n=zeros_r - 1,
        writer_n=zeros_r,
        answer_count_n=zeros_r,
        closings=insertion.closings,
    )
    written = {name: jax.tree.map(batch.put, getattr(state, name), new) for name, new in fresh.items()}
    return dataclasses.replace(state, readers=tuple(new_readers), **written)


def prompt_task(plan: SearchPlan, state: SearchState, batch: SubBatch) -> Task:
    """The next piece of the rows' prompts; with the last one, the heading of the first step.

    A prompt is no longer a task than a step is, so that it does not hold up the problems beside it for long.
    """
    piece, beams = plan.read_width, plan.num_beams
    read_r = batch.take(state.read_n)
    first_b = jnp.arange(beams) == 0
    longest_r = jnp.max(jnp.stack([batch.take(s.prompt_length_n) for s in state.readers]), axis=0)
    last_r = read_r + piece >= longest_r
    zeros_r, zeros_rb = jnp.zeros_like(read_r), jnp.zeros_like(batch.take(state.origin_nb))
    chosen = []
    for reader, s in zip(plan.readers, state.readers):
        place_rt = read_r[:, None] + jnp.arange(piece)
        token_rt = packing.pick(batch.take(s.prompt_nt), jnp.minimum(place_rt, s.prompt_nt.shape[1] - 1))
        length_r = jnp.clip(batch.take(s.prompt_length_n) - read_r, 0, piece)
        follows_r = last_r & bool(reader.proposers)
        chosen.append(
            Chosen(
                parent_rb=zeros_rb,
                length_rb=jnp.where(first_b, length_r[:, None], 0),
                token_rbt=jnp.broadcast_to(token_rt[:, None], (*zeros_rb.shape, piece)),
                cue_rb=jnp.where(first_b & follows_r[:, None], 1, -1),
                permanent_r=jnp.zeros_like(last_r),
                shared_r=jnp.ones_like(last_r),
            )
        )
    start = Start(
        open_rb=batch.take(state.open_nb) & last_r[:, None],
        limit_rb=zeros_rb + min(plan.max_step_tokens, plan.max_thinking_tokens),
        step_r=zeros_r + 1,
        drawn_r=zeros_r,
        answering_r=jnp.zeros_like(last_r),
        writer_r=zeros_r,
    )
    updates = dict(phase_n=jnp.where(last_r, SEARCHING, READING), read_n=read_r + piece, waited_n=zeros_r)
    return Task(tuple(chosen), start, updates)
