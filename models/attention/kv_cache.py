"""Keys and values on the device: caches whose columns are tokens, and pools, which are made of blocks.

A *cache* is a tuple with one entry a layer when the decoder keeps a list of layers, and one entry whose arrays have a
leading `[l]` axis when it keeps a stack of them. An entry is a `KeyValue`: keys, already rotated, `[n, g, e, s]`, and
values `[n, g, s, e]`, the way in which the two products of attention take them; on a CPU keys the other way round cost
five times as much. Ring buffers, into which a single column is written at a time, have keys `[..., g, t, e]`.

A *pool* is a cache whose columns are cut into blocks: the entry of a layer is a tuple of `KeyValue`s, one a block.
Blocks are arrays of their own, so that what reads a pool can leave out those of which it sees nothing, at no cost, and
so that a pool can grow by a block without being copied. Columns are counted through all blocks.

Shape letters: as in `models`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from models.pytree import pytree

try:
    from jax.experimental.layout import Layout, with_layout_constraint
except ImportError:  # it is to leave `experimental`; without it a TPU needs more memory
    Layout = with_layout_constraint = None


class KeyValue(NamedTuple):
    """Keys and values, or what belongs to them."""

    key: Any
    value: Any


# The axis of columns, counted from the end: of caches, and of ring buffers.
COLUMNS = KeyValue(-1, -2)
RING_COLUMNS = KeyValue(-2, -2)


class LayerCache(NamedTuple):
    """The entries of caches that a layer reads, and that it writes too.

    Attributes:
      read: its entry of a cache or pool.
      written: its entry of what is written, or, with `layer`, all layers' entries: a stack is changed in place.
      layer: its number in the stack, else None.
    """

    read: Any
    written: Any
    layer: jax.Array | None


# (q_bthe, k_btge, v_btge, `LayerCache` or None, window of the layer) -> (out_bthe, `LayerCache.written` as it is then)
Attend = Callable[[jax.Array, jax.Array, jax.Array, LayerCache | None, Any], tuple[jax.Array, Any]]


def as_stored(x):
    """An array in the memory order of its axes.

    What is gathered prefers another, and a TPU's compiler would rather turn around the pool that it is written to.
    """
    return x if Layout is None else with_layout_constraint(x, Layout(tuple(range(x.ndim))))


def write_part(x, new, start, axis: int, layer=None):
    """`new` in the place of what lies from `start` on along an axis that is counted from the end, in place; where x is a
    stack of layers, in one of them.
    """
    place = [0] * x.ndim
    place[axis] = start
    if layer is not None:
        place[0], new = layer, new[None]
    return lax.dynamic_update_slice(x, new.astype(x.dtype), place)


def read_part(x, start, size: int, axis: int, layer=None):
    """The counterpart of `write_part`."""
    place, sizes = [0] * x.ndim, list(x.shape)
    place[axis], sizes[axis] = start, size
    if layer is None:
        return lax.dynamic_slice(x, place, sizes)
    place[0], sizes[0] = layer, 1
    return lax.dynamic_slice(x, place, sizes)[0]


def layer_part(entry: KeyValue, start, size: int | None, axes: KeyValue, layer=None) -> KeyValue:
    """Some columns of keys and values, all if `size` is None; where they are a stack of layers, of one of them."""
    return jax.tree.map(
        lambda x, axis: read_part(x, start, x.shape[axis] if size is None else size, axis, layer), entry, axes
    )


def write_tokens(cache: LayerCache, start, key_1pge, value_1pge, axes: KeyValue) -> KeyValue:
    """The entry of a `Scratch` with new keys and values from the column `start` on."""
    turned = (0, 2, 1, 3) if axes == RING_COLUMNS else (0, 2, 3, 1)
    new = KeyValue(key_1pge.transpose(turned), value_1pge.swapaxes(1, 2))
    return jax.tree.map(
        lambda x, new, axis: write_part(x, new, start, axis, cache.layer), cache.written, new, axes
    )


def empty_cache(config, stacked: bool, leading: int, columns: int, dtype):
    """Zeros for `leading` rows of so many columns."""
    heads, width = (leading, config.num_kv_heads), config.head_dim
    return _empty(config, stacked, KeyValue((*heads, width, columns), (*heads, columns, width)), dtype)


def empty_rings(config, stacked: bool, leading: tuple[int, ...], columns: int, dtype):
    """Zero ring buffers, `leading + (g, columns, e)`, keys and values alike."""
    shape = (*leading, config.num_kv_heads, columns, config.head_dim)
    return _empty(config, stacked, KeyValue(shape, shape), dtype)


def _empty(config, stacked: bool, shapes: KeyValue, dtype):
    def zeros(*layers):
        return KeyValue(*(jnp.zeros((*layers, *shape), dtype) for shape in shapes))

    return zeros(config.num_layers) if stacked else tuple(zeros() for _ in range(config.num_layers))


def empty_pool(config, stacked: bool, slots: int, blocks: Sequence[int], dtype):
    """A pool of `slots` slots with blocks of so many columns each."""
    by_block = [empty_cache(config, stacked, slots, columns, dtype) for columns in blocks]
    return tuple(by_block) if stacked else tuple(zip(*by_block))


def widened(stacked: bool, pool, blocks: Sequence[int]):
    """The pool with blocks of so many columns: none is narrower than it was, and there may be more of them."""

    def fit(x, axis, columns):
        if x.shape[axis] == columns:
            return x  # and not a copy
        padding = [(0, 0)] * x.ndim
        padding[axis] = (0, columns - x.shape[axis])
        return jnp.pad(x, padding)

    def zeros(x, axis, columns):
        shape = list(x.shape)
        shape[axis] = columns
        return jnp.zeros(shape, x.dtype)

    def wider(old):
        def made(make, block, columns):
            return jax.tree.map(functools.partial(make, columns=columns), block, COLUMNS)

        kept = [made(fit, block, columns) for block, columns in zip(old, blocks)]
        added = [made(zeros, old[-1], columns) for columns in blocks[len(old) :]]
        return (*kept, *added)

    return wider(pool) if stacked else tuple(map(wider, pool))


def block_columns(stacked: bool, pool) -> tuple[int, ...]:
    """Columns of each block."""
    return tuple(block.key.shape[COLUMNS.key] for block in (pool if stacked else pool[0]))


def spans(blocks: Sequence[int]) -> list[tuple[int, int]]:
    """First column and end of each block, in the pool's columns."""
    ends = [sum(blocks[: i + 1]) for i in range(len(blocks))]
    return [(end - columns, end) for end, columns in zip(ends, blocks)]


