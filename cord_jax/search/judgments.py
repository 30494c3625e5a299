"""Judgments: answers that the meta-prover, cut short after a candidate, states by itself (method, section 3.13).

Here is what they are; `judging` has them written.
"""

import dataclasses

import jax
import jax.numpy as jnp

from cord_jax.search.jax_tools import axes, pytree
from cord_jax.search.readers import (
    BOUNDARY,
    EOS,
    JudgingTables,
    ReaderConstants,
    ReaderPlan,
    Rows,
    empty_rows,
)
from cord_jax.search.sampling import SamplingSettings


@dataclasses.dataclass(frozen=True)
class Judging:
    """The static part of judgments.

    Attributes:
      texts: judgments of each candidate.
      max_tokens: most tokens of one.
      sampling: their settings, one entry a judgment.
      graded_outside: they are graded between calls of the search and not in its exchange: by a grader that needs the
        devices itself.
    """

    texts: int
    max_tokens: int
    sampling: SamplingSettings
    graded_outside: bool = False

    def reader(self, meta: ReaderPlan) -> ReaderPlan:
        """The meta-prover's reader as it writes judgments, each as if by a proposer of its own."""
        return dataclasses.replace(
            meta, proposers=tuple(range(self.texts)), sampling=self.sampling, start=_WRITING, free=_WRITING
        )


# States of the automaton that ends a judgment at its first token with a new line.
_WRITING, _ENDED = range(2)


def judge_constants(meta: ReaderConstants) -> ReaderConstants:
    """The arrays of the meta-prover's reader as it writes judgments; its one cue is the closing."""
    tables: JudgingTables = meta.judging
    return dataclasses.replace(
        meta,
        token_class_v=tables.newline_v.astype(jnp.int32),
        table_uc=jnp.array([[_WRITING, _ENDED], [_ENDED, _ENDED]], jnp.int32),
        done_u=jnp.array([False, True]),
        cue_xt=tables.closing_t[None],
        cue_length_x=tables.closing_length[None],
    )


@pytree
class Judgments:
    """The judgments of the candidates that are being judged, q = candidate * texts + judgment rows a slot.

    Attributes:
      view_njs: bool, the columns of the meta-prover's pool that the judgments of a candidate see, less the last token,
        which is the first that they feed.
      tick_y: int32, the ring column that is written next, of each shard.
      rows: the judgments; their tokens' log-probabilities are added up.
      graded_n: bool, slots whose judgments may be exchanged as soon as they are written.
      written_n: int32, tokens of all judgments of a search.
    """

    view_njs: jax.Array = axes("slot", "candidate", "column")
    tick_y: jax.Array = axes("shard")
    rows: Rows
    graded_n: jax.Array = axes("slot")
    written_n: jax.Array = axes("slot")


def empty_judgments(model, plan) -> Judgments:
    """Makes judgments of slots that have none; `plan` is a `state.SearchPlan`, `model` the meta-prover."""
    texts, judging = plan.candidates * plan.judging.texts, plan.judging
    reader = judging.reader(plan.readers[plan.meta])
    rows = empty_rows(model, reader, plan.slots, texts, judging.max_tokens)
    return Judgments(
        view_njs=jnp.zeros((plan.slots, plan.candidates, reader.columns), bool),
        tick_y=jnp.zeros((plan.shards.count,), jnp.int32),
        rows=dataclasses.replace(rows, log_probability_nq=jnp.zeros((plan.slots, texts))),
        graded_n=jnp.zeros((plan.slots,), bool),
        written_n=jnp.zeros((plan.slots,), jnp.int32),
    )


def confidence(rows: Rows, candidates: int):
    """exp of the mean log-probability of each candidate's first judgment, float32 [n, j]; 0 without a token.

    EOS and the token with the new line do not count.
    """

    def first(x_nq):
        return x_nq.reshape(x_nq.shape[0], candidates, -1)[..., 0]

    ended_nq = (rows.stopped_nq == EOS) | (rows.stopped_nq == BOUNDARY)
    count_nj = first(rows.count_nq - ended_nq)
    mean_nj = first(rows.log_probability_nq) / jnp.maximum(count_nj, 1)
    return jnp.where(count_nj > 0, jnp.exp(mean_nj), 0.0)
