"""Which hypotheses survive a round (paper, section 3; design, section 3.8)."""

import jax.numpy as jnp


def select(carried_score_rb, carried_rb, candidate_score_rj, candidate_rj, num_beams: int):
    """The B best of the complete hypotheses carried from before and of the candidates not dropped.

    Ties go to the carried first, then to the lower beam, then to the lower proposer: the order of the pool
      itself.

    Args:
      carried_score_rb, carried_rb: float32 scores of the beams, and which of them are carried.
      candidate_score_rj, candidate_rj: float32 scores of the candidates (j = beam * proposers + proposer),
        and which of them count.

    Returns:
      `(kept_rb, source_rb, score_rb)`: whether a new beam exists, its place in the pool [carried ++
      candidates], its score (0 where there is none); beams are numbered by descending score.
    """
    score = jnp.concatenate([carried_score_rb, candidate_score_rj], axis=1)
    valid = jnp.concatenate([carried_rb, candidate_rj], axis=1)
    # A score that is not a number (an overflowing network) must not win.
    order = jnp.argsort(jnp.where(valid & ~jnp.isnan(score), -score, jnp.inf), axis=1, stable=True)
    source_rb = order[:, :num_beams]
    kept_rb = jnp.take_along_axis(valid, source_rb, axis=1)
    score_rb = jnp.where(kept_rb, jnp.take_along_axis(score, source_rb, axis=1), 0.0)
    return kept_rb, source_rb.astype(jnp.int32), score_rb
