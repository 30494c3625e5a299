"""The layout of parameters over a device mesh.

Every parameter carries a name for each of its axes; the rules say which mesh axis a name is split over:

    vocab     rows of the embedding, columns of the head          -> model
    heads     query heads (with the output projection's input)    -> model
    kv_heads  key-value heads                                     -> model
    mlp       feed-forward width                                  -> model
    embed     model width                                         -> fsdp, if the mesh has such an axis
    head_dim, experts, layers                                     -> not split

So one device of the `model` axis holds whole heads and a slice of the feed-forward, and each layer needs two sums over
`model`. The axis `data` splits the batch and replicates the parameters. An array axis that the mesh axis does not
divide is replicated; a mesh axis is used at most once in an array, by the first array axis that can.
"""

from collections.abc import Mapping, Sequence

import jax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

RULES: Mapping[str, str] = {
    "vocab": "model",
    "heads": "model",
    "kv_heads": "model",
    "mlp": "model",
    "embed": "fsdp",
}


def partition_spec(names: Sequence[str], shape: Sequence[int], mesh: Mesh) -> PartitionSpec:
    """The mesh axis of each array axis, given the axes' names."""
    spec: list[str | None] = []
    for name, size in zip(names, shape, strict=True):
        axis = RULES.get(name)
        fits = axis in mesh.shape and axis not in spec and size % mesh.shape[axis] == 0
        spec.append(axis if fits else None)
    return PartitionSpec(*spec)


def named_sharding(names: Sequence[str], shape: Sequence[int], mesh: Mesh) -> NamedSharding:
    """`partition_spec` on its mesh."""
    return NamedSharding(mesh, partition_spec(names, shape, mesh))


def parameter_sharding(variable: nnx.Variable, mesh: Mesh) -> NamedSharding:
    """The sharding of one parameter of a `Decoder`."""
    return named_sharding(variable.get_metadata("out_sharding"), variable.shape, mesh)


def parameter_shardings(state: nnx.State, mesh: Mesh) -> nnx.State:
    """The shardings of all parameters, in the structure of `state` (from `nnx.split` or `nnx.state`)."""
    return jax.tree.map(
        lambda variable: variable.replace(parameter_sharding(variable, mesh)),
        state,
        is_leaf=lambda node: isinstance(node, nnx.Variable),
    )


def heads_or_columns(num_kv_heads: int, columns: int, mesh: Mesh) -> str | None:
    """The axis of keys and values `[..., g, s, e]` that lies over the mesh's axis `model`.

    "heads", or "columns" where heads do not divide, or None where neither does. Attention over split columns needs sums
    over `model` of what a query gets from each part: little beside the reading of keys and values that every device
    would hold whole.
    """
    model = mesh.shape.get("model", 1)
    if num_kv_heads % model == 0:
        return "heads"
    return "columns" if columns % model == 0 else None
