"""A reader: one checkpoint with one way of prompting it, and all that it keeps of the problems it reads.

Every proposer writes through a reader, and the meta-prover scores through one. Proposers that share a checkpoint and its
prompt settings share a reader, so that weights, keys and values exist once. A reader knows tokens of its own vocabulary
only; text comes and goes through `exchange`.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cord_jax.search.jax_tools import axes, pytree
from cord_jax.search.sampling import SamplingSettings
from models.attention import kv_cache
from models.attention.prefix_tree import PrefixTree
from models.execution import Execution


@dataclasses.dataclass(frozen=True)
class ReaderPlan:
    """The static part of a reader; it decides what is compiled.

    Attributes:
      graphdef: the decoder's structure; `nnx.merge(graphdef, weights)` gives the decoder.
      execution: how it runs.
      vocabulary: index of its vocabulary among the distinct ones of the run.
      proposers: indices of the proposers that write through it, ascending; empty for a mere meta-prover.
      sampling: their settings.
      blocks: columns of each block of its pool, prompts and dead branches included.
      start: state of the boundary automaton at the start of a step's sampled text.
      free: an automaton state that no token leaves, for text that ends by EOS only.
    """

    graphdef: Any
    execution: Execution
    vocabulary: int
    proposers: tuple[int, ...]
    sampling: SamplingSettings
    blocks: tuple[int, ...]
    start: int
    free: int

    @property
    def columns(self) -> int:
        """Columns of the whole pool."""
        return sum(self.blocks)

    def writes(self, proposer_r):
        """Whether a proposer writes through this reader, by row."""
        return jnp.isin(proposer_r, np.asarray(self.proposers, np.int32))

    def widened(self, columns: int) -> "ReaderPlan":
        """The plan of a pool with so many columns more, at least."""
        unit = self.execution.pool.unit
        more = -(-columns // unit) * unit
        return dataclasses.replace(self, blocks=self.execution.tree.widened(self.blocks, more))


@pytree
class JudgingTables:
    """The arrays that a meta-prover who writes judgments needs besides (`judging`).

    Attributes:
      newline_v: bool, ids whose text has a new line.
      closing_t: int32, the closing without trailing white space; closing_length: int32 scalar, tokens of it.
    """

    newline_v: jax.Array = axes("token id")
    closing_t: jax.Array = axes("token")
    closing_length: jax.Array = axes()


@pytree
class ReaderConstants:
    """A reader's arrays that never change in a run.

    Attributes:
      weights: the decoder's parameters.
      token_class_v: int32, class of each id in the boundary table.
      table_uc: int32, next automaton state by state and class.
      done_u: bool, states in which a boundary has been decided.
      defined_v: bool, ids that the tokenizer defines; no other is ever sampled or counted.
      eos_v: bool, ids that end a text.
      cue_xt: int32, forced tokens: row 0 `</think>` and a blank line before an answer, row t the heading of
        step t.
      cue_length_x: int32.
      judging: of a meta-prover who writes judgments, else None.
    """

    weights: Any = axes()
    token_class_v: jax.Array = axes("token id")
    table_uc: jax.Array = axes("state", "class")
    done_u: jax.Array = axes("state")
    defined_v: jax.Array = axes("token id")
    eos_v: jax.Array = axes("token id")
    cue_xt: jax.Array = axes("cue", "token")
    cue_length_x: jax.Array = axes("cue")
    judging: JudgingTables | None = None


@pytree
class Rows:
    """The proposals that are being written, q = place * proposers + proposer rows a slot.

    Keys, values and tokens of a row lie in a ring buffer of t columns. All rows write the same column at the same tick, so
    a row's columns are `(start + i) % t`.

    Attributes:
      token_nqt: int32, sampled tokens.
      start_nq: int32, ring column of the row's first sampled token.
      count_nq: int32, tokens sampled, EOS included.
      limit_nq: int32, tokens that it may sample.
      drawn_nq: int32, draws of this text before the row began (an answer is written in several pieces).
      key_nq2: uint32, raw random key.
      feed_nq: int32, the token to be read next; `position_nq` the depth of the row's first feed.
      boundary_nq: int32, automaton state.
      running_nq: bool, still inside its proposal.
      stopped_nq: int32, why it ended: `EOS`, `BOUNDARY` or `LIMIT`.
      local: ring buffers of keys and values, `[n, q, g, t, e]` a layer.
      log_probability_nq: float32, the sum of the log-probabilities of its tokens, the one that ended it apart; None where
        nobody asks.
    """

    token_nqt: jax.Array = axes("slot", "text", "own column")
    start_nq: jax.Array = axes("slot", "text")
    count_nq: jax.Array = axes("slot", "text")
    limit_nq: jax.Array = axes("slot", "text")
    drawn_nq: jax.Array = axes("slot", "text")
    key_nq2: jax.Array = axes("slot", "text", "word")
    feed_nq: jax.Array = axes("slot", "text")
    position_nq: jax.Array = axes("slot", "text")
    boundary_nq: jax.Array = axes("slot", "text")
    running_nq: jax.Array = axes("slot", "text")
    stopped_nq: jax.Array = axes("slot", "text")
    local: Any = axes(..., "slot", "text", "kv head", "own column", "width")
    log_probability_nq: jax.Array | None = dataclasses.field(
        default=None, metadata={"axes": ("slot", "text")}
    )

    def small(self) -> "Rows":
        """The rows without their keys and values."""
        return dataclasses.replace(self, local=())


EOS, BOUNDARY, LIMIT = 1, 2, 3


@pytree
class ReaderState:
    """Keys, values and proposals that a reader holds of all slots.

    Attributes:
      pool: keys and values of the prefix trees, as in `models.attention.kv_cache`.
      token_ns, depth_ns: int32, id and depth of the token in each column.
      node_ns: int32, the node of the tree whose text the column belongs to, -1 for none.
      cursor_n: int32, first free column.
      path_nbs: bool, the columns of each place of the frontier: those of its node and that node's ancestors.
      view_nbs: bool, the columns that proposals of the place see: its path and the forced cue, less the last
        token, which is the first that they feed.
      length_nb: int32, tokens on the path.
      prompt_nt, prompt_length_n: int32, the prompts' tokens, and how many there are.
      tick_y: int32, the ring column that is written next, of each shard.
      rows: the proposals; None for a reader that does not propose.
    """

    pool: Any = axes(..., "slot", "kv head", "entry", "entry")
    token_ns: jax.Array = axes("slot", "column")
    depth_ns: jax.Array = axes("slot", "column")
    node_ns: jax.Array = axes("slot", "column")
    cursor_n: jax.Array = axes("slot")
    path_nbs: jax.Array = axes("slot", "place", "column")
    view_nbs: jax.Array = axes("slot", "place", "column")
    length_nb: jax.Array = axes("slot", "place")
    prompt_nt: jax.Array = axes("slot", "token")
    prompt_length_n: jax.Array = axes("slot")
    tick_y: jax.Array = axes("shard")
    rows: Rows | None

    def tree(self, batch, path_rbs) -> PrefixTree:
        """The prefix trees of a sub-batch (`slots.SubBatch`), with these paths."""
        return PrefixTree(self.pool, batch.slot_r, path_rbs, batch.take(self.depth_ns))


def decoder(plan: ReaderPlan, constants: ReaderConstants):
    """The reader's network."""
    return nnx.merge(plan.graphdef, constants.weights)


