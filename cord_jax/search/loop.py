"""The step-wise search as one jitted while loop over rounds (paper, section 3; method, section 4).

N problems sit in slots and advance on their own: in a round some are settled while others go on writing. First the
steps of a few problems whose proposals have all ended are exchanged as text (`exchange`, the only contact with the
host). The rest of the round is each data shard's own: those steps are scored (`scorers`) and become nodes, of which the
decoding chooses (`expansion`, `decodings`), perhaps after the meta-prover has judged them (`judging`); what slots have to read, chosen steps, a piece of a prompt or of an answer,
is read in one pass (`tasks`, `commits`); then all rows write for a while (`proposals`). When a search has ended, the
writer of the winner's last step writes the answer (`answering`), until the host harvests it.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import lax

from cord_jax.search import readers
from cord_jax.search.answering import answer_task
from cord_jax.search.closings import empty_closings
from cord_jax.search.commits import Scored
from cord_jax.search.exchange import Candidates, Exchange, exchange_steps
from cord_jax.search.expansion import expansion_task, recall_task
from cord_jax.search.insertion import prompt_task
from cord_jax.search.jax_tools import axes, pytree, when
from cord_jax.search.judging import begin_judging, write_judgments
from cord_jax.search.judgments import Judgments, empty_judgments
from cord_jax.search.proposals import propose
from cord_jax.search.readers import ReaderConstants
from cord_jax.search.review import review_task
from cord_jax.search.slots import SubBatch
from cord_jax.search.state import (
    ANSWERING,
    DONE,
    FREE,
    JUDGING,
    READING,
    RECALLING,
    REVIEWING,
    SEARCHING,
    Answer,
    Clock,
    Meters,
    Progress,
    Review,
    SearchPlan,
    SearchState,
    SlotPlan,
    SlotState,
)
from cord_jax.search.tasks import join, perform
from cord_jax.search.tree import NONE, empty_frontier, empty_tree

# Rounds that a problem waits for others before it is exchanged alone.
PATIENCE = 3
# A shard that has nothing to settle while another has writes for so many quanta.
LONGER = 2


@pytree
class Due:
    """The slots that are settled in a round, a sub-batch of each shard.

    Attributes:
      slot_r: int32, slots numbered within their shards.
      reads_r: bool, rows of which a piece of a prompt or an answer is read.
      ready_r: bool, rows whose steps are exchanged.
      left_y: bool, shards that have more to settle than a sub-batch holds.
    """

    slot_r: jax.Array = axes("row")
    reads_r: jax.Array = axes("row")
    ready_r: jax.Array = axes("row")
    left_y: jax.Array = axes("shard")


def stalled(plan: SearchPlan, state: SearchState):
    """Whether the host must make room before the search can go on."""
    return state.meters.short_yx.any() | (state.longest > plan.step_width)


def rows_running(state: SlotState):
    """Slots in which some proposal is still being written, bool [n]."""
    running = [reader.rows.running_nq.any(-1) for reader in state.readers if reader.rows is not None]
    return functools.reduce(jnp.logical_or, running)


def judged(state: SearchState):
    """Slots whose judgments have all been written, bool [n]."""
    return (state.clock.phase_n == JUDGING) & ~state.judgments.rows.running_nq.any(-1)


def awaits_grading(plan: SearchPlan, state: SearchState):
    """Whether the host must grade judgments before the search can go on with some slot."""
    if plan.judging is None or not plan.judging.graded_outside:
        return jnp.bool_(False)
    return (judged(state) & ~state.judgments.graded_n).any()


def one_round(
    plan: SearchPlan, exchange: Exchange, constants: tuple[ReaderConstants, ...], state: SearchState
) -> SearchState:
    """Settles what is due, and lets every proposer write up to a quantum of tokens."""
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
        return write_all(plan, constants, state, quantum_y[0])

    return shards.each(of_shard, constants, state, SubBatch(now.slot_r, valid_r), candidates, quantum_y)


def due(plan: SearchPlan, state: SearchState) -> tuple[SearchState, Due]:
    """Chooses the slots that are settled now; the state has their new waiting times."""
    shards = plan.shards
    phase_n, waits_n = state.clock.phase_n, ~rows_running(state)
    judged_n = jnp.zeros_like(waits_n)
    if plan.judging is not None:
        judged_n = judged(state) & state.judgments.graded_n
        waits_n &= (phase_n != JUDGING) | judged_n
    reads_n = (phase_n == READING) | (phase_n == REVIEWING) | (waits_n & (phase_n == ANSWERING))
    ready_n = (waits_n & ((phase_n == SEARCHING) | (phase_n == RECALLING))) | judged_n
    waited_n = jnp.where(reads_n | ready_n, state.clock.waited_n + 1, 0)
    # An exchange costs about the same for one problem as for a few, so it waits a little for company.
    full = ready_n.sum() >= shards.count * shards.rows
    urgent = (waited_n > PATIENCE).any() | waits_n.all()
    ready_n &= full | urgent
    due_n = reads_n | ready_n
    slot_r = shards.choose(jnp.where(due_n, waited_n, 0))
    among_all_r = shards.among_all(slot_r, plan.slots)
    left_n = due_n & ~(jnp.arange(plan.slots)[:, None] == among_all_r).any(1)
    clock = dataclasses.replace(state.clock, waited_n=jnp.where(left_n, PATIENCE + 1, waited_n))
    state = dataclasses.replace(state, clock=clock)
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
    phase_r = batch.take(state.clock.phase_n)
    expands_r, recalls_r = phase_r == SEARCHING, phase_r == RECALLING
    if plan.judging is not None:
        begins_r = expands_r & ~candidates.replayed_r & batch.valid_r
        expands_r = (expands_r & candidates.replayed_r) | (phase_r == JUDGING)
        begin = functools.partial(
            begin_judging, plan, constants, batch=batch.among(begins_r), candidates=candidates
        )
        state = when(plan.shards.agreed(begins_r.any()), begin, state)
        batch = batch.among(~begins_r)
    scored_r = expands_r if plan.scorer.scores_replayed else expands_r & ~candidates.replayed_r
    scores = plan.scorer(plan, constants, state, batch.among(scored_r), candidates)
    score_rj = jnp.where(candidates.replayed_r[:, None], candidates.score_rj, scores.score_rj)
    score_rj = jnp.where(candidates.remaining(batch), score_rj, -jnp.inf)
    expansion, choice_rb = expansion_task(
        plan, state, batch.among(expands_r), candidates, score_rj, scores.memory
    )
    kinds = [
        (expands_r, expansion),
        (phase_r == READING, prompt_task(plan, state, batch, batch.take(state.progress.replayed_n))),
        (phase_r == ANSWERING, answer_task(plan, state, batch)),
    ]
    if plan.decoding.goes_back:
        kinds.append((recalls_r, recall_task(plan, state, batch, candidates)))
    if plan.review_forms:
        reviewed = batch.among(phase_r == REVIEWING)
        kinds.append((phase_r == REVIEWING, review_task(plan, constants, state, reviewed)))
    task = join(state, batch, kinds)
    scored = {index: Scored(passage, scored_r, choice_rb) for index, passage in scores.passages.items()}
    return perform(plan, constants, state, batch, task, scored)


def write(plan: SlotPlan, constants: tuple[ReaderConstants, ...], state: SlotState, quantum) -> SlotState:
    """Every reader's rows write up to a quantum of tokens, on one shard."""
    new_readers, ticked_y, busy_y = [], state.meters.ticked_y, state.meters.busy_y
    for reader, k, s in zip(plan.readers, constants, state.readers):
        if s.rows is not None:
            before = s.rows.count_nq.sum()
            s, ticks = propose(reader, plan.shards, k, s, quantum)
            ticked_y += (ticks * s.rows.count_nq.size).astype(jnp.float32)
            busy_y += (s.rows.count_nq.sum() - before).astype(jnp.float32)
        new_readers.append(s)
    meters = dataclasses.replace(state.meters, ticked_y=ticked_y, busy_y=busy_y)
    return dataclasses.replace(state, readers=tuple(new_readers), meters=meters)


