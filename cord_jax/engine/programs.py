"""The programs that a search compiles, and the fields of their state that go to the host."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from cord_jax.search import loop
from cord_jax.search.exchange import Exchange
from cord_jax.search.insertion import insert
from cord_jax.search.jax_tools import axes, pytree
from cord_jax.search.state import (
    DONE,
    FREE,
    Answer,
    Clock,
    Meters,
    Progress,
    Review,
    SearchPlan,
    SearchState,
)
from cord_jax.search.tree import Frontier, Tree


@pytree
class Peek:
    """Fields that the host looks at between calls of the search: where slots are, and what must be widened.

    Attributes:
      rounds: int32, rounds that have run.
    """

    clock: Clock
    progress: Progress
    meters: Meters
    longest: jax.Array = axes()
    rounds: jax.Array = axes()


@pytree
class Harvest:
    """All that is known of finished problems when their slots are given back.

    Attributes:
      judged_n: int32, tokens of judgments; None where there are none.
      done_n: bool, the slots that are finished.
    """

    clock: Clock
    progress: Progress
    tree: Tree
    frontier: Frontier
    answer: Answer
    review: Review | None
    judged_n: jax.Array | None
    done_n: jax.Array = axes("slot")


def advance_program(plan: SearchPlan, exchange: Exchange, sharding: SearchState):
    """The jitted search: `(constants, state, rounds) -> (state, what the host looks at)`.

    It consumes the state, which lies as `sharding` (from `state_shardings`) says.
    """
    replicated = NamedSharding(sharding.clock.phase_n.mesh, PartitionSpec())
    return jax.jit(
        functools.partial(_advance_and_peek, plan, exchange),
        donate_argnums=1,
        out_shardings=(sharding, replicated),
        compiler_options=plan.readers[plan.meta].execution.compiler_options,
    )


def insert_program(plan: SearchPlan, sharding: SearchState):
    """The jitted `insertion.insert`: `(state, insertion) -> state`. It consumes the state."""
    return jax.jit(functools.partial(insert, plan), donate_argnums=0, out_shardings=sharding)


def _advance_and_peek(plan, exchange, constants, state, max_rounds):
    rounds, state = loop.advance(plan, exchange, constants, state, max_rounds)
    return state, Peek(state.clock, state.progress, state.meters, state.longest, rounds)


def harvest_program(sharding: SearchState):
    """The jitted end of searches: `state -> (state, Harvest)`, which frees their slots. It consumes the state."""
    replicated = NamedSharding(sharding.clock.phase_n.mesh, PartitionSpec())
    return jax.jit(_harvest, donate_argnums=0, out_shardings=(sharding, replicated))


def mark_graded_program(sharding: SearchState):
    """The jitted note that judgments have been graded: `state -> state`. It consumes the state."""
    return jax.jit(_mark_graded, donate_argnums=0, out_shardings=sharding)


def _harvest(state: SearchState) -> tuple[SearchState, Harvest]:
    """Frees the slots of finished problems; returns what is known of them."""
    done_n = state.clock.phase_n == DONE
    harvest = Harvest(
        state.clock,
        state.progress,
        state.tree,
        state.frontier,
        state.answer,
        state.review,
        None if state.judgments is None else state.judgments.written_n,
        done_n,
    )
    clock = dataclasses.replace(state.clock, phase_n=jnp.where(done_n, FREE, state.clock.phase_n))
    return dataclasses.replace(state, clock=clock), harvest


def _mark_graded(state: SearchState) -> SearchState:
    """Lets slots go on whose judgments have been graded."""
    graded_n = state.judgments.graded_n | loop.judged(state)
    return dataclasses.replace(state, judgments=dataclasses.replace(state.judgments, graded_n=graded_n))
