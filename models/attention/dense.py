"""Dense causal attention for training and scoring of whole sequences.

Any other attention is an argument of `Decoder.run_layers`.
"""

import jax
import jax.numpy as jnp

# Window of a layer that attends to everything, among layers that have windows.
NO_WINDOW = 2**30


def causal_mask(
    positions_bt: jax.Array, segment_ids_bt: jax.Array | None, window: jax.Array | int | None
) -> jax.Array:
    """The keys that each query may read, bool [b, query t, key t].

    A query reads keys at its own or an earlier place in the row, of its own segment, and, in a layer with a sliding
    window, at less than `window` positions before it. Every query may read itself, so no row is empty.
    """
    place = jnp.arange(positions_bt.shape[1])
    mask = (place[:, None] >= place[None, :])[None]
    if segment_ids_bt is not None:
        mask = mask & (segment_ids_bt[:, :, None] == segment_ids_bt[:, None, :])
    if window is not None:
        mask = mask & (positions_bt[:, :, None] - positions_bt[:, None, :] < window)
    return mask


def dense_attention(
    q_bthe: jax.Array, k_bsge: jax.Array, v_bsge: jax.Array, mask_bts: jax.Array
) -> jax.Array:
    """Scaled dot-product attention with grouped heads, out_bthe in the dtype of `v_bsge`.

    Query head i reads key-value head i // (h / g). Scores and softmax are in float32. `mask_bts` is bool, [b
    or 1, t, s].
    """
    b, t, h, e = q_bthe.shape
    g = k_bsge.shape[2]
    q_btgme = q_bthe.reshape(b, t, g, h // g, e)
    scores = jnp.einsum("btgme,bsge->bgmts", q_btgme, k_bsge, preferred_element_type=jnp.float32) * e**-0.5
    scores = jnp.where(mask_bts[:, None, None], scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(v_bsge.dtype)
    out_btgme = jnp.einsum("bgmts,bsge->btgme", weights, v_bsge)
    return out_btgme.reshape(b, t, h, e)
