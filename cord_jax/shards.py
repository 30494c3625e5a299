"""Reading and writing rows of a few slots of arrays whose slots are sharded over the mesh's data axis.

All branches of a problem live on one data shard. A sub-batch takes the same number of slots from each shard,
so that its rows `r = shard * rows_per_shard + i` are sharded as the slots are and nothing crosses the shards.
Slot numbers are local to their shard.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from models.prefix_tree import over_layers


@dataclasses.dataclass(frozen=True)
class Shards:
    """The slots' layout.

    Attributes:
      count: data shards.
      rows: sub-batch rows of each shard.
    """

    count: int
    rows: int

    def _split(self, x):
        return x.reshape(self.count, x.shape[0] // self.count, *x.shape[1:])

    def choose(self, priority_n):
        """The `rows` slots of highest priority in each shard, as local slot numbers; earlier slots first on
        ties.
        """
        return (
            jnp.argsort(-self._split(priority_n), axis=1, stable=True)[:, : self.rows]
            .reshape(-1)
            .astype(jnp.int32)
        )

    def take(self, x_n, slot_r):
        """Rows of `x_n` (leading axis n) of the given slots, leading axis r."""
        if self.count == 1:
            return x_n[slot_r]
        rows = jax.vmap(lambda x, slots: x[slots])(self._split(x_n), self._split(slot_r))
        return rows.reshape(-1, *x_n.shape[1:])

    def take_cache(self, stacked: bool, cache, slot_r):
        """The slots' keys and values, layer by layer."""
        return over_layers(stacked, lambda layer: tuple(self.take(x, slot_r) for x in layer), cache)

    def put(self, x_n, slot_r, valid_r, new_r):
        """`x_n` with the rows of the valid slots replaced. A gather and a select: scatters run one row at a
        time.
        """

        def replace(x, slots, valid, new):
            hit_nr = (jnp.arange(x.shape[0])[:, None] == slots) & valid
            given_n = jnp.expand_dims(hit_nr.any(1), range(1, x.ndim))
            return jnp.where(given_n, new[hit_nr.argmax(1)], x)

        if self.count == 1:
            return replace(x_n, slot_r, valid_r, new_r)
        return jax.vmap(replace)(*map(self._split, (x_n, slot_r, valid_r, new_r))).reshape(x_n.shape)

    def write_columns(self, pool_ngse, slot_r, start_r, new_rgce):
        """Writes each row's new columns into its slot of a pool, from its own start on."""

        def write(pool, slots, starts, new):
            for row in range(self.rows):
                pool = lax.dynamic_update_slice(pool, new[row][None], (slots[row], 0, starts[row], 0))
            return pool

        return self._on_each(write, pool_ngse, slot_r, start_r, new_rgce)

    def _on_each(self, write, pool_ngse, *rows):
        """`write` on every shard's slots and rows."""
        if self.count == 1:
            return write(pool_ngse, *rows)
        return jax.vmap(write)(*map(self._split, (pool_ngse, *rows))).reshape(pool_ngse.shape)

    def select_columns(self, pool_ngse, slot_r, start_r, new_rgce):
        """As `write_columns`, for pools whose columns lie over several devices.

        Every device picks what falls on its own columns. A slice written at a place that is not known would
        bring the whole pool to every device.
        """
        column_s = jnp.arange(pool_ngse.shape[2])

        def write(pool, slots, starts, new):
            for row in range(self.rows):
                offset_s = column_s - starts[row]
                old = lax.dynamic_slice_in_dim(pool, slots[row], 1, 0)
                moved = lax.dynamic_update_slice_in_dim(jnp.zeros_like(old), new[row][None], starts[row], 2)
                written_s1 = ((offset_s >= 0) & (offset_s < new.shape[2]))[:, None]
                pool = lax.dynamic_update_slice_in_dim(pool, jnp.where(written_s1, moved, old), slots[row], 0)
            return pool

        return self._on_each(write, pool_ngse, slot_r, start_r, new_rgce)
