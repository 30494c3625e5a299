"""Closings: what follows the reasoning when the meta-prover is asked for the gold answer (method, section 3.7)."""

import jax
import jax.numpy as jnp

from cord_jax.search.jax_tools import axes, pytree


@pytree
class Closings:
    """The closing with each accepted form of the answer, in the meta-prover's tokens; a slot or row each.

    Attributes:
      token_na: int32, the forms one behind another, each with the closing before it.
      form_na: int32, the form of each token, from 1.
      offset_na: int32, place of each token in its form.
      length_n: int32, tokens of all forms.
      scored_nz: int32, where in `token_na` the scored tokens lie (those whose text overlaps the answer's).
      scored_form_nz: int32, their form; 0 for padding.
    """

    token_na: jax.Array = axes("slot", "token")
    form_na: jax.Array = axes("slot", "token")
    offset_na: jax.Array = axes("slot", "token")
    length_n: jax.Array = axes("slot")
    scored_nz: jax.Array = axes("slot", "scored")
    scored_form_nz: jax.Array = axes("slot", "scored")


def empty_closings(slots: int, width: int, scored_width: int) -> Closings:
    """Makes closings without tokens.

    Args:
      width: most tokens of all closings of a problem; scored_width: most scored tokens among them.
    """
    tokens_na, scored_nz = jnp.zeros((slots, width), jnp.int32), jnp.zeros((slots, scored_width), jnp.int32)
    return Closings(tokens_na, tokens_na, tokens_na, jnp.zeros((slots,), jnp.int32), scored_nz, scored_nz)
