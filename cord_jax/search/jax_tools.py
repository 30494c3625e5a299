"""State as frozen dataclasses that are pytrees, and control flow that changes such state in place."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
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


def pytree(cls):
    """A frozen dataclass all of whose fields are children of a pytree."""
    cls = dataclasses.dataclass(frozen=True)(cls)
    fields = [field.name for field in dataclasses.fields(cls)]
    return jax.tree_util.register_dataclass(cls, data_fields=fields, meta_fields=[])
