"""Predictive perplexity: how predictable the gold answer has become (paper, section 3; design, section 3.7).

S(tau + s) = exp(mean log p(answer's tokens)), by the meta-prover, on prompt + tau + s + closing + answer +
`.`. Each candidate is a fork of its beam's path: the step is the trunk, each accepted form of the answer,
with the closing before it and the full stop behind it, is a twig. Only the positions before the answer's
tokens are projected to logits.
"""

import jax
import jax.numpy as jnp

from cord_jax import packing
from cord_jax.readers import pytree
from models.prefix_tree import Packed, extend

# Logits alive at a time, in numbers: 64 Mi float32 are 256 MiB.
LOGITS_AT_A_TIME = 1 << 26


@pytree
class Closings:
    """The closing with the answer, in the meta-prover's tokens, one twig for each accepted form; a slot or
    row each.

    Attributes:
      token_na: int32, the twigs one behind another.
      form_na: int32, the twig of each token, from 1.
      offset_na: int32, place of each token in its twig.
      length_n: int32, tokens of all twigs.
      scored_nz: int32, where in `token_na` the scored tokens lie (those whose text overlaps the answer's).
      scored_form_nz: int32, their twig; 0 for padding.
    """

    token_na: jax.Array
    form_na: jax.Array
    offset_na: jax.Array
    length_n: jax.Array
    scored_nz: jax.Array
    scored_form_nz: jax.Array


def pack_candidates(closings: Closings, step_rjt, step_length_rj, base_rj, branch_rj, valid_rj, width: int):
    """Steps and closings of a group of candidates as packed forks of their beams' paths.

    Returns:
      `(packed, start_rj)`: the tokens, and where each candidate begins.
    """
    length_rj = jnp.where(valid_rj, step_length_rj + closings.length_n[:, None], 0)
    fork_rw, offset_rw = packing.places(length_rj, width)
    step_length_rw = packing.pick(step_length_rj, fork_rw)
    in_step_rw = offset_rw < step_length_rw
    place_rw = jnp.clip(offset_rw - step_length_rw, 0, closings.token_na.shape[1] - 1)
    closing_offset_rw = step_length_rw + packing.pick(closings.offset_na, place_rw)
    packed = Packed(
        token_rw=jnp.where(
            in_step_rw,
            packing.pick_token(step_rjt, fork_rw, offset_rw),
            packing.pick(closings.token_na, place_rw),
        ),
        position_rw=packing.pick(base_rj, fork_rw) + jnp.where(in_step_rw, offset_rw, closing_offset_rw),
        branch_rw=packing.pick(branch_rj, fork_rw),
        fork_rw=fork_rw,
        form_rw=jnp.where(in_step_rw, 0, packing.pick(closings.form_na, place_rw)),
        length_r=length_rj.sum(1),
    )
    return packed, packing.starts(length_rj)


def answer_log_probabilities(model, hidden_rwd, closings: Closings, closing_start_rj, defined_v):
    """log p of each scored token of each candidate, float32 [r, j, z], over the ids that the tokenizer
    defines.
    """
    token_rz = packing.pick(closings.token_na, closings.scored_nz)
    # The logits of a token stand at the place before it; a closing always has a token before its answer's
    # first.
    place_rjz = closing_start_rj[..., None] + closings.scored_nz[:, None] - 1
    rows, candidates, scored = place_rjz.shape
    place_rx = jnp.clip(place_rjz.reshape(rows, -1), 0, hidden_rwd.shape[1] - 1)
    hidden_rxd = jnp.take_along_axis(hidden_rwd, place_rx[..., None], axis=1)
    hidden_xd = hidden_rxd.reshape(rows * candidates * scored, -1)
    target_x = jnp.broadcast_to(token_rz[:, None], place_rjz.shape).reshape(-1)

    def log_probability(hidden_xd, target_x):
        logits_xv = jnp.where(defined_v, model.unembed(hidden_xd), -jnp.inf)
        return jnp.take_along_axis(jax.nn.log_softmax(logits_xv), target_x[:, None], axis=1)[:, 0]

    most = max(1, LOGITS_AT_A_TIME // defined_v.shape[0])
    parts = next(
        parts
        for parts in range(1, len(target_x) + 1)
        if len(target_x) % parts == 0 and len(target_x) // parts <= most
    )
    return packing.in_parts(log_probability, parts, hidden_xd, target_x).reshape(place_rjz.shape)


def scores(log_probability_rjz, closings: Closings, num_forms: int):
    """exp of the mean over each form's tokens; the greatest over the forms, float32 [r, j]."""
    by_form = []
    for form in range(1, num_forms + 1):
        mine_r1z = (closings.scored_form_nz == form)[:, None]
        count_r1 = mine_r1z.sum(-1)
        mean_rj = jnp.where(mine_r1z, log_probability_rjz, 0.0).sum(-1) / jnp.maximum(count_r1, 1)
        by_form.append(jnp.where(count_r1 > 0, jnp.exp(mean_rj), -jnp.inf))
    return jnp.stack(by_form).max(0)


def score_candidates(
    model,
    defined_v,
    pool_rows,
    path_rbs,
    depth_rs,
    closings: Closings,
    step_rjt,
    step_length_rj,
    base_rj,
    branch_rj,
    valid_rj,
    *,
    width: int,
    chunk: int,
    num_forms: int,
    whole: bool = False,
):
    """Scores a group of candidates of each row in one pass.

    Args:
      model: the meta-prover's network.
      defined_v: ids that its tokenizer defines.
      pool_rows, path_rbs, depth_rs: the rows' prefix trees.
      closings: of the rows' problems.
      step_rjt, step_length_rj: the canonical steps in the meta-prover's tokens.
      base_rj, branch_rj: length and number of the beam that each continues.
      valid_rj: candidates that were not dropped; others are not computed.
      width: capacity of the packed row; chunk: tokens of a row at a time; num_forms: most forms of an answer.
      whole: as in `models.prefix_tree.extend`.

    Returns:
      `(score_rj float32, scratch, start_rj)`: scores, the keys and values of all that was read, and where in
      them each candidate's step begins.
    """
    packed, start_rj = pack_candidates(
        closings, step_rjt, step_length_rj, base_rj, branch_rj, valid_rj, width
    )
    reach = step_rjt.shape[2] + closings.token_na.shape[1]
    scratch, hidden_rwd = extend(
        model, pool_rows, path_rbs, depth_rs, packed, chunk=chunk, reach=reach, whole=whole
    )
    log_probability_rjz = answer_log_probabilities(
        model, hidden_rwd, closings, start_rj + step_length_rj, defined_v
    )
    score_rj = scores(log_probability_rjz, closings, num_forms)
    return jnp.where(valid_rj, score_rj, -jnp.inf), scratch, start_rj
