"""A reader: one checkpoint with one system prompt, and all that it keeps of the problems it reads.

Every proposer writes through a reader, and the meta-prover scores through one. Proposers that share a
checkpoint and a system prompt share a reader, so that weights, keys and values exist once. A reader knows
tokens of its own vocabulary only; text comes and goes through `exchange`.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from cord_jax.search.jax_tools import pytree
from cord_jax.search.sampling import SamplingSettings
from models.attention import kv_cache
from models.attention.prefix_tree import PrefixTree
from models.execution import Execution


@dataclasses.dataclass(frozen=True)
class ReaderPlan:
    """What is static about a reader; it decides what is compiled.

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

    def widened(self, columns: int) -> "ReaderPlan":
        """The plan of a pool with so many columns more, at least."""
        unit = self.execution.pool.unit
        more = -(-columns // unit) * unit
        return dataclasses.replace(self, blocks=self.execution.tree.widened(self.blocks, more))


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
      cue_xm: int32, forced tokens: row 0 `</think>` and a blank line before an answer, row t the heading of
        step t.
      cue_length_x: int32.
    """

    weights: Any
    token_class_v: jax.Array
    table_uc: jax.Array
    done_u: jax.Array
    defined_v: jax.Array
    eos_v: jax.Array
    cue_xm: jax.Array
    cue_length_x: jax.Array


@pytree
class Rows:
    """The proposals being written: q = beam * proposers + proposer rows a slot.

    Keys, values and tokens of a row lie in a ring of t columns; all rows write the same column at the same
    tick, so a row's columns are `(start + i) % t`.

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
      stopped_nq: int32, why it ended: one of `STOPPED`.
      local: ring buffers of keys and values, `[n, q, g, t, e]` a layer.
    """

    token_nqt: jax.Array
    start_nq: jax.Array
    count_nq: jax.Array
    limit_nq: jax.Array
    drawn_nq: jax.Array
    key_nq2: jax.Array
    feed_nq: jax.Array
    position_nq: jax.Array
    boundary_nq: jax.Array
    running_nq: jax.Array
    stopped_nq: jax.Array
    local: Any

    def small(self) -> "Rows":
        """The rows without their keys and values."""
        return dataclasses.replace(self, local=())


STOPPED = ("running", "eos", "boundary", "limit")
EOS, BOUNDARY, LIMIT = 1, 2, 3


@pytree
class ReaderState:
    """What a reader holds of all slots.

    Attributes:
      pool: keys and values of the prefix trees, as in `models.kv_cache`.
      token_ns, depth_ns: int32, id and depth of the token in each column.
      cursor_n: int32, first free column.
      path_nbs: bool, the columns of each branch.
      view_nbs: bool, the columns that proposals of the branch see: its path and the forced cue, less the last
        token, which is the first that they feed.
      length_nb: int32, tokens on the path.
      prompt_nt, prompt_length_n: int32, the prompts' tokens, and how many there are.
      tick_y: int32, the ring column that is written next, of each shard.
      rows: the proposals; None for a reader that does not propose.
    """

    pool: Any
    token_ns: jax.Array
    depth_ns: jax.Array
    cursor_n: jax.Array
    path_nbs: jax.Array
    view_nbs: jax.Array
    length_nb: jax.Array
    prompt_nt: jax.Array
    prompt_length_n: jax.Array
    tick_y: jax.Array
    rows: Rows | None

    def tree(self, batch, path_rbs) -> PrefixTree:
        """The prefix trees of a sub-batch (`slots.SubBatch`), with these paths."""
        return PrefixTree(self.pool, batch.slot_r, path_rbs, batch.take(self.depth_ns))


def decoder(plan: ReaderPlan, constants: ReaderConstants):
    """The reader's network."""
    return nnx.merge(plan.graphdef, constants.weights)


def empty_state(
    model, plan: ReaderPlan, *, slots: int, shards: int, beams: int, ring: int, prompt_width: int, dtype
) -> ReaderState:
    """A reader that has read nothing."""
    n, b, s, q = slots, beams, plan.columns, beams * len(plan.proposers)
    integers = functools.partial(jnp.zeros, dtype=jnp.int32)
    rows = None
    if plan.proposers:
        rows = Rows(
            token_nqt=integers((n, q, ring)),
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
            local=kv_cache.empty_rings(model.config, model.is_stacked, (n, q), ring, dtype),
        )
    return ReaderState(
        pool=kv_cache.empty_pool(model.config, model.is_stacked, n, plan.blocks, dtype),
        token_ns=integers((n, s)),
        depth_ns=integers((n, s)),
        cursor_n=integers((n,)),
        path_nbs=jnp.zeros((n, b, s), bool),
        view_nbs=jnp.zeros((n, b, s), bool),
        length_nb=integers((n, b)),
        prompt_nt=integers((n, prompt_width)),
        prompt_length_n=integers((n,)),
        tick_y=integers((shards,)),
        rows=rows,
    )
