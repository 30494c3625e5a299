"""Drawing one token a row: temperature, then top-k, then top-p, then the draw (method, sections 3.10 and 3.11)."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

EXCLUDED = -jnp.inf


@dataclasses.dataclass(frozen=True)
class SamplingSettings:
    """The sampling settings of one reader's proposers, one entry a proposer. Static: it decides what is compiled.

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


def judgment_key(problem_key, step, beam, proposer, number):
    """The key of the draws of a candidate's judgment: that of its proposal, and the judgment's number (uint32).

    Numbers count from the other end than the positions of the proposal's own draws.
    """
    key = jax.random.wrap_key_data(row_key(problem_key, step, beam, proposer))
    return jax.random.key_data(jax.random.fold_in(key, ~number))


def problem_key(seed, digest_2):
    """The key of a problem: the seed and 64 bits of a hash of its id, as raw key data uint32 [2]."""
    key = jax.random.key(seed)
    for part in (digest_2[0], digest_2[1]):
        key = jax.random.fold_in(key, part)
    return jax.random.key_data(key)


def keep_top_k(logits_pv, top_k_p, largest: int):
    """Masks all but the k largest; `top_k_p` is 0 where all are kept, and `largest` at most. Ties at the k-th place are
    kept.
    """
    largest = min(largest, logits_pv.shape[-1])  # there are no more tokens
    ranked = lax.top_k(logits_pv, largest)[0]
    kth = jnp.take_along_axis(ranked, jnp.clip(top_k_p, 1, largest)[:, None] - 1, axis=-1)
    return jnp.where((top_k_p == 0)[:, None] | (logits_pv >= kth), logits_pv, EXCLUDED)


def keep_top_p(logits_pv, top_p_p):
    """Masks the tail whose more probable tokens already sum to p or more; ties with the last that is kept are kept.

    The threshold is found two bits at a time, of numbers that are in the order of the logits: to sort a vocabulary
    takes longer.
    """
    probability_p1v = jax.nn.softmax(logits_pv, axis=-1)[:, None]
    bits_pv = lax.bitcast_convert_type(logits_pv, jnp.uint32)
    sign = np.uint32(1 << 31)
    order_p1v = jnp.where(bits_pv < sign, bits_pv | sign, ~bits_pv)[:, None]
    least_p1 = top_p_p[:, None]

    def refine(i, threshold_p):
        shift = jnp.uint32(30) - 2 * i.astype(jnp.uint32)
        trial_p3 = threshold_p[:, None] | (jnp.arange(1, 4, dtype=jnp.uint32) << shift)
        kept_p3 = jnp.where(order_p1v >= trial_p3[..., None], probability_p1v, 0).sum(-1)
        return threshold_p | ((kept_p3 >= least_p1).sum(-1).astype(jnp.uint32) << shift)

    threshold_p = lax.fori_loop(0, 16, refine, jnp.zeros(len(logits_pv), jnp.uint32))
    kept_pv = (order_p1v[:, 0] >= threshold_p[:, None]) | (top_p_p >= 1)[:, None]
    return jnp.where(kept_pv, logits_pv, EXCLUDED)


def sample(logits_pv, key_p2, position_p, proposer_p, settings: SamplingSettings, argmax: Callable):
    """Draws a token for each row.

    Args:
      logits_pv: float32; ids that must not be drawn are -inf.
      key_p2: raw row keys, uint32.
      position_p: index of the draw among the row's draws.
      proposer_p: whose row it is, an index into the settings.
      argmax: as in `models.Execution`.

    Returns:
      int32 [p] token ids.
    """
    if not any(settings.temperature):
        return argmax(logits_pv)
    temperature_p, top_p_p = (
        jnp.asarray(values, jnp.float32)[proposer_p] for values in (settings.temperature, settings.top_p)
    )
    drawn_pv = logits_pv / jnp.where(temperature_p > 0, temperature_p, 1.0)[:, None]
    if any(settings.top_k):
        drawn_pv = keep_top_k(drawn_pv, jnp.asarray(settings.top_k)[proposer_p], max(settings.top_k))
    if min(settings.top_p) < 1:
        drawn_pv = keep_top_p(drawn_pv, top_p_p)

    def draw(logits_v, key_2, position):
        key = jax.random.fold_in(jax.random.wrap_key_data(key_2), position)
        return logits_v + jax.random.gumbel(key, logits_v.shape, logits_v.dtype)

    drawn_pv = jax.vmap(draw)(drawn_pv, key_p2, position_p)
    if not all(settings.temperature):
        drawn_pv = jnp.where((temperature_p > 0)[:, None], drawn_pv, logits_pv)
    return argmax(drawn_pv)
