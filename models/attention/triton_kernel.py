"""Flash attention under any mask, as a kernel of a GPU.

XLA's GPU compiler writes the logits of attention to memory and reads them back, several times; here they never leave
the processor. Tiles of columns of which no query sees anything are not read, so that cost follows what is seen. Where
there are few queries, as in decoding, the tiles are divided among programs, whose parts a second kernel puts together.

Shape letters: as in `models.prefix_tree`; h query heads; r query rows of a key-value head, c * m of them; k tiles; u
columns in whole tiles; p programs that share the tiles of the same queries.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from models.attention.online_softmax import MASKED

try:
    from jax.experimental.pallas import triton
except ImportError:  # deprecated since jax 0.11; without it attention is XLA's
    triton = None

# Columns that are read at a time, and most query rows of a program.
TILE, ROWS = 64, 128
# Query rows of a program that puts parts together.
JOINED_ROWS = 8
# Programs that keep the processors of a large GPU busy, and most that share tiles.
PROGRAMS, SPLITS = 264, 32


class Sight(NamedTuple):
    """What queries see of keys and values [y, g, ...].

    Attributes:
      seen_xcu: int8; an x sees columns of one y or of several, whose columns lie one behind another in u, each y's in
        whole tiles.
      tile_xk: int32, the tiles of which some query sees something come first.
      count_x: int32, how many do.
      first_x: int32, the first y of each x.
    """

    seen_xcu: jax.Array
    tile_xk: jax.Array
    count_x: jax.Array
    first_x: jax.Array

    def of(self, seen) -> "Sight":
        """The same, of masks that see less."""
        return self._replace(seen_xcu=_whole_tiles(seen))


class Source(NamedTuple):
    """Keys, [y, g, e, s], or [y, g, s, e] if `columns_first`, values [y, g, s, e], and what is seen of them."""

    key: jax.Array
    value: jax.Array
    sight: Sight
    columns_first: bool = False


def supported(dtype, head_dim: int) -> bool:
    """Whether there is a kernel for keys and values of this kind."""
    half = triton is not None and jnp.dtype(dtype).itemsize == 2
    return half and head_dim >= 16 and head_dim & (head_dim - 1) == 0


def sight(seen, first_x) -> Sight:
    """What masks let queries see: bool [x, c, s], or [x, c, y, s] where x sees columns of several y."""
    seen_xcu = _whole_tiles(seen)
    seen_xk = seen_xcu.any(1).reshape(len(seen_xcu), -1, TILE).any(-1)
    order_xk = jnp.argsort(~seen_xk, axis=1, stable=True).astype(jnp.int32)
    return Sight(seen_xcu, order_xk, seen_xk.sum(1, dtype=jnp.int32), first_x)


def _whole_tiles(seen):
    seen = jnp.pad(seen, [(0, 0)] * (seen.ndim - 1) + [(0, -seen.shape[-1] % TILE)])
    return seen.reshape(*seen.shape[:2], -1).astype(jnp.int8)


@dataclasses.dataclass(frozen=True)
class _Shape:
    """What is static about a call: heads g and m, query rows, and rows of a block."""

    kv_heads: int
    group: int
    rows: int
    block: int

    @property
    def blocks(self) -> int:
        return -(-self.rows // self.block)

    def place(self, head, index_r, width):
        """Where the query rows of a key-value head lie in [c, h, e]."""
        member_r = head * self.group + index_r % self.group
        return (index_r // self.group)[:, None], member_r[:, None], jnp.arange(width)[None, :]


def attend(query_xche, sources: Sequence[Source], interpret: bool = False):
    """Softmax attention of queries to all sources, out_xche in the dtype of the query.

    Query head h reads key-value head h // m. Logits are scaled by e**-0.5; they and the softmax are float32.
    `interpret` runs the kernel without a GPU, very slowly.
    """
    num_x, num_queries, heads, width = query_xche.shape
    kv_heads = sources[0].key.shape[1]
    rows = num_queries * heads // kv_heads
    block = min(ROWS, max(16, 1 << (rows - 1).bit_length()))
    shape = _Shape(kv_heads, heads // kv_heads, rows, block)
    most = max(source.sight.tile_xk.shape[1] for source in sources)
    splits = max(1, min(most, SPLITS, PROGRAMS // (num_x * kv_heads * shape.blocks)))

    def of_x(x_x):
        """A block of an array's x."""
        return pl.BlockSpec((None, *x_x.shape[1:]), lambda x, *_: (x, *(0 for _ in x_x.shape[1:])))

    inputs, specs = [query_xche], [of_x(query_xche)]
    for key, value, seen, _ in sources:
        small = [seen.tile_xk, seen.count_x[:, None], seen.first_x[:, None], seen.seen_xcu]
        inputs += [*small, key, value]
        specs += [*map(of_x, small), *[pl.BlockSpec(memory_space=pl.ANY)] * 2]
    run = functools.partial(
        pl.pallas_call,
        compiler_params=triton.CompilerParams(num_warps=4 if block <= 64 else 8, num_stages=2),
        interpret=interpret,
    )
    whole = jax.ShapeDtypeStruct(query_xche.shape, query_xche.dtype)
    kernel = functools.partial(_kernel, shape, [source.columns_first for source in sources], splits)
    grid = (num_x, kv_heads, shape.blocks, splits)
    if splits == 1:
        return run(
            kernel, grid=grid, in_specs=specs, out_specs=of_x(whole), out_shape=whole, name="flash_attention"
        )(*inputs)
    part = (num_x, kv_heads, splits, shape.blocks * block)
    shapes = [jax.ShapeDtypeStruct(size, jnp.float32) for size in (part, part, (*part, width))]
    parts = run(
        kernel,
        grid=grid,
        in_specs=specs,
        out_specs=[
            pl.BlockSpec(
                (None, None, None, *x.shape[3:]), lambda x, g, i, p, x_=x: (x, g, p, *[0] * (x_.ndim - 3))
            )
            for x in shapes
        ],
        out_shape=shapes,
        name="flash_attention",
    )(*inputs)
    return run(
        functools.partial(_join, shape, splits),
        grid=(num_x, kv_heads, -(-rows // JOINED_ROWS)),
        in_specs=[
            pl.BlockSpec((None, None, *x.shape[2:]), lambda x, g, i, x_=x: (x, g, *[0] * (x_.ndim - 2)))
            for x in shapes
        ],
        out_specs=of_x(whole),
        out_shape=whole,
        name="flash_attention_join",
    )(*parts)


def _kernel(shape: _Shape, columns_first: Sequence[bool], splits: int, query_ref, *refs):
    """A block of query rows of a key-value head against every `splits`-th tile."""
    source_refs, outputs = refs[: 6 * len(columns_first)], refs[6 * len(columns_first) :]
    width = query_ref.shape[-1]
    head, group, split = (pl.program_id(axis) for axis in (1, 2, 3))
    index_r = group * shape.block + jnp.arange(shape.block)
    known_r = jnp.minimum(index_r, shape.rows - 1)
    query_re = query_ref[shape.place(head, known_r, width)]
    dot = functools.partial(jnp.dot, preferred_element_type=jnp.float32)

    def read(carry, first, refs):
        tile_ref, count_ref, first_ref, seen_ref, key_ref, value_ref = refs
        columns = value_ref.shape[2]
        each = -(-columns // TILE)  # tiles of one y

        def step(i, carry):
            top_r, total_r, out_re = carry
            tile = tile_ref[split + i * splits]
            y, start = first_ref[0] + tile // each, tile % each * TILE
            place_u, place_s = pl.ds(start, TILE), start + jnp.arange(TILE)

            def load(ref, last):
                at = ref.at[y, head, :, place_u] if last else ref.at[y, head, place_u, :]
                if columns % TILE == 0:
                    return at[...]
                inside = place_s[None, :] < columns if last else place_s[:, None] < columns
                size = (width, TILE) if last else (TILE, width)
                return triton.load(at, mask=jnp.broadcast_to(inside, size), other=0.0)

            key = load(key_ref, not first)
            logits_rs = dot(query_re, key.T if first else key) * width**-0.5
            seen_rs = seen_ref[(known_r // shape.group)[:, None], (tile * TILE + jnp.arange(TILE))[None, :]]
            logits_rs = jnp.where(seen_rs != 0, logits_rs, MASKED)
            new_r = jnp.maximum(top_r, logits_rs.max(1))
            weight_rs = jnp.exp(logits_rs - new_r[:, None])
            fade_r = jnp.exp(top_r - new_r)
            value_se = load(value_ref, False)
            out_re = out_re * fade_r[:, None] + dot(weight_rs.astype(value_se.dtype), value_se)
            return new_r, total_r * fade_r + weight_rs.sum(1), out_re

        turns = jnp.maximum(0, count_ref[0] - split + splits - 1) // splits
        return lax.fori_loop(0, turns, step, carry)

    carry = jnp.full((shape.block,), MASKED), jnp.zeros((shape.block,)), jnp.zeros((shape.block, width))
    for number, first in enumerate(columns_first):
        carry = read(carry, first, source_refs[6 * number : 6 * number + 6])
    top_r, total_r, out_re = carry
    if splits > 1:
        top_ref, total_ref, out_ref = outputs
        place_r = pl.ds(group * shape.block, shape.block)
        top_ref[place_r], total_ref[place_r], out_ref[place_r, :] = carry
    else:
        _store(shape, outputs[0], head, index_r, out_re / total_r[:, None])


def _join(shape: _Shape, splits: int, top_ref, total_ref, part_ref, out_ref):
    """The output of a few query rows from all of its parts."""
    width = part_ref.shape[-1]
    head = pl.program_id(1)
    index_r = pl.program_id(2) * JOINED_ROWS + jnp.arange(JOINED_ROWS)
    place_r = pl.ds(pl.program_id(2) * JOINED_ROWS, JOINED_ROWS)
    # Not loops: their reads would wait for one another.
    tops = [top_ref[p, place_r] for p in range(splits)]
    top_r = functools.reduce(jnp.maximum, tops)
    total_r, out_re = jnp.zeros(JOINED_ROWS), jnp.zeros((JOINED_ROWS, width))
    for p in range(splits):
        fade_r = jnp.exp(tops[p] - top_r)
        total_r += fade_r * total_ref[p, place_r]
        out_re += fade_r[:, None] * part_ref[p, place_r, :]
    _store(shape, out_ref, head, index_r, out_re / total_r[:, None])


def _store(shape: _Shape, ref, head, index_r, out_re):
    """Writes query rows; there are none beyond the last."""
    inside_re = jnp.broadcast_to((index_r < shape.rows)[:, None], out_re.shape)
    triton.store(
        ref.at[shape.place(head, index_r, out_re.shape[1])], out_re.astype(ref.dtype), mask=inside_re
    )
