"""Frozen dataclasses that jax takes apart into arrays."""

import dataclasses
from collections.abc import Callable, Sequence

import jax


def pytree(cls: type | None = None, *, static: Sequence[str] = ()) -> type | Callable[[type], type]:
    """Makes a class a frozen dataclass and a pytree; the fields in `static` are hashable and decide what is compiled."""
    if cls is None:
        return lambda cls: pytree(cls, static=static)
    cls = dataclasses.dataclass(frozen=True)(cls)
    arrays = [field.name for field in dataclasses.fields(cls) if field.name not in static]
    return jax.tree_util.register_dataclass(cls, data_fields=arrays, meta_fields=list(static))
