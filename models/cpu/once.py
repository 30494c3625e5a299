"""A barrier against computing the same thing again and again."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def computed_once(function: Callable[[jax.Array], Any], x: jax.Array) -> Any:
    """`function` of an array of integers that are not all negative, whose result is used in many places.

    XLA's CPU compiler would compute it anew in every one of them, and knows no barrier; but it cannot see through a
    branch. The two ways are lowered by jax, for whichever devices a program is compiled for.
    """

    def nothing(x):
        return jax.tree.map(lambda y: jnp.zeros(y.shape, y.dtype), jax.eval_shape(function, x))

    return lax.platform_dependent(
        x, cpu=lambda x: lax.cond(x.max() >= 0, function, nothing, x), default=function
    )
