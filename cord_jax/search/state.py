"""The state of a search: what is fixed when it is compiled, and what changes from round to round.

What is needed to write texts in slots (`SlotPlan`, `SlotState`) stands apart from what is needed to search
(`SearchPlan`, `SearchState`): evaluation samples whole texts with the former alone.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cord_jax.search.closings import Closings
from cord_jax.search.decodings import Decoding
from cord_jax.search.jax_tools import axes, axis_of, data_specs, pytree
from cord_jax.search.judgments import Judging, Judgments
from cord_jax.search.readers import ReaderPlan, ReaderState
from cord_jax.search.shards import Shards
from cord_jax.search.tree import NONE, Frontier, Tree
from models.attention import kv_cache
from models.sharding import heads_or_columns

FREE, READING, SEARCHING, JUDGING, RECALLING, REVIEWING, ANSWERING, DONE = range(8)


@dataclasses.dataclass(frozen=True)
class SlotPlan:
    """All that is static about writing texts in slots; it decides what is compiled.

    Attributes:
      readers: one entry a reader.
      places: texts of a slot that are written at a time by each proposer.
      opened_first: places at which texts begin right after the prompt.
      nodes: nodes of a slot's tree, the root included.
      slots: N; shards: how they lie on the mesh, and how many of each shard are settled at once.
      max_step_tokens: most tokens that a row writes between two commits: columns of its own in the KV cache.
      first_limit: tokens that the first text of a row may have.
      read_width: most tokens of a text that a place commits at a time: a step, or a piece of a prompt or an answer.
      quantum: tokens that a row writes in a round.
      seed: of all draws.
    """

    readers: tuple[ReaderPlan, ...]
    places: int
    opened_first: int
    nodes: int
    slots: int
    shards: Shards
    max_step_tokens: int
    first_limit: int
    read_width: int
    quantum: int
    seed: int


@dataclasses.dataclass(frozen=True)
class SearchPlan(SlotPlan):
    """All that is static about a search.

    Attributes:
      meta: index of the reader through which the meta-prover scores.
      reward: index of the reward model's reader, None without one; reward_separator: id of what follows each step there.
      num_proposers: K.
      decoding: which nodes are extended next; its places are B.
      scorer: what ranks candidates.
      judging: the judgments that it asks for, None for none.
      max_steps: steps of a trace, at most.
      max_thinking_tokens: budget in the meta-prover's tokens.
      max_answer_tokens: cap of the answer after `</think>`.
      answers: winners are reviewed and answered; else a search is over when it has chosen.
      step_width: capacity of a canonical step in any vocabulary's tokens.
      num_forms: most accepted forms of an answer.
      score_group: candidates of a problem that are scored in one pass: all, or fewer to bound memory.
      review_forms: answers, right ones and decoys, that are scored after a winner's reasoning, at most; 0 where winners
        are not reviewed.
    """

    meta: int
    reward: int | None
    reward_separator: int
    num_proposers: int
    decoding: Decoding
    scorer: Any
    judging: Judging | None
    max_steps: int
    max_thinking_tokens: int
    max_answer_tokens: int
    answers: bool
    step_width: int
    num_forms: int
    score_group: int
    review_forms: int

    @property
    def candidates(self) -> int:
        """Candidates of a problem in a round, J = B K."""
        return self.places * self.num_proposers


@pytree
class Clock:
    """The phase of each slot, and what belongs to it.

    Attributes:
      phase_n: int32, FREE, READING (the prompt), SEARCHING, JUDGING (the candidates), RECALLING (texts of nodes that were
        left aside), REVIEWING (the winner), ANSWERING or DONE.
      problem_n: int32, the host's number of the problem.
      key_n2: uint32, raw random key of the problem.
      read_n: int32, tokens of the prompts that have been read.
      waited_n: int32, rounds for which a slot has had something to be settled.
    """

    phase_n: jax.Array = axes("slot")
    problem_n: jax.Array = axes("slot")
    key_n2: jax.Array = axes("slot", "word")
    read_n: jax.Array = axes("slot")
    waited_n: jax.Array = axes("slot")


@pytree
class Meters:
    """Counts and alarms that the host reads off, by shard y.

    Attributes:
      short_yx: bool, the readers x whose caches could not take a commit even after compaction.
      ticked_y, busy_y: float32, decode steps times rows that were computed, and those that wrote a token.
    """

    short_yx: jax.Array = axes("shard", "reader")
    ticked_y: jax.Array = axes("shard")
    busy_y: jax.Array = axes("shard")


@pytree
class SlotState:
    """Slots in which texts are written; device arrays, of which slots n and shards y are cut over `data`."""

    readers: tuple[ReaderState, ...]
    clock: Clock
    meters: Meters


@pytree
class Progress:
    """The progress of each search.

    Attributes:
      round_n: int32, rounds that have been settled.
      replayed_n: int32, rounds that were settled by an earlier run; the exchange knows them.
      over_n: bool, the search is over: place 0 of the frontier is the winner's.
      stuck_n: int32, the winner where it is the node whose trace is left since nothing could be extended, else
        `tree.NONE`.
    """

    round_n: jax.Array = axes("slot")
    replayed_n: jax.Array = axes("slot")
    over_n: jax.Array = axes("slot")
    stuck_n: jax.Array = axes("slot")


@pytree
class Answer:
    """The responses; token_na: int32, EOS included; count_n: int32; writer_n: int32, the proposer who writes it."""

    token_na: jax.Array = axes("slot", "token")
    count_n: jax.Array = axes("slot")
    writer_n: jax.Array = axes("slot")


@pytree
class Review:
    """The review of each slot's winner.

    Attributes:
      closings: with every form of the gold answer, then with each decoy.
      score_nf: float32, their scores after its reasoning; -inf for forms that a problem does not have.
    """

    closings: Closings
    score_nf: jax.Array = axes("slot", "form")


@pytree
class SearchState(SlotState):
    """All that a search knows.

    Attributes:
      tree, frontier: the nodes, and those that are being extended; of a search that is over, place 0 is the winner's.
      memory, scorer_memory: what the decoding and the scorer remember beside them.
      progress, answer: of each slot.
      closings: of each slot's problem.
      review: of each slot's winner; None where winners are not reviewed.
      judgments: of the candidates that are being judged; None where none are.
      longest: int32, tokens of the longest canonical step so far; above `step_width` the host must widen.
    """

    tree: Tree
    frontier: Frontier
    memory: Any
    scorer_memory: Any
    progress: Progress
    answer: Answer
    closings: Closings
    review: Review | None
    judgments: Judgments | None
    longest: jax.Array = axes()


def state_shardings(shapes: Any, mesh: Mesh):
    """Shardings of a state: over `data` as its fields declare; keys and values also over `model`, by
    `heads_or_columns`.
    """

    def sharding(path, leaf, spec):
        names = [str(getattr(key, "name", "")) for key in path]
        if "pool" in names or "local" in names:
            heads = leaf.ndim - 3
            columns = leaf.ndim + (getattr(kv_cache.COLUMNS, names[-1]) if "pool" in names else -2)
            split = heads_or_columns(leaf.shape[heads], leaf.shape[columns], mesh)
            if split is not None:
                axes = [*spec, *[None] * (leaf.ndim - len(spec))]
                axes[heads if split == "heads" else columns] = "model"
                spec = PartitionSpec(*axes)
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(sharding, shapes, data_specs(shapes))


def with_columns(plan: SearchPlan, wider: SearchPlan, state: SearchState) -> SearchState:
    """The state for a plan whose readers' caches have more columns, and nothing short any more."""
    readers = []
    for old, new, s in zip(plan.readers, wider.readers, state.readers):
        columns = new.columns - old.columns
        if columns:
            s = _padded(s, columns)
            s = dataclasses.replace(s, pool=kv_cache.widened(old.execution.stacked, s.pool, new.blocks))
        readers.append(s)
    judgments = state.judgments
    if judgments is not None:
        judgments = _padded(judgments, wider.readers[plan.meta].columns - plan.readers[plan.meta].columns)
    return dataclasses.replace(
        state,
        readers=tuple(readers),
        judgments=judgments,
        longest=jnp.zeros_like(state.longest),
        meters=dataclasses.replace(state.meters, short_yx=jnp.zeros_like(state.meters.short_yx)),
    )


def _padded(state: Any, columns: int) -> Any:
    """A pytree whose fields that have columns get some more, of no node."""
    noted = {}
    for field in dataclasses.fields(state):
        axis = axis_of(state, field.name, "column")
        if axis is not None:
            x = getattr(state, field.name)
            padding = [(0, 0)] * x.ndim
            padding[axis] = (0, columns)
            empty = NONE if field.name == "node_ns" else 0
            noted[field.name] = jnp.pad(x, padding, constant_values=empty)
    return dataclasses.replace(state, **noted)
