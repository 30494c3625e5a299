"""The data shards of a search: what is written for the slots of one runs on all.

Slots are cut over the mesh's axis `data`; all beams of a problem, and all that readers hold of them, live in one slot.
So everything in a round but the exchange of text is written for one shard (`Shards.each`), with slots numbered within
it. A shard's devices along `model` share its work in the way that the parameters' shardings ask for.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cord_jax.search import slots
from cord_jax.search.jax_tools import data_specs


@dataclasses.dataclass(frozen=True)
class Shards:
    """The layout of slots on a mesh.

    Attributes:
      mesh: its axis `data` counts the shards.
      rows: slots of each shard that are settled, or inserted, at a time: a sub-batch.
    """

    mesh: Mesh
    rows: int

    @property
    def count(self) -> int:
        """Shards."""
        return self.mesh.shape["data"]

    def choose(self, priority_n):
        """The `rows` slots of highest priority in each shard, numbered within it; earlier ones first on ties."""
        by_shard = priority_n.reshape(self.count, -1)
        chosen = jax.vmap(lambda priority: slots.choose(priority, self.rows))(by_shard)
        return chosen.reshape(-1)

    def among_all(self, slot_r, num_slots: int):
        """Slots that are numbered within the shards of their rows, numbered among all `num_slots`."""
        shard_r = jnp.arange(self.count * self.rows, dtype=jnp.int32) // self.rows
        return slot_r + shard_r * (num_slots // self.count)

    def replicated(self, tree: Any) -> Any:
        """Arrays as they are, whole on every device."""
        if self.mesh.size == 1:
            return tree
        return lax.with_sharding_constraint(tree, NamedSharding(self.mesh, PartitionSpec()))

    def each(self, function: Callable, constants: Any, state: Any, *more: Any) -> Any:
        """`function(constants, state, *more)` on every shard; it returns a new state.

        Args:
          constants: whole on every shard.
          state, more: pytrees of arrays, cut as `data_specs` says.
        """
        if self.count == 1:
            return function(constants, state, *more)
        specs = data_specs(state)
        return jax.shard_map(
            function,
            mesh=self.mesh,
            in_specs=(PartitionSpec(), specs, *map(data_specs, more)),
            out_specs=specs,
            axis_names={"data"},
            check_vma=False,
        )(constants, state, *more)

    def write_split_columns(self, x_n, slot, start, count, new, axis: int):
        """`slots.write_columns` for a block whose columns lie over `model`: each device writes what falls on its own.

        Left to the compiler, a slice that is written at an unknown place brings the whole block to every device.
        """

        def write(x_n, slot, start, count, new):
            start = start - lax.axis_index("model") * x_n.shape[axis]
            return slots.write_columns(x_n, slot, start, count, new, axis)

        split, whole = [None] * x_n.ndim, PartitionSpec()
        split[axis] = "model"
        return jax.shard_map(
            write,
            mesh=self.mesh if self.count == 1 else None,  # inside of `each`, the mesh is known
            in_specs=(PartitionSpec(*split), whole, whole, whole, whole),
            out_specs=PartitionSpec(*split),
            axis_names={"model"},
            check_vma=False,
        )(x_n, slot, start, count, new)

    def agreed(self, value):
        """Agrees with the other shards on a number of turns, or on a condition: the greatest of theirs.

        Where a shard is one device, each does as it likes. Where it has several, they exchange parts of products, and
        all devices must run the same loops for that.
        """
        if self.count == 1 or self.mesh.size == self.count:
            return value
        return lax.pmax(value.astype(jnp.int32), "data").astype(value.dtype)
