"""The selector `predictive_perplexity`: how predictable the gold answer has become (paper, section 3; method, section 3.7).

S(tau + s) = exp(mean log p(answer's tokens)), by the meta-prover, on prompt + tau + s + closing + answer + `.`. Each
candidate is a fork of the path of its place: its text is the step, and each accepted form of the answer continues it,
with the closing before it and the full stop behind it. Only the positions before the answer's tokens are projected to
logits.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cord_jax.search import packing, readers
from cord_jax.search.closings import Closings
from cord_jax.search.commits import Passage
from cord_jax.search.jax_tools import pytree
from cord_jax.search.packing import Forks
from cord_jax.search.readers import ReaderConstants, ReaderPlan
from cord_jax.search.scorers import Scorer, Scores
from cord_jax.search.shards import Shards
from models.attention.prefix_tree import PrefixTree
from models.prefill import prefill

# Logits alive at a time, in numbers: 64 Mi float32 are 256 MiB.
LOGITS_AT_A_TIME = 1 << 26


def answer_log_probabilities(model, hidden_wd, closings: Closings, closing_start_rj, defined_v):
    """Computes log p of each scored token of each candidate, float32 [r, j, z], over the ids that the tokenizer defines.

    Args:
      closing_start_rj: where in its packed text a candidate's closing begins.
    """
    token_rz = packing.pick(closings.token_na, closings.scored_nz)
    # The logits of a token stand at the place before it; a closing always has a token before its answer's first.
    place_rjz = closing_start_rj[..., None] + closings.scored_nz[:, None] - 1
    place_p = jnp.clip(place_rjz.reshape(-1), 0, hidden_wd.shape[0] - 1)
    hidden_pd = hidden_wd[place_p]
    target_p = jnp.broadcast_to(token_rz[:, None], place_rjz.shape).reshape(-1)

    def log_probability(hidden_pd, target_p):
        logits_pv = jnp.where(defined_v, model.unembed(hidden_pd), -jnp.inf)
        return jnp.take_along_axis(jax.nn.log_softmax(logits_pv), target_p[:, None], axis=1)[:, 0]

    most = max(1, LOGITS_AT_A_TIME // defined_v.shape[0])
    parts = next(
        parts
        for parts in range(1, len(target_p) + 1)
        if len(target_p) % parts == 0 and len(target_p) // parts <= most
    )
    return packing.in_parts(log_probability, parts, hidden_pd, target_p).reshape(place_rjz.shape)


def form_scores(log_probability_rjz, closings: Closings, num_forms: int):
    """Takes exp of the mean over each form's tokens, float32 [f, r, j]; -inf for a form that a row does not have."""
    by_form = []
    for form in range(1, num_forms + 1):
        mine_r1z = (closings.scored_form_nz == form)[:, None]
        count_r1 = mine_r1z.sum(-1)
        mean_rj = jnp.where(mine_r1z, log_probability_rjz, 0.0).sum(-1) / jnp.maximum(count_r1, 1)
        by_form.append(jnp.where(count_r1 > 0, jnp.exp(mean_rj), -jnp.inf))
    return jnp.stack(by_form)


@pytree
class Continuations:
    """Candidates of each row, in the meta-prover's tokens.

    Attributes:
      token_rjt, length_rj: int32, the canonical steps.
      base_rj, branch_rj: int32, length and number of the branch that each continues.
      valid_rj: bool, candidates that were not dropped; others are not computed.
    """

    token_rjt: jax.Array
    length_rj: jax.Array
    base_rj: jax.Array
    branch_rj: jax.Array
    valid_rj: jax.Array


def score_forms(
    plan: ReaderPlan,
    constants: ReaderConstants,
    tree: PrefixTree,
    closings: Closings,
    candidates: Continuations,
    shards: Shards,
    num_forms: int,
) -> tuple[jax.Array, Passage]:
    """Scores every form of the answer after a group of candidates of each row, in one pass.

    Args:
      plan, constants: of the meta-prover's reader.
      tree: the rows' prefix trees.
      closings: of the rows' problems.
      num_forms: most forms of an answer.

    Returns:
      `(score_frj float32, passage)`: the scores, -inf for forms that a row does not have, and all that was read.
    """
    model, valid_rj = readers.decoder(plan, constants), candidates.valid_rj

    def of_candidates(x_ra):
        return jnp.broadcast_to(x_ra[:, None], (*valid_rj.shape, *x_ra.shape[1:]))

    forks = Forks(
        token_rxt=candidates.token_rjt,
        length_rx=jnp.where(valid_rj, candidates.length_rj, 0),
        base_rx=candidates.base_rj,
        branch_rx=candidates.branch_rj,
        tail_rxa=of_candidates(closings.token_na),
        tail_length_rx=jnp.where(valid_rj, closings.length_n[:, None], 0),
        form_rxa=of_candidates(closings.form_na),
        offset_rxa=of_candidates(closings.offset_na),
    )
    packed, start_rj = packing.pack(forks, shards, plan.execution)
    scratch, hidden_wd = prefill(model, tree, packed, plan.execution)
    log_probability_rjz = answer_log_probabilities(
        model, hidden_wd, closings, start_rj + candidates.length_rj, constants.defined_v
    )
    return form_scores(log_probability_rjz, closings, num_forms), Passage(packed, scratch, start_rj)


@dataclasses.dataclass(frozen=True)
class PredictivePerplexity(Scorer):
    """The paper's score, by the meta-prover."""

    needs_answer = True

    @jax.named_scope("score")
    def __call__(self, plan, constants, state, batch, candidates):
        """Scores as `Scorer` says."""
        group, meta = plan.score_group, plan.meta
        reader, s, k = plan.readers[meta], state.readers[meta], constants[meta]
        new_rj = candidates.remaining(batch)
        place_j = np.arange(plan.candidates) // plan.num_proposers
        base_rj = batch.take(s.length_nb)[:, place_j]
        run = functools.partial(
            score_forms,
            reader,
            k,
            s.tree(batch, batch.take(s.path_nbs)),
            jax.tree.map(batch.take, state.closings),
            shards=plan.shards,
            num_forms=plan.num_forms,
        )
        continuations = Continuations(
            candidates.token_urjt[reader.vocabulary],
            candidates.length_urj[reader.vocabulary],
            base_rj,
            jnp.broadcast_to(place_j, base_rj.shape).astype(jnp.int32),
            new_rj,
        )
        if group == plan.candidates:
            score_frj, passage = run(candidates=continuations)
            return Scores(score_frj.max(0), {meta: passage})

        def split(x_rj):
            return x_rj.reshape(x_rj.shape[0], -1, group, *x_rj.shape[2:]).swapaxes(0, 1)

        score_grj = lax.map(lambda group: run(candidates=group)[0].max(0), jax.tree.map(split, continuations))
        return Scores(score_grj.swapaxes(0, 1).reshape(new_rj.shape))


def scorer(config) -> PredictivePerplexity:
    """The scorer of a run; it has no settings of its own."""
    return PredictivePerplexity()