def empty_state(model, plan: ReaderPlan, slot_plan, prompt_width: int) -> ReaderState:
    """Makes a reader that has read nothing.

    Args:
      slot_plan: a `state.SlotPlan`.
    """
    n, b, s = slot_plan.slots, slot_plan.places, plan.columns
    integers = functools.partial(jnp.zeros, dtype=jnp.int32)
    rows = None
    if plan.proposers:
        rows = empty_rows(model, plan, n, b * len(plan.proposers), slot_plan.max_step_tokens)
    return ReaderState(
        pool=kv_cache.empty_pool(model.config, model.is_stacked, n, plan.blocks, model.dtype),
        token_ns=integers((n, s)),
        depth_ns=integers((n, s)),
        node_ns=integers((n, s)) - 1,
        cursor_n=integers((n,)),
        path_nbs=jnp.zeros((n, b, s), bool),
        view_nbs=jnp.zeros((n, b, s), bool),
        length_nb=integers((n, b)),
        prompt_nt=integers((n, prompt_width)),
        prompt_length_n=integers((n,)),
        tick_y=integers((slot_plan.shards.count,)),
        rows=rows,
    )


def empty_rows(model, plan: ReaderPlan, n: int, q: int, t: int) -> Rows:
    """Makes rows that stand still: q rows of t tokens in each of n slots."""
    integers = functools.partial(jnp.zeros, dtype=jnp.int32)
    return Rows(
        token_nqt=integers((n, q, t)),
        start_nq=integers((n, q)),
        count_nq=integers((n, q)),
        limit_nq=integers((n, q)),
        drawn_nq=integers((n, q)),
        key_nq2=jnp.zeros((n, q, 2), jnp.uint32),
        feed_nq=integers((n, q)),
        position_nq=integers((n, q)),
        boundary_nq=integers((n, q)),
        running_nq=jnp.zeros((n, q), bool),
        stopped_nq=integers((n, q)),
        local=kv_cache.empty_rings(model.config, model.is_stacked, (n, q), t, model.dtype),
    )