@pytree(static=["axes"])
class Scratch:
    """Keys and values of a packed text, until its tokens are committed to a pool or forgotten.

    Attributes:
      layers: a cache of one row of w columns; its keys are those of rings if `axes` says so.
      axes: the axes of columns, `COLUMNS` or `RING_COLUMNS`.
    """

    layers: Any
    axes: KeyValue

    @classmethod
    def empty(cls, config, stacked: bool, columns: int, dtype, axes: KeyValue) -> "Scratch":
        """A scratch cache of zeros."""
        if axes == RING_COLUMNS:
            return cls(empty_rings(config, stacked, (1,), columns, dtype), axes)
        return cls(empty_cache(config, stacked, 1, columns, dtype), axes)

    def replaced(self, layers) -> "Scratch":
        """The same with other keys and values."""
        return Scratch(layers, self.axes)

    def columns(self, layer, source_c):
        """Some columns of a layer, or of a stack of them, with keys and values as in a cache."""
        taken = jax.tree.map(lambda x, axis: jnp.take(x, source_c, axis=axis), layer, self.axes)
        if self.axes == RING_COLUMNS:
            taken = taken._replace(key=taken.key.swapaxes(-1, -2))
        return jax.tree.map(as_stored, taken)


@pytree
class Moves:
    """Columns of a scratch cache that go into a pool; all int32.

    Attributes:
      slot_r: where each row's columns go.
      source_rw: the columns, in their new order; the first `length_r` of them count.
      length_r: how many there are.
      cursor_r: the column of the pool that the first one becomes.
      chunks_r: how many chunks of a row are moved, at least as many as it needs.
    """

    slot_r: jax.Array
    source_rw: jax.Array
    length_r: jax.Array
    cursor_r: jax.Array
    chunks_r: jax.Array


def commit(stacked: bool, pool, scratch: Scratch, moves: Moves, chunk: int, write: Callable):
    """Moves columns of a scratch cache into a pool, a chunk at a time.

    Args:
      stacked: whether the layers of the pool are one stack.
      chunk: columns that are moved at a time.
      write: `write(x, slot, start, count, new, axis) -> x` writes the first `count` columns of `new`, which has one slot,
        from the column `start` of a block's keys or values on, as far as they lie in the block; of all layers of a stack
        at once.
    """

    def move_row(row, pool):
        def move_chunk(index, pool):
            offset = index * chunk
            count = jnp.clip(moves.length_r[row] - offset, 0, chunk)
            source_c = lax.dynamic_slice(moves.source_rw, (row, offset), (1, chunk))[0]

            def move(blocks, layer):
                taken = scratch.columns(layer, source_c)
                starts = [start for start, _ in spans([block.key.shape[COLUMNS.key] for block in blocks])]
                return tuple(
                    jax.tree.map(
                        lambda x, new, axis, start=start: write(
                            x, moves.slot_r[row], moves.cursor_r[row] + offset - start, count, new, axis
                        ),
                        block,
                        taken,
                        COLUMNS,
                    )
                    for block, start in zip(blocks, starts)
                )

            if stacked:
                return move(pool, scratch.layers)
            return tuple(map(move, pool, scratch.layers))

        return lax.fori_loop(0, moves.chunks_r[row], move_chunk, pool)

    return lax.fori_loop(0, moves.slot_r.shape[0], move_row, pool)
