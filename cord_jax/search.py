"""The step-wise beam search as one jitted while loop over rounds (paper, section 3; design, section 4).

A round proposes (`proposals`), exchanges the finished steps as text (`exchange`, the only contact with the
host), scores them (`scoring`), selects (`selection`) and commits (`commits`). N problems sit in slots and
advance on their
own: a problem is settled in the round in which the last of its proposals has ended, while others go on
writing. When a search has ended, the same loop lets the writer of the winner's last step write the answer,
until the host harvests it.
"""

import dataclasses
import functools

import jax.numpy as jnp
from jax import lax

from cord_jax import readers
from cord_jax.answering import settle_answers
from cord_jax.control import when
from cord_jax.exchange import Exchange
from cord_jax.proposals import propose
from cord_jax.readers import ReaderConstants
from cord_jax.scoring import Closings
from cord_jax.settling import settle_steps
from cord_jax.state import ANSWERING, DONE, FREE, SEARCHING, History, SearchPlan, SearchState

# Rounds that a ready problem waits for others before it is settled in a sub-batch that is not full.
PATIENCE = 4


def stalled(plan: SearchPlan, state: SearchState):
    """Whether the host must make room before the search can go on."""
    return state.short_yx.any() | (state.longest > plan.step_width)


def rows_running(state: SearchState):
    """Slots in which some proposal is still being written, bool [n]."""
    running = [reader.rows.running_nq.any(-1) for reader in state.readers if reader.rows is not None]
    return functools.reduce(jnp.logical_or, running)


def one_round(
    plan: SearchPlan, exchange: Exchange, constants: tuple[ReaderConstants, ...], state: SearchState
) -> SearchState:
    """Every proposer writes up to a quantum of tokens; then the problems that are ready are settled."""
    shards = plan.shards
    state = shards.each(functools.partial(_write, plan), constants, state)
    waits_n = ~rows_running(state)
    answered_n = waits_n & (state.phase_n == ANSWERING)
    ready_n = waits_n & (state.phase_n == SEARCHING)
    answer = functools.partial(shards.each, functools.partial(settle_answers, plan), constants)
    state = when(answered_n.any(), lambda state: answer(state, answered_n), state)
    state = dataclasses.replace(state, waited_n=jnp.where(ready_n, state.waited_n + 1, 0))
    # A pass costs the same however few of its rows are taken, so it waits a little for company.
    full = ready_n.sum() >= shards.count * shards.rows
    urgent = (state.waited_n >= PATIENCE).any() | ~rows_running(state).any()
    return when(
        ready_n.any() & (full | urgent),
        lambda state: settle_steps(plan, exchange, constants, state, ready_n),
        state,
    )


def _write(plan: SearchPlan, constants: tuple[ReaderConstants, ...], state: SearchState) -> SearchState:
    """Every reader's rows write, on one shard."""
    new_readers, ticked_y, busy_y = [], state.ticked_y, state.busy_y
    for reader, k, s in zip(plan.readers, constants, state.readers):
        if s.rows is not None:
            before = s.rows.count_nq.sum()
            s, ticks = propose(reader, plan.shards, k, s, plan.quantum)
            ticked_y += (ticks * s.rows.count_nq.size).astype(jnp.float32)
            busy_y += (s.rows.count_nq.sum() - before).astype(jnp.float32)
        new_readers.append(s)
    return dataclasses.replace(state, readers=tuple(new_readers), ticked_y=ticked_y, busy_y=busy_y)


def advance(
    plan: SearchPlan,
    exchange: Exchange,
    constants: tuple[ReaderConstants, ...],
    state: SearchState,
    max_rounds,
) -> SearchState:
    """Runs rounds until some problem is done, nothing is left to do, the host must make room, or
    `max_rounds`.
    """

    def going(carry):
        rounds, state = carry
        busy = ((state.phase_n == SEARCHING) | (state.phase_n == ANSWERING)).any()
        return (rounds < max_rounds) & busy & ~(state.phase_n == DONE).any() & ~stalled(plan, state)

    def body(carry):
        rounds, state = carry
        return rounds + 1, one_round(plan, exchange, constants, state)

    return lax.while_loop(going, body, (jnp.int32(0), state))[1]


def empty_state(
    plan: SearchPlan, constants: tuple[ReaderConstants, ...], closing_width: int, scored_width: int
) -> SearchState:
    """A search with free slots only.

    Args:
      closing_width: most tokens of all closings of a problem; scored_width: most scored tokens among them.
    """
    n, b, m, j = plan.slots, plan.num_beams, plan.max_steps, plan.candidates
    shards = plan.shards.count
    integers = functools.partial(jnp.zeros, dtype=jnp.int32)
    reader_states = []
    for reader, constant in zip(plan.readers, constants):
        model = readers.decoder(reader, constant)
        reader_states.append(
            readers.empty_state(
                model,
                reader,
                slots=n,
                shards=shards,
                beams=b,
                ring=plan.max_step_tokens,
                dtype=model.dtype,
            )
        )
    return SearchState(
        readers=tuple(reader_states),
        phase_n=integers((n,)) + FREE,
        problem_n=integers((n,)),
        key_n2=jnp.zeros((n, 2), jnp.uint32),
        step_n=integers((n,)),
        waited_n=integers((n,)),
        open_nb=jnp.zeros((n, b), bool),
        complete_nb=jnp.zeros((n, b), bool),
        score_nb=jnp.zeros((n, b)),
        thinking_nb=integers((n, b)),
        origin_nb=integers((n, b)),
        stuck_n=integers((n,)),
        writer_n=integers((n,)),
        answer_nu=integers((n, plan.max_answer_tokens)),
        answer_count_n=integers((n,)),
        closings=Closings(
            token_na=integers((n, closing_width)),
            form_na=integers((n, closing_width)),
            offset_na=integers((n, closing_width)),
            length_n=integers((n,)),
            scored_nz=integers((n, scored_width)),
            scored_form_nz=integers((n, scored_width)),
        ),
        history=History(
            score_nmj=jnp.zeros((n, m, j)),
            rank_nmj=jnp.zeros((n, m, j), jnp.int8),
            ended_nmj=jnp.zeros((n, m, j), jnp.int8),
            dropped_nmj=jnp.zeros((n, m, j), jnp.int8),
            tokens_nmj=integers((n, m, j)),
            sampled_nmj=integers((n, m, j)),
        ),
        short_yx=jnp.zeros((shards, len(plan.readers)), bool),
        longest=integers(()),
        ticked_y=jnp.zeros((shards,)),
        busy_y=jnp.zeros((shards,)),
    )
