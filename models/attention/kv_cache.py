"""Keys and values on the device: caches whose columns are tokens, and pools, which are made of blocks.

A *cache* is a tuple with one entry a layer when the decoder keeps a list of layers, and one entry whose arrays have a
leading `[l]` axis when it keeps a stack of them. An entry is a `KeyValue`: keys, already rotated, `[n, g, e, s]`, and
values `[n, g, s, e]`, the way in which the two products of attention take them; on a CPU keys the other way round cost
five times as much. Ring buffers, into which a single column is written at a time, have keys `[..., g, s, e]` too.

A *pool* is a cache whose columns are cut into blocks: the entry of a layer is a tuple of `KeyValue`s, one a block.
Blocks are arrays of their own, so that what reads a pool can leave out those of which it sees nothing, at no cost, and
so that a pool can grow by a block without being copied. Columns are counted through all blocks.

Shape letters: as in `models.prefix_tree`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

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
    """What a layer reads, and what it writes too.

    Attributes:
      read: its entry of a cache or pool.
      written: its entry of what is written, or, with `layer`, all layers' entries: a stack is changed in place.
      layer: its number in the stack, else None.
    """

    read: Any
    written: Any
    layer: jax.Array | None


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
    """Where each block begins and ends, in the pool's columns."""
    ends = [sum(blocks[: i + 1]) for i in range(len(blocks))]
    return [(end - columns, end) for end, columns in zip(ends, blocks)]


def commit(
    stacked: bool,
    pool,
    scratch,
    slot_r,
    source_rw,
    cursor_r,
    length_r,
    *,
    chunk: int,
    chunks_r,
    write: Callable,
    columns_first: bool = False,
):
    """Moves columns of a scratch cache into a pool, from each row's cursor on, a chunk at a time.

    Args:
      scratch: a cache of one row.
      slot_r: where each row's columns go.
      source_rw: the columns to be moved, in their new order; the first `length_r` of them count.
      chunks_r: how many chunks of a row are moved, at least as many as it needs.
      write: `write(x, slot, start, count, new, axis) -> x` writes the first `count` columns of `new`, which has one slot,
        from the column `start` of a block's keys or values on, as far as they lie in the block; of all layers of a stack
        at once.
      columns_first: the scratch's keys are those of ring buffers.
    """

    def move_row(row, pool):
        def move_chunk(index, pool):
            offset = index * chunk
            count = jnp.clip(length_r[row] - offset, 0, chunk)
            source_c = lax.dynamic_slice(source_rw, (row, offset), (1, chunk))[0]

            def move(blocks, scratch_layer):
                axes = RING_COLUMNS if columns_first else COLUMNS
                taken = jax.tree.map(lambda x, axis: jnp.take(x, source_c, axis=axis), scratch_layer, axes)
                if columns_first:
                    taken = taken._replace(key=taken.key.swapaxes(-1, -2))
                taken = jax.tree.map(as_stored, taken)
                starts = [start for start, _ in spans([block.key.shape[COLUMNS.key] for block in blocks])]
                return tuple(
                    jax.tree.map(
                        lambda x, new, axis, start=start: write(
                            x, slot_r[row], cursor_r[row] + offset - start, count, new, axis
                        ),
                        block,
                        taken,
                        COLUMNS,
                    )
                    for block, start in zip(blocks, starts)
                )

            if stacked:
                return move(pool, scratch)
            return tuple(map(move, pool, scratch))

        return lax.fori_loop(0, chunks_r[row], move_chunk, pool)

    return lax.fori_loop(0, slot_r.shape[0], move_row, pool)
