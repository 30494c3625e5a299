"""Control flow of programs whose state is most of a device's memory."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax


def when(condition, function: Callable[[Any], Any], state: Any) -> Any:
    """`function(state)` where the scalar `condition` holds, else `state`.

    As a loop that runs once or not at all: a loop changes its state in place, whereas the branch of a
    `lax.cond` that returns what it was given copies it.
    """
    return lax.while_loop(
        lambda carry: carry[0],
        lambda carry: (jnp.zeros_like(carry[0]), function(carry[1])),
        (condition, state),
    )[1]
