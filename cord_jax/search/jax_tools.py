"""State as typed frozen pytrees, their layout on a mesh, and control flow that changes such state in place."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

# Axes that are cut over the mesh's axis `data`: slots, the rows of a sub-batch, and shards themselves.
_CUT = ("slot", "row", "shard")


def pytree(cls):
    """Makes a class a frozen dataclass all of whose fields are children of a pytree."""
    cls = dataclasses.dataclass(frozen=True)(cls)
    fields = [field.name for field in dataclasses.fields(cls)]
    return jax.tree_util.register_dataclass(cls, data_fields=fields, meta_fields=[])


def axes(*names: str) -> Any:
    """Declares the axes of a pytree's field, which say how it lies on a mesh.

    Args:
      names: one for each axis; `...` first leaves out leading axes. A field that is a tree of arrays declares the axes
        of its leaves.
    """
    return dataclasses.field(metadata={"axes": names})


def data_specs(tree: Any) -> Any:
    """Gives the partition over `data` of every array of a pytree.

    An array is cut on the axis that is declared as "slot", "row" or "shard", and is whole without one. An array that no
    field declares leads with slots or rows.
    """
    if dataclasses.is_dataclass(tree) and not isinstance(tree, jax.ShapeDtypeStruct):
        specs = {}
        for field in dataclasses.fields(tree):
            value, names = getattr(tree, field.name), field.metadata.get("axes")
            specs[field.name] = (
                data_specs(value) if names is None else jax.tree.map(lambda x, n=names: _spec(x, n), value)
            )
        return dataclasses.replace(tree, **specs)
    if isinstance(tree, dict):
        return {name: data_specs(value) for name, value in tree.items()}
    if isinstance(tree, (tuple, list)):
        return type(tree)(map(data_specs, tree))
    return None if tree is None else PartitionSpec("data")


def _spec(x: Any, names: tuple) -> PartitionSpec:
    cut = next((i for i, name in enumerate(names) if name in _CUT), None)
    if cut is None:
        return PartitionSpec()
    if names[0] is Ellipsis:
        cut += x.ndim - len(names)
    return PartitionSpec(*[None] * cut, "data")


def axis_of(state: Any, field: str, axis: str) -> int | None:
    """Finds the place of an axis among those that a pytree's field declares; None without it."""
    declared = type(state).__dataclass_fields__[field].metadata.get("axes", ())
    return declared.index(axis) if axis in declared else None


def select_rows(mask_r, new: Any, old: Any) -> Any:
    """Takes arrays, or trees of arrays, from `new` where a row's mask is set and from `old` elsewhere."""
    return jax.tree.map(lambda x, y: jnp.where(jnp.expand_dims(mask_r, range(1, x.ndim)), x, y), new, old)


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