def write_all(
    plan: SearchPlan, constants: tuple[ReaderConstants, ...], state: SearchState, quantum
) -> SearchState:
    """As `write`, the rows of judgments too."""
    state = write(plan, constants, state, quantum)
    return state if plan.judging is None else write_judgments(plan, constants, state, quantum)


def advance(
    plan: SearchPlan,
    exchange: Exchange,
    constants: tuple[ReaderConstants, ...],
    state: SearchState,
    max_rounds,
) -> tuple[jax.Array, SearchState]:
    """Runs rounds until some problem is done, nothing is left to do, the host is needed, or `max_rounds` have run.

    Returns: the rounds that have run, int32, and the state.
    """

    def going(carry):
        rounds, state = carry
        phase_n = state.clock.phase_n
        busy = ((phase_n != FREE) & (phase_n != DONE)).any()
        waits = stalled(plan, state) | awaits_grading(plan, state)
        return (rounds < max_rounds) & busy & ~(phase_n == DONE).any() & ~waits

    def body(carry):
        rounds, state = carry
        return rounds + 1, one_round(plan, exchange, constants, state)

    return lax.while_loop(going, body, (jnp.int32(0), state))


def empty_slots(plan: SlotPlan, constants: tuple[ReaderConstants, ...], prompt_width: int) -> SlotState:
    """Makes free slots.

    Args:
      prompt_width: most tokens of a prompt.
    """
    n, shards = plan.slots, plan.shards.count
    integers_n = jnp.zeros((n,), jnp.int32)
    reader_states = tuple(
        readers.empty_state(readers.decoder(reader, constant), reader, plan, prompt_width)
        for reader, constant in zip(plan.readers, constants)
    )
    return SlotState(
        readers=reader_states,
        clock=Clock(integers_n + FREE, integers_n, jnp.zeros((n, 2), jnp.uint32), integers_n, integers_n),
        meters=Meters(
            jnp.zeros((shards, len(plan.readers)), bool), jnp.zeros((shards,)), jnp.zeros((shards,))
        ),
    )


