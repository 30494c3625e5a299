"""The state of a search: what is fixed when it is compiled, and what changes from round to round."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cord_jax.search.jax_tools import pytree
from cord_jax.search.readers import ReaderPlan, ReaderState
from cord_jax.search.scorers.predictive_perplexity import Closings
from cord_jax.search.shards import Shards, data_specs
from models.attention import kv_cache
from models.sharding import heads_or_columns

FREE, READING, SEARCHING, ANSWERING, DONE = range(5)


@dataclasses.dataclass(frozen=True)
class SearchPlan:
    """All that is static about a search; it decides what is compiled.

    Attributes:
      readers: one entry a reader.
      meta: index of the reader through which the meta-prover scores.
      num_proposers, num_beams, slots: K, B, N.
      whole: proposers write whole traces (curation): a search starts from B beams, and only the best is kept.
      max_steps: rounds after which a search ends.
      max_step_tokens: cap of a step in its writer's tokens; also the ring's length.
      max_thinking_tokens: budget in the meta-prover's tokens.
      max_answer_tokens: cap of the answer after `</think>`.
      step_width: capacity of a canonical step in any vocabulary's tokens.
      num_forms: most accepted forms of an answer.
      shards: how slots lie on the mesh, and how many of each shard are settled at once.
      quantum: tokens that a proposing row writes in a round.
      score_group: candidates of a problem that are scored in one pass: all, or fewer to bound memory.
      seed: of all draws.
    """

    readers: tuple[ReaderPlan, ...]
    meta: int
    num_proposers: int
    num_beams: int
    slots: int
    whole: bool
    max_steps: int
    max_step_tokens: int
    max_thinking_tokens: int
    max_answer_tokens: int
    step_width: int
    num_forms: int
    shards: Shards
    quantum: int
    score_group: int
    seed: int

    @property
    def candidates(self) -> int:
        """Candidates of a problem in a round, J = B K."""
        return self.num_beams * self.num_proposers

    @property
    def chunk(self) -> int:
        """Tokens of a packed text that attend at a time, of the reader that takes most."""
        return max(reader.execution.chunk for reader in self.readers)

    @property
    def read_width(self) -> int:
        """Most tokens of a text that a beam commits at a time: a step, or a piece of a prompt or an answer."""
        return max(self.step_width, min(self.max_step_tokens, self.max_answer_tokens), 2 * self.chunk)

    @property
    def first_beams(self) -> int:
        """Beams that a search starts from."""
        return self.num_beams if self.whole else 1

    @property
    def kept_beams(self) -> int:
        """Hypotheses that a selection keeps."""
        return 1 if self.whole else self.num_beams


@pytree
class History:
    """What happened to every candidate of a slot's search so far, by step and candidate.

    Attributes:
      score_nmj: float32, -inf if dropped.
      rank_nmj: int8, beam number after the selection, -1 if not kept.
      ended_nmj, dropped_nmj: int8, indices into `steps.ENDED` and `steps.DROPPED`, or
        `steps.ABSENT`.
      tokens_nmj: int32, the meta-prover's tokens of the step.
      sampled_nmj: int32, tokens that the writer sampled for it, EOS included.
    """

    score_nmj: jax.Array
    rank_nmj: jax.Array
    ended_nmj: jax.Array
    dropped_nmj: jax.Array
    tokens_nmj: jax.Array
    sampled_nmj: jax.Array


@pytree
class SearchState:
    """All that a search knows, device arrays; slots n and shards y are cut over `data` (`shards.data_specs`).

    Attributes:
      readers: tuple of `ReaderState`.
      phase_n: int32, FREE, READING (the prompt), SEARCHING, ANSWERING or DONE.
      problem_n: int32, the host's number of the problem.
      key_n2: uint32, raw random key of the problem.
      read_n: int32, tokens of the prompts that have been read.
      replayed_n: int32, steps that were settled by an earlier run; the exchange knows them.
      step_n: int32, the step being written, from 1.
      waited_n: int32, rounds for which a slot has had something to be settled.
      open_nb: bool, beams that are extended; complete_nb: bool, complete hypotheses that are carried.
      score_nb: float32; thinking_nb: int32, meta-prover's tokens of the reasoning.
      origin_nb: int32, `step index * J + j` of the candidate that each beam ends in, -1 at the start.
      stuck_n: int32, the first beam that had nothing left where all are lost, else -1.
      writer_n: int32, the proposer who writes the answer.
      answer_nu: int32, the answer's tokens, EOS included; answer_count_n: int32.
      closings: `scoring.Closings` of the slots' problems.
      history: `History`.
      short_yx: bool [y, readers], pools of each shard that could not take a commit even after compaction.
      longest: int32, tokens of the longest canonical step so far; above `step_width` the host must widen.
      ticked_y, busy_y: float32, ticks times rows that were computed, and those that wrote a token.
    """

    readers: tuple[ReaderState, ...]
    phase_n: jax.Array
    problem_n: jax.Array
    key_n2: jax.Array
    read_n: jax.Array
    replayed_n: jax.Array
    step_n: jax.Array
    waited_n: jax.Array
    open_nb: jax.Array
    complete_nb: jax.Array
    score_nb: jax.Array
    thinking_nb: jax.Array
    origin_nb: jax.Array
    stuck_n: jax.Array
    writer_n: jax.Array
    answer_nu: jax.Array
    answer_count_n: jax.Array
    closings: Closings
    history: History
    short_yx: jax.Array
    longest: jax.Array
    ticked_y: jax.Array
    busy_y: jax.Array


def state_shardings(shapes: SearchState, mesh: Mesh):
    """Cut over `data` as `shards.data_specs` says; keys and values also over `model`, by `heads_or_columns`."""

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
    """The state for a plan whose readers' pools have more columns, and nothing short any more."""
    readers = []
    for old, new, s in zip(plan.readers, wider.readers, state.readers):
        columns = new.columns - old.columns
        if columns:
            noted = {
                name: jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, columns)])
                for name in ("token_ns", "depth_ns", "path_nbs", "view_nbs")
                for x in [getattr(s, name)]
            }
            s = dataclasses.replace(
                s, pool=kv_cache.widened(old.execution.stacked, s.pool, new.blocks), **noted
            )
        readers.append(s)
    return dataclasses.replace(
        state,
        readers=tuple(readers),
        longest=jnp.zeros_like(state.longest),
        short_yx=jnp.zeros_like(state.short_yx),
    )
