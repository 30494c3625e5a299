"""A look at the logits of a network in float16 before it is used: some overflow, and would write one token for ever."""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

import models
from cord_jax.errors import UserError

# Tokens of a prompt that are tried: hidden states overflow from the first tokens on.
_TOKENS = 64


def refuse_overflow(model: models.Decoder, mesh: Mesh, prompt: Sequence[int], directory: Path | str) -> None:
    """Raises: `UserError` if weights in float16 give logits (or rewards) of this prompt that are no finite numbers.

    Other dtypes have the range of float32, and are not tried.
    """
    if model.dtype != jnp.float16:
        return
    tokens_bt = jnp.asarray([list(prompt)[:_TOKENS]], jnp.int32)
    with jax.set_mesh(mesh):
        finite = nnx.jit(_is_finite)(model, tokens_bt)
    if not bool(finite):
        raise UserError(
            f"{directory}: its weights overflow in float16, so that its logits are no numbers; load them with "
            'dtype = "bfloat16" or "float32"'
        )


def _is_finite(model: models.Decoder, tokens_bt: jax.Array) -> jax.Array:
    found = model(tokens_bt) if model.score is None else model.rewards(tokens_bt)
    return jnp.isfinite(found).all()