def empty_state(plan: SearchPlan, constants: tuple[ReaderConstants, ...], sizes) -> SearchState:
    """Makes a search with free slots only.

    Args:
      sizes: `engine.plan.ProblemSizes`, the room that prompts and closings need.
    """
    n, rounds = plan.slots, plan.decoding.max_rounds
    integers_n = jnp.zeros((n,), jnp.int32)
    return SearchState(
        **vars(empty_slots(plan, constants, sizes.prompt_width)),
        tree=empty_tree(n, rounds, plan.candidates),
        frontier=empty_frontier(n, plan.places, plan.nodes),
        memory=plan.decoding.empty_memory(n, plan.nodes),
        scorer_memory=plan.scorer.empty_memory(n, rounds, plan.candidates),
        progress=Progress(integers_n, integers_n, integers_n > 0, integers_n + NONE),
        answer=Answer(jnp.zeros((n, plan.max_answer_tokens), jnp.int32), integers_n, integers_n),
        closings=empty_closings(n, sizes.closing_width, sizes.scored_width),
        review=_empty_review(plan, sizes),
        judgments=_empty_judgments(plan, constants),
        longest=jnp.int32(0),
    )


def _empty_judgments(plan: SearchPlan, constants: tuple[ReaderConstants, ...]) -> Judgments | None:
    if plan.judging is None:
        return None
    return empty_judgments(readers.decoder(plan.readers[plan.meta], constants[plan.meta]), plan)


def _empty_review(plan: SearchPlan, sizes) -> Review | None:
    if not plan.review_forms:
        return None
    closings = empty_closings(plan.slots, sizes.review_width, sizes.review_scored_width)
    return Review(closings, jnp.zeros((plan.slots, plan.review_forms)))
