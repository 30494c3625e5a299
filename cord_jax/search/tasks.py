"""What is done for the slots of a sub-batch: every reader reads something, and then rows begin to write.

The slots of a sub-batch may be at different places: of one a piece of the prompt is read, another has chosen steps, a
third is in the middle of an answer. Each kind says what it needs as a `Task`; they are joined row by row, and every
reader does all of it in one pass. Everything here is of one shard.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cord_jax.search import commits, packing
from cord_jax.search.commits import Chosen, Passage
from cord_jax.search.jax_tools import pytree, when
from cord_jax.search.readers import ReaderConstants, ReaderState
from cord_jax.search.sampling import row_key
from cord_jax.search.slots import SubBatch
from cord_jax.search.state import SearchPlan, SearchState


@pytree
class Start:
    """What the rows of a slot write next: a step on each open beam, or an answer on beam 0, or nothing.

    Attributes:
      open_rb: bool, beams that write a step.
      limit_rb: int32, tokens that a beam's rows may sample.
      step_r: int32, number of the step, 0 for an answer.
      drawn_r: int32, draws of the answer so far.
      answering_r: bool, `writer_r` writes the answer, and nobody else anything.
      writer_r: int32, a proposer.
    """

    open_rb: jax.Array
    limit_rb: jax.Array
    step_r: jax.Array
    drawn_r: jax.Array
    answering_r: jax.Array
    writer_r: jax.Array


@pytree
class Task:
    """What is done for the rows of a sub-batch.

    Attributes:
      chosen: what each reader commits.
      start: what is written then.
      updates: new rows of fields of `SearchState`, by name.
    """

    chosen: tuple[Chosen, ...]
    start: Start
    updates: dict[str, Any]


def _where(mask_r, new, old):
    """Arrays or trees of arrays, row by row."""
    return jax.tree.map(lambda x, y: jnp.where(jnp.expand_dims(mask_r, range(1, x.ndim)), x, y), new, old)


def join(state: SearchState, batch: SubBatch, kinds: Sequence[tuple[Any, Task]]) -> Task:
    """One task of several: each for the rows of its mask."""
    (_, first), *others = kinds
    chosen, start = first.chosen, first.start
    for mask_r, task in others:
        chosen, start = _where(mask_r, (task.chosen, task.start), (chosen, start))
    updates = {}
    for mask_r, task in kinds:
        for name, new in task.updates.items():
            old = updates[name] if name in updates else jax.tree.map(batch.take, getattr(state, name))
            updates[name] = _where(mask_r, new, old)
    return Task(chosen, start, updates)


def perform(
    plan: SearchPlan,
    constants: tuple[ReaderConstants, ...],
    state: SearchState,
    batch: SubBatch,
    task: Task,
    passage: Passage | None = None,
    scored_r=None,
    choice_rb=None,
) -> SearchState:
    """Does a task; nothing changes if a pool has no room for it.

    Args:
      passage: what the scoring pass has read for the rows `scored_r`, whose texts are its forks `choice_rb`; the
        meta-prover does not read them anew.
    """
    shards = plan.shards
    rooms = [
        commits.room(
            reader,
            s,
            batch,
            c,
            jnp.where(batch.valid_r, c.length_rb.sum(1) + commits.cue_lengths(k, c).sum(1), 0),
        )
        for reader, k, s, c in zip(plan.readers, constants, state.readers, task.chosen)
    ]
    short = jnp.stack([(batch.valid_r & ~fits_r).any() for _, fits_r in rooms])
    state = dataclasses.replace(state, short_yx=state.short_yx | short)

    def commit(state: SearchState) -> SearchState:
        new_readers = []
        for index, (k, s, c, (compacts_r, _)) in enumerate(zip(constants, state.readers, task.chosen, rooms)):
            reader = plan.readers[index]
            s = commits.compact(reader, s, shards, batch.among(compacts_r), c)
            if index == plan.meta and passage is not None:
                scored = batch.among(scored_r)
                s = commits.take_scored(reader, s, shards, scored, c, passage, choice_rb)
                c = commits.cues_only(c, scored.valid_r)
            s, full_rbs = commits.append(reader, k, s, shards, batch, c)
            new_readers.append(start_rows(plan, index, state, s, batch, full_rbs, task.start))
        updated = {
            name: jax.tree.map(batch.put, getattr(state, name), new) for name, new in task.updates.items()
        }
        return dataclasses.replace(state, readers=tuple(new_readers), **updated)

    return when(~shards.agreed(short.any()), commit, state)


def start_rows(
    plan: SearchPlan,
    index: int,
    state: SearchState,
    reader_state: ReaderState,
    batch: SubBatch,
    full_rbs,
    start: Start,
) -> ReaderState:
    """Sets a reader's rows to write from its views.

    Args:
      index: of the reader.
      full_rbs: the columns of each beam, its cue's included; the last holds the first token to be fed.
    """
    reader, rows = plan.readers[index], reader_state.rows
    if rows is None:
        return reader_state
    per_beam = len(reader.proposers)
    last_rb = commits.last_columns(full_rbs)
    proposer_q = np.tile(np.asarray(reader.proposers, np.int32), plan.num_beams)
    beam_q = np.repeat(np.arange(plan.num_beams, dtype=np.int32), per_beam)
    repeat = functools.partial(jnp.repeat, repeats=per_beam, axis=1)
    answers_rq = (beam_q == 0) & (proposer_q == start.writer_r[:, None])
    # What was settled before is not written again.
    writes_r = start.step_r > batch.take(state.replayed_n)
    steps_rq = repeat(start.open_rb) & writes_r[:, None]
    keys = jax.vmap(lambda key, step: jax.vmap(lambda b, k: row_key(key, step, b, k))(beam_q, proposer_q))
    zeros_rq = jnp.zeros_like(steps_rq, jnp.int32)
    fresh = dict(
        start_nq=zeros_rq + reader_state.tick_y[0],
        count_nq=zeros_rq,
        limit_nq=repeat(start.limit_rb),
        drawn_nq=zeros_rq + start.drawn_r[:, None],
        key_nq2=keys(batch.take(state.key_n2), start.step_r),
        feed_nq=repeat(packing.pick(batch.take(reader_state.token_ns), last_rb)),
        position_nq=repeat(packing.pick(batch.take(reader_state.depth_ns), last_rb)),
        boundary_nq=zeros_rq + jnp.where(start.answering_r, reader.free, reader.start)[:, None],
        running_nq=jnp.where(start.answering_r[:, None], answers_rq, steps_rq),
        stopped_nq=zeros_rq,
    )
    written = {name: batch.put(getattr(rows, name), value) for name, value in fresh.items()}
    return dataclasses.replace(reader_state, rows=dataclasses.replace(rows, **written))
