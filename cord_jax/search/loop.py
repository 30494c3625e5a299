"""The step-wise beam search as one jitted while loop over rounds (paper, section 3; design, section 4).

N problems sit in slots and advance on their own: in a round some are settled while others go on writing. First the
steps of a few problems whose proposals have all ended are exchanged as text (`exchange`, the only contact with the
host). The rest of the round is each data shard's own: those steps are scored (`scoring`) and selected (`selection`);
what slots have to read, chosen steps, a piece of a prompt or of an answer, is read in one pass (`tasks`, `commits`); then
all rows write for a while (`proposals`). When a search has ended, the writer of the winner's last step writes the
answer, until the host harvests it.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import lax

from cord_jax.search import readers
from cord_jax.search.answering import answer_task
from cord_jax.search.exchange import Exchange
from cord_jax.search.insertion import prompt_task
from cord_jax.search.jax_tools import pytree, when
from cord_jax.search.proposals import propose
from cord_jax.search.readers import ReaderConstants
from cord_jax.search.scorers.predictive_perplexity import Closings
from cord_jax.search.settling import Candidates, exchange_steps, score, step_task
from cord_jax.search.slots import SubBatch
from cord_jax.search.state import ANSWERING, DONE, FREE, READING, SEARCHING, History, SearchPlan, SearchState
from cord_jax.search.tasks import join, perform

# Rounds that a problem waits for others before it is exchanged alone.
PATIENCE = 3
# A shard that has nothing to settle while another has writes for so many quanta.
LONGER = 2


@pytree
class Due:
    """What is settled in a round, a sub-batch of each shard.

    Attributes:
      slot_r: int32, slots numbered within their shards.
      reads_r: bool, rows of which a piece of a prompt or an answer is read.
      ready_r: bool, rows whose steps are exchanged.
      left_y: bool, shards that have more to settle than a sub-batch holds.
    """

    slot_r: jax.Array
    reads_r: jax.Array
    ready_r: jax.Array
    left_y: jax.Array


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
    """What is due is settled, and every proposer writes up to a quantum of tokens."""
    shards = plan.shards
    state, now = due(plan, state)
    exchanged = SubBatch(shards.among_all(now.slot_r, plan.slots), now.ready_r)
    candidates, longest = exchange_steps(plan, exchange, state, exchanged)
    state = dataclasses.replace(state, longest=jnp.maximum(state.longest, longest))
    valid_r = now.reads_r | (now.ready_r & (longest <= plan.step_width))
    settles_y = valid_r.reshape(shards.count, -1).any(1)
    longer_y = jnp.where(settles_y.any() & ~settles_y, LONGER, 1)
    # What is due and did not fit comes first.
    quantum_y = jnp.where(now.left_y, 0, plan.quantum * longer_y)

    def of_shard(constants, state, batch, candidates, quantum_y):
        settled = functools.partial(settle, plan, constants, batch=batch, candidates=candidates)
        state = when(shards.agreed(batch.valid_r.any()), settled, state)
        return write(plan, constants, state, quantum_y[0])

    return shards.each(of_shard, constants, state, SubBatch(now.slot_r, valid_r), candidates, quantum_y)


def due(plan: SearchPlan, state: SearchState) -> tuple[SearchState, Due]:
    """Which slots are settled now; the state has their new waiting times."""
    shards = plan.shards
    waits_n = ~rows_running(state)
    reads_n = (state.phase_n == READING) | (waits_n & (state.phase_n == ANSWERING))
    ready_n = waits_n & (state.phase_n == SEARCHING)
    waited_n = jnp.where(reads_n | ready_n, state.waited_n + 1, 0)
    # An exchange costs about the same for one problem as for a few, so it waits a little for company.
    full = ready_n.sum() >= shards.count * shards.rows
    urgent = (waited_n > PATIENCE).any() | waits_n.all()
    ready_n &= full | urgent
    due_n = reads_n | ready_n
    slot_r = shards.choose(jnp.where(due_n, waited_n, 0))
    among_all_r = shards.among_all(slot_r, plan.slots)
    left_n = due_n & ~(jnp.arange(plan.slots)[:, None] == among_all_r).any(1)
    state = dataclasses.replace(state, waited_n=jnp.where(left_n, PATIENCE + 1, waited_n))
    left_y = left_n.reshape(shards.count, -1).any(1)
    return state, Due(slot_r, reads_n[among_all_r], ready_n[among_all_r], left_y)


def settle(
    plan: SearchPlan,
    constants: tuple[ReaderConstants, ...],
    state: SearchState,
    batch: SubBatch,
    candidates: Candidates,
) -> SearchState:
    """Settles the slots of a sub-batch, each in its own way, on one shard."""
    phase_r = batch.take(state.phase_n)
    ready = batch.among(phase_r == SEARCHING)
    score_rj, passage = score(plan, constants[plan.meta], state, ready, candidates)
    steps, choice_rb = step_task(plan, state, ready, candidates, score_rj)
    kinds = [
        (phase_r == SEARCHING, steps),
        (phase_r == READING, prompt_task(plan, state, batch)),
        (phase_r == ANSWERING, answer_task(plan, state, batch)),
    ]
    scored_r = (phase_r == SEARCHING) & ~candidates.replayed_r
    task = join(state, batch, kinds)
    return perform(plan, constants, state, batch, task, passage, scored_r, choice_rb)


def write(
    plan: SearchPlan, constants: tuple[ReaderConstants, ...], state: SearchState, quantum
) -> SearchState:
    """Every reader's rows write up to a quantum of tokens, on one shard."""
    new_readers, ticked_y, busy_y = [], state.ticked_y, state.busy_y
    for reader, k, s in zip(plan.readers, constants, state.readers):
        if s.rows is not None:
            before = s.rows.count_nq.sum()
            s, ticks = propose(reader, plan.shards, k, s, quantum)
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
        busy = ((state.phase_n != FREE) & (state.phase_n != DONE)).any()
        return (rounds < max_rounds) & busy & ~(state.phase_n == DONE).any() & ~stalled(plan, state)

    def body(carry):
        rounds, state = carry
        return rounds + 1, one_round(plan, exchange, constants, state)

    return lax.while_loop(going, body, (jnp.int32(0), state))[1]


def empty_state(
    plan: SearchPlan,
    constants: tuple[ReaderConstants, ...],
    prompt_width: int,
    closing_width: int,
    scored_width: int,
) -> SearchState:
    """A search with free slots only.

    Args:
      prompt_width: most tokens of a prompt.
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
                prompt_width=prompt_width,
                dtype=model.dtype,
            )
        )
    return SearchState(
        readers=tuple(reader_states),
        phase_n=integers((n,)) + FREE,
        problem_n=integers((n,)),
        key_n2=jnp.zeros((n, 2), jnp.uint32),
        read_n=integers((n,)),
        replayed_n=integers((n,)),
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
