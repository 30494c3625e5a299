"""Inserting problems into free slots: prompts are read, and the first step begins."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from cord_jax import commits, slots
from cord_jax.commits import Chosen
from cord_jax.readers import ReaderConstants, pytree
from cord_jax.sampling import problem_key
from cord_jax.scoring import Closings
from cord_jax.state import SEARCHING, SearchPlan, SearchState, start_rows


@pytree
class Insertion:
    """Problems for the rows of a sub-batch.

    Attributes:
      slot_r: int32, local slots; valid_r: bool, rows that count.
      problem_r: int32, the host's numbers of the problems.
      digest_r2: uint32, 64 bits of a hash of each problem's id.
      closings: of the rows' problems.
      prompt_rt, prompt_length_r: for each reader the prompt's tokens and their number, int32.
    """

    slot_r: jax.Array
    valid_r: jax.Array
    problem_r: jax.Array
    digest_r2: jax.Array
    closings: Closings
    prompt_rt: tuple[jax.Array, ...]
    prompt_length_r: tuple[jax.Array, ...]


def insert(
    plan: SearchPlan, constants: tuple[ReaderConstants, ...], state: SearchState, insertion: Insertion
) -> SearchState:
    """Reads the prompts and starts the searches. The slots must be free and their pools wide enough."""
    return plan.shards.each(functools.partial(_insert, plan), constants, state, insertion)


def _insert(plan, constants, state: SearchState, insertion: Insertion) -> SearchState:
    """`insert` on one shard."""
    shards, beams = plan.shards, plan.num_beams
    slot_r, valid_r = insertion.slot_r, insertion.valid_r
    put = functools.partial(slots.put, slot_r=slot_r, valid_r=valid_r)
    rows = slot_r.shape[0]
    first_b = jnp.arange(beams) == 0
    key_r2 = jax.vmap(functools.partial(problem_key, plan.seed))(insertion.digest_r2)
    zeros_r = jnp.zeros(rows, jnp.int32)
    zeros_rb = jnp.zeros((rows, beams), jnp.int32)
    open_rb = jnp.broadcast_to(jnp.arange(beams) < plan.first_beams, (rows, beams))
    limit_rb = zeros_rb + min(plan.max_step_tokens, plan.max_thinking_tokens)
    new_readers = []
    for index, (reader, k, s) in enumerate(zip(plan.readers, constants, state.readers)):
        prompt_rt, length_r = insertion.prompt_rt[index], insertion.prompt_length_r[index]
        s = dataclasses.replace(
            s,
            cursor_n=put(s.cursor_n, new_r=zeros_r),
            length_nb=put(s.length_nb, new_r=zeros_rb),
            path_nbs=put(s.path_nbs, new_r=jnp.zeros((rows, *s.path_nbs.shape[1:]), bool)),
        )
        chosen = Chosen(
            slot_r,
            valid_r,
            parent_rb=zeros_rb,
            length_rb=jnp.where(first_b, length_r[:, None], 0),
            token_rbt=jnp.broadcast_to(prompt_rt[:, None], (rows, beams, prompt_rt.shape[1])),
            cue_rb=zeros_rb + jnp.where(first_b & bool(reader.proposers), 1, -1),
            permanent_r=jnp.zeros(rows, bool),
        )
        s, full_rbs = commits.append(reader, k, s, shards, chosen, chunk=plan.chunk, only_first=True)

        def as_first(x_nb):
            """Every beam begins as beam 0 does."""
            rows_rb = slots.take(x_nb, slot_r)
            return put(x_nb, new_r=jnp.broadcast_to(rows_rb[:, :1], rows_rb.shape))

        s = dataclasses.replace(
            s, path_nbs=as_first(s.path_nbs), view_nbs=as_first(s.view_nbs), length_nb=as_first(s.length_nb)
        )
        full_rbs = jnp.broadcast_to(full_rbs[:, :1], full_rbs.shape)
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
                zeros_r + 1,
                key_r2,
                zeros_r,
                jnp.zeros(rows, bool),
                zeros_r,
            )
        )
    per_slot = dict(
        phase_n=zeros_r + SEARCHING,
        problem_n=insertion.problem_r,
        key_n2=key_r2,
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
    )
    closings = jax.tree.map(lambda old, new: put(old, new_r=new), state.closings, insertion.closings)
    return dataclasses.replace(
        state,
        readers=tuple(new_readers),
        closings=closings,
        **{name: put(getattr(state, name), new_r=value) for name, value in per_slot.items()},
    )
