"""Tasks of the slots of a sub-batch: every reader reads something, and then rows begin to write.

The slots of a sub-batch may be at different places: of one a piece of the prompt is read, another has chosen steps, a
third is in the middle of an answer. Each kind says what it needs as a `Task`; they are joined row by row, and every
reader does all of it in one pass. Everything here is of one shard.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cord_jax.search import commits, packing
from cord_jax.search.commits import Branches, Chosen, Scored
from cord_jax.search.jax_tools import pytree, select_rows, when
from cord_jax.search.readers import ReaderConstants, ReaderState, Rows
from cord_jax.search.sampling import row_key
from cord_jax.search.slots import SubBatch
from cord_jax.search.state import SlotPlan, SlotState


@pytree
class Start:
    """The texts that the rows of a slot write next: a step at each open place, or an answer at place 0, or none.

    Attributes:
      open_rb: bool, places at which a step is written.
      limit_rb: int32, tokens that a place's rows may sample.
      step_rb: int32, number of the step, 0 for an answer; label_rb: int32, as in `Frontier`: what draws depend on.
      drawn_r: int32, draws of the answer so far.
      answering_r: bool, `writer_r` writes the answer, and nobody else anything.
      writer_r: int32, a proposer.
    """

    open_rb: jax.Array
    limit_rb: jax.Array
    step_rb: jax.Array
    label_rb: jax.Array
    drawn_r: jax.Array
    answering_r: jax.Array
    writer_r: jax.Array


@pytree
class Task:
    """All that is to be done for the rows of a sub-batch.

    Attributes:
      chosen: what each reader commits.
      branches: the nodes that it belongs to.
      start: what is written then.
      updates: new rows of fields of the state, by name.
    """

    chosen: tuple[Chosen, ...]
    branches: Branches
    start: Start
    updates: dict[str, Any]


def join(state: SlotState, batch: SubBatch, kinds: Sequence[tuple[Any, Task]]) -> Task:
    """Makes one task of several: each for the rows of its mask."""
    (_, first), *others = kinds
    chosen, branches, start = first.chosen, first.branches, first.start
    for mask_r, task in others:
        new = task.chosen, task.branches, task.start
        chosen, branches, start = select_rows(mask_r, new, (chosen, branches, start))
    updates = {}
    for mask_r, task in kinds:
        for name, new in task.updates.items():
            old = updates[name] if name in updates else jax.tree.map(batch.take, getattr(state, name))
            updates[name] = select_rows(mask_r, new, old)
    return Task(chosen, branches, start, updates)


def perform(
    plan: SlotPlan,
    constants: tuple[ReaderConstants, ...],
    state: SlotState,
    batch: SubBatch,
    task: Task,
    scored: Mapping[int, Scored] | None = None,
) -> SlotState:
    """Does a task; nothing changes if a KV cache has no room for it.

    Args:
      scored: by reader, what it has read already.
    """
    shards = plan.shards
    rooms = [
        commits.room(reader, s, batch, task.branches, commits.needed(k, batch, c))
        for reader, k, s, c in zip(plan.readers, constants, state.readers, task.chosen)
    ]
    short_x = jnp.stack([(batch.valid_r & ~fits_r).any() for _, fits_r in rooms])
    meters = dataclasses.replace(state.meters, short_yx=state.meters.short_yx | short_x)
    state = dataclasses.replace(state, meters=meters)

    def commit(state: SlotState) -> SlotState:
        new_readers = []
        for index, (k, s, c, (compacts_r, _)) in enumerate(zip(constants, state.readers, task.chosen, rooms)):
            reader = plan.readers[index]
            s = commits.compact(reader, s, shards, batch.among(compacts_r), task.branches)
            if scored and index in scored:
                s, c = commits.take_scored(reader, s, shards, batch, c, task.branches, scored[index])
            s, full_rbs = commits.append(reader, k, s, shards, batch, c, task.branches)
            new_readers.append(start_rows(plan, index, state, s, batch, full_rbs, task.start))
        updated = {
            name: jax.tree.map(batch.put, getattr(state, name), new) for name, new in task.updates.items()
        }
        return dataclasses.replace(state, readers=tuple(new_readers), **updated)

    return when(~shards.agreed(short_x.any()), commit, state)


def start_rows(
    plan: SlotPlan,
    index: int,
    state: SlotState,
    reader_state: ReaderState,
    batch: SubBatch,
    full_rbs,
    start: Start,
) -> ReaderState:
    """Sets a reader's rows to write from what their places see of the KV cache.

    Args:
      index: of the reader.
      full_rbs: the columns of each place, its cue's included; the last holds the first token to be fed.
    """
    reader = plan.readers[index]
    if reader_state.rows is None:
        return reader_state
    per_place = len(reader.proposers)
    proposer_q = np.tile(np.asarray(reader.proposers, np.int32), plan.places)
    place_q = np.repeat(np.arange(plan.places, dtype=np.int32), per_place)
    repeat = functools.partial(jnp.repeat, repeats=per_place, axis=1)
    answers_rq = (place_q == 0) & (proposer_q == start.writer_r[:, None])
    keys = jax.vmap(jax.vmap(row_key, (None, 0, 0, 0)), (0, 0, 0, None))
    zeros_rq = jnp.zeros(answers_rq.shape, jnp.int32)
    texts = Texts(
        limit_rq=repeat(start.limit_rb),
        drawn_rq=zeros_rq + start.drawn_r[:, None],
        key_rq2=keys(
            batch.take(state.clock.key_n2), repeat(start.step_rb), repeat(start.label_rb), proposer_q
        ),
        boundary_rq=zeros_rq + jnp.where(start.answering_r, reader.free, reader.start)[:, None],
        running_rq=jnp.where(start.answering_r[:, None], answers_rq, repeat(start.open_rb)),
    )
    return dataclasses.replace(reader_state, rows=begin_texts(reader_state, batch, full_rbs, texts))


@pytree
class Texts:
    """The texts that rows of a sub-batch begin to write, place by place.

    Attributes:
      limit_rq: int32, tokens that each may sample.
      drawn_rq: int32, draws of it so far.
      key_rq2: uint32, raw random keys.
      boundary_rq: int32, states of the boundary automaton.
      running_rq: bool, the rows that write.
    """

    limit_rq: jax.Array
    drawn_rq: jax.Array
    key_rq2: jax.Array
    boundary_rq: jax.Array
    running_rq: jax.Array


def begin_texts(reader_state: ReaderState, batch: SubBatch, full_rbs, texts: Texts) -> Rows:
    """The reader's rows, set to write from the columns of their places.

    Args:
      full_rbs: as in `start_rows`; each place has as many rows.
    """
    rows, last_rb = reader_state.rows, commits.last_columns(full_rbs)
    repeat = functools.partial(jnp.repeat, repeats=texts.limit_rq.shape[1] // last_rb.shape[1], axis=1)
    zeros_rq = jnp.zeros_like(texts.limit_rq)
    fresh = dict(
        start_nq=zeros_rq + reader_state.tick_y[0],
        count_nq=zeros_rq,
        limit_nq=texts.limit_rq,
        drawn_nq=texts.drawn_rq,
        key_nq2=texts.key_rq2,
        feed_nq=repeat(packing.pick(batch.take(reader_state.token_ns), last_rb)),
        position_nq=repeat(packing.pick(batch.take(reader_state.depth_ns), last_rb)),
        boundary_nq=texts.boundary_rq,
        running_nq=texts.running_rq,
        stopped_nq=zeros_rq,
    )
    if rows.log_probability_nq is not None:
        fresh["log_probability_nq"] = zeros_rq.astype(jnp.float32)
    written = {name: batch.put(getattr(rows, name), value) for name, value in fresh.items()}
    return dataclasses.replace(rows, **written)
