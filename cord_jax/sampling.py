"""Drawing one token a row: temperature, then top-k, then top-p, then the draw (design, section 3.10 and
3.11).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

EXCLUDED = -jnp.inf


@dataclasses.dataclass(frozen=True)
class SamplingSettings:
    """How the proposers of one reader sample; one entry a proposer. Static: it decides what is compiled.

    Attributes:
      temperature: 0 means the most probable token, the lowest id on ties.
      top_k: keep the k most probable tokens; 0 keeps all.
      top_p: keep the fewest tokens whose probabilities sum to p or more; 1 keeps all.
    """

    temperature: tuple[float, ...]
    top_k: tuple[int, ...]
    top_p: tuple[float, ...]


def row_key(problem_key, step, beam, proposer):
    """The key of a row's draws, a function of (seed, problem id, step, beam, proposer) only."""
    key = jax.random.wrap_key_data(problem_key)
    for part in (step, beam, proposer):
        key = jax.random.fold_in(key, part)
    return jax.random.key_data(key)


def problem_key(seed, digest_2):
    """The key of a problem: the seed and 64 bits of a hash of its id, as raw key data uint32 [2]."""
    key = jax.random.key(seed)
    for part in (digest_2[0], digest_2[1]):
        key = jax.random.fold_in(key, part)
    return jax.random.key_data(key)


def keep_top_k(logits_qv, top_k_q):
    """Masks all but the k largest; `top_k_q` is 0 where all are kept. Ties at the k-th place are kept."""
    largest = int(top_k_q.max())
    ranked = lax.top_k(logits_qv, largest)[0]
    kth = jnp.take_along_axis(ranked, jnp.asarray(np.maximum(top_k_q, 1) - 1)[:, None], axis=-1)
    return jnp.where((jnp.asarray(top_k_q) == 0)[:, None] | (logits_qv >= kth), logits_qv, EXCLUDED)


def keep_top_p(logits_qv, top_p_q):
    """Masks the tail whose more probable tokens already sum to p or more; ties with the last that is kept are kept.

    The threshold is found two bits at a time, of numbers that are in the order of the logits: to sort a vocabulary
    takes longer.
    """
    probability_q1v = jax.nn.softmax(logits_qv, axis=-1)[:, None]
    bits_qv = lax.bitcast_convert_type(logits_qv, jnp.uint32)
    sign = np.uint32(1 << 31)
    order_q1v = jnp.where(bits_qv < sign, bits_qv | sign, ~bits_qv)[:, None]
    least_q1 = jnp.asarray(top_p_q, jnp.float32)[:, None]

    def refine(i, threshold_q):
        shift = jnp.uint32(30) - 2 * i.astype(jnp.uint32)
        trial_qx = threshold_q[:, None] | (jnp.arange(1, 4, dtype=jnp.uint32) << shift)
        kept_qx = jnp.where(order_q1v >= trial_qx[..., None], probability_q1v, 0).sum(-1)
        return threshold_q | ((kept_qx >= least_q1).sum(-1).astype(jnp.uint32) << shift)

    threshold_q = lax.fori_loop(0, 16, refine, jnp.zeros(len(logits_qv), jnp.uint32))
    kept_qv = (order_q1v[:, 0] >= threshold_q[:, None]) | (np.asarray(top_p_q) >= 1)[:, None]
    return jnp.where(kept_qv, logits_qv, EXCLUDED)


def most(x_nqv):
    """The index of the greatest, the lowest on ties, int32 [n, q]."""
    return lax.platform_dependent(
        x_nqv,
        cpu=lambda x_nqv: lax.top_k(x_nqv, 1)[1][..., 0],  # faster there than `argmax`
        default=lambda x_nqv: jnp.argmax(x_nqv, axis=-1).astype(jnp.int32),
    )


def sample(logits_nqv, key_nq2, position_nq, settings: SamplingSettings):
    """Draws a token for each row.

    Args:
      logits_nqv: float32; ids that must not be drawn are -inf.
      key_nq2: raw row keys, uint32.
      position_nq: index of the draw among the row's draws.
      settings: one entry a proposer; rows are ordered q = beam * proposers + proposer.

    Returns:
      int32 [n, q] token ids.
    """
    num_slots, num_rows, _ = logits_nqv.shape
    repeat = num_rows // len(settings.temperature)
    temperature_q, top_k_q, top_p_q = (
        np.tile(np.asarray(values), repeat)
        for values in (settings.temperature, settings.top_k, settings.top_p)
    )
    if not temperature_q.any():
        return most(logits_nqv)

    def draw_slot(logits_qv, key_q2, position_q):
        logits_qv = logits_qv / jnp.where(temperature_q > 0, temperature_q, 1.0)[:, None].astype(jnp.float32)
        if top_k_q.any():
            logits_qv = keep_top_k(logits_qv, top_k_q)
        if (top_p_q < 1).any():
            logits_qv = keep_top_p(logits_qv, top_p_q)

        def draw(logits_v, key_2, position):
            key = jax.random.fold_in(jax.random.wrap_key_data(key_2), position)
            return logits_v + jax.random.gumbel(key, logits_v.shape, logits_v.dtype)

        return jax.vmap(draw)(logits_qv, key_q2, position_q)

    drawn_nqv = jax.vmap(draw_slot)(logits_nqv, key_nq2, position_nq)
    if not temperature_q.all():
        drawn_nqv = jnp.where(temperature_q[:, None] > 0, drawn_nqv, logits_nqv)
    return most(drawn_nqv)
