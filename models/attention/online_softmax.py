"""Softmax attention over keys that are met one part after another, by XLA.

Shape letters: as in `models`.
"""

import functools

import jax.numpy as jnp
from jax import lax

MASKED = -1e30  # finite, so that a row that sees nothing gives a number and not NaN


def gather(parts, query, key, value, seen, ring: bool = False):
    """Softmax attention over one more part of the keys.

    Args:
      parts: `(greatest logit, sum of weights, weighted sum of values)` over the parts so far, float32
        [..., c, m, 1 or e]; None before the first. The weights are relative to the greatest logit.
      query: [..., c, m, e]; the leading axes are those of keys and values.
      key: [..., e, s], or [..., s, e] of ring buffers; value: [..., s, e].
      seen: bool, broadcast to [..., c, m, s].
    """
    *lead, c, m, _ = query.shape
    axes, batch = len(lead), (tuple(range(len(lead))),) * 2
    product = functools.partial(lax.dot_general, preferred_element_type=jnp.float32)
    # Products of matrices in the order of their operands: others are several times slower on a CPU.
    contracted = (axes + 1,), (axes + 1 if ring else axes,)
    logits = product(query.reshape(*lead, c * m, -1), key, (contracted, batch))
    logits = jnp.where(seen, logits.reshape(*lead, c, m, -1), MASKED)
    top = logits.max(-1, keepdims=True)
    if parts is not None:
        top = jnp.maximum(top, parts[0])
    weight = jnp.exp(logits - top)
    total = weight.sum(-1, keepdims=True)
    weight = weight.reshape(*lead, c * m, -1).astype(value.dtype)
    out = product(weight, value, (((axes + 1,), (axes,)), batch)).reshape(query.shape)
    if parts is not None:
        fade = jnp.exp(parts[0] - top)
        total, out = total + fade * parts[1], out + fade * parts[2]
    return top, total, out


def grouped(query, num_kv_heads):
    """[u, c, h, e] -> [u, g, c, m, e], scaled by 1 / sqrt(e)."""
    u, c, heads, width = query.shape
    grouped = (query * (width**-0.5)).reshape(u, c, num_kv_heads, heads // num_kv_heads, width)
    return grouped.swapaxes(1, 2)


def finished(parts, query):
    """[u, g, c, m, ...] -> the output of attention in the shape and dtype of the query [u, c, h, e]."""
    _, total, out = parts
    return (out / total).swapaxes(1, 2).reshape(query.shape).astype(query.dtype)


def by_row(query):
    """Queries [n, g, q, m, e] as they meet ring buffers, which are a row's own: [n, q, g, 1, m, e]."""
    return query.swapaxes(1, 2)[:, :, :, None]


def of_rows(parts):
    """Parts of queries `by_row`, in the order in which queries meet the pool: [n, g, q, m, ...]."""
    return tuple(x.squeeze(3).swapaxes(1, 2) for x in parts)
