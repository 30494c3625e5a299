"""The greatest of many numbers."""

import jax
from jax import lax


def argmax(logits_pv: jax.Array) -> jax.Array:
    """The index of the greatest of each row, the lowest on ties, int32 [p]: faster than `jnp.argmax` on a CPU."""
    return lax.top_k(logits_pv, 1)[1][:, 0]
