"""Flash attention under any mask, as a kernel of a GPU.

XLA's GPU compiler writes the logits of attention to memory and reads them back, several times; here they never leave
the processor. Tiles of columns of which no query sees anything are not read, so that cost follows what is seen. Where
there are few queries, as in decoding, the tiles are divided among programs, whose parts a second kernel puts together.

Shape letters: as in `models`; a p is a query of a key-value head, c * m of them; a k is a tile of columns. Columns s of
masks come in whole tiles.
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


class TileMask(NamedTuple):
    """The columns of keys and values [n, g, ...] that queries see.

    Attributes:
      seen_ucs: int8; a u sees columns of one n or of several, which lie one behind another, each n's in whole tiles.
      tile_uk: int32, the tiles of which some query sees something come first.
      count_u: int32, how many do.
      first_u: int32, the first n of each u.
    """

    seen_ucs: jax.Array
    tile_uk: jax.Array
    count_u: jax.Array
    first_u: jax.Array

    def of(self, seen) -> "TileMask":
        """The same, of masks that see less."""
        return self._replace(seen_ucs=_whole_tiles(seen))


class Source(NamedTuple):
    """Keys, [n, g, e, s], or [n, g, s, e] if `columns_first`, values [n, g, s, e], and the columns that are seen."""

    key: jax.Array
    value: jax.Array
    mask: TileMask
    columns_first: bool = False


def supported(dtype, head_dim: int) -> bool:
    """Says whether the kernel takes keys and values of this kind."""
    half = triton is not None and jnp.dtype(dtype).itemsize == 2
    return half and head_dim >= 16 and head_dim & (head_dim - 1) == 0


def tile_mask(seen, first_u) -> TileMask:
    """Sorts the tiles of masks: bool [u, c, s], or [u, c, n, s] where a u sees columns of several n."""
    seen_ucs = _whole_tiles(seen)
    seen_uk = seen_ucs.any(1).reshape(len(seen_ucs), -1, TILE).any(-1)
    order_uk = jnp.argsort(~seen_uk, axis=1, stable=True).astype(jnp.int32)
    return TileMask(seen_ucs, order_uk, seen_uk.sum(1, dtype=jnp.int32), first_u)


def _whole_tiles(seen):
    seen = jnp.pad(seen, [(0, 0)] * (seen.ndim - 1) + [(0, -seen.shape[-1] % TILE)])
    return seen.reshape(*seen.shape[:2], -1).astype(jnp.int8)


@dataclasses.dataclass(frozen=True)
class _Shape:
    """Sizes of a call: heads g and m, queries p, and queries of a block."""

    kv_heads: int
    group: int
    rows: int
    block: int

    @property
    def blocks(self) -> int:
        return -(-self.rows // self.block)

    def place(self, head, index_p, width):
        """Gives the indices of the queries of a key-value head in [c, h, e]."""
        member_p = head * self.group + index_p % self.group
        return (index_p // self.group)[:, None], member_p[:, None], jnp.arange(width)[None, :]


def attend(query_uche, sources: Sequence[Source], interpret: bool = False):
    """Softmax attention of queries to all sources, out_uche in the dtype of the query.

    Query head h reads key-value head h // m. Logits are scaled by e**-0.5; they and the softmax are float32.
    `interpret` runs the kernel without a GPU, very slowly.
    """
    num_u, num_queries, heads, width = query_uche.shape
    kv_heads = sources[0].key.shape[1]
    rows = num_queries * heads // kv_heads
    block = min(ROWS, max(16, 1 << (rows - 1).bit_length()))
    shape = _Shape(kv_heads, heads // kv_heads, rows, block)
    most = max(source.mask.tile_uk.shape[1] for source in sources)
    splits = max(1, min(most, SPLITS, PROGRAMS // (num_u * kv_heads * shape.blocks)))

    def of_group(x_u):
        """A block of an array's u."""
        return pl.BlockSpec((None, *x_u.shape[1:]), lambda u, *_: (u, *(0 for _ in x_u.shape[1:])))

    inputs, specs = [query_uche], [of_group(query_uche)]
    for key, value, seen, _ in sources:
        small = [seen.tile_uk, seen.count_u[:, None], seen.first_u[:, None], seen.seen_ucs]
        inputs += [*small, key, value]
        specs += [*map(of_group, small), *[pl.BlockSpec(memory_space=pl.ANY)] * 2]
    run = functools.partial(
        pl.pallas_call,
        compiler_params=triton.CompilerParams(num_warps=4 if block <= 64 else 8, num_stages=2),
        interpret=interpret,
    )
    whole = jax.ShapeDtypeStruct(query_uche.shape, query_uche.dtype)
    kernel = functools.partial(_kernel, shape, [source.columns_first for source in sources], splits)
    grid = (num_u, kv_heads, shape.blocks, splits)
    if splits == 1:
        return run(
            kernel,
            grid=grid,
            in_specs=specs,
            out_specs=of_group(whole),
            out_shape=whole,
            name="flash_attention",
        )(*inputs)
    part = (num_u, kv_heads, splits, shape.blocks * block)
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
        grid=(num_u, kv_heads, -(-rows // JOINED_ROWS)),
        in_specs=[
            pl.BlockSpec((None, None, *x.shape[2:]), lambda x, g, i, x_=x: (x, g, *[0] * (x_.ndim - 2)))
            for x in shapes
        ],
        out_specs=of_group(whole),
        out_shape=whole,
        name="flash_attention_join",
    )(*parts)


def _kernel(shape: _Shape, columns_first: Sequence[bool], splits: int, query_ref, *refs):
    """A block of query rows of a key-value head against every `splits`-th tile."""
    source_refs, outputs = refs[: 6 * len(columns_first)], refs[6 * len(columns_first) :]
    width = query_ref.shape[-1]
    head, group, split = (pl.program_id(axis) for axis in (1, 2, 3))
    index_p = group * shape.block + jnp.arange(shape.block)
    known_p = jnp.minimum(index_p, shape.rows - 1)
    query_pe = query_ref[shape.place(head, known_p, width)]
    dot = functools.partial(jnp.dot, preferred_element_type=jnp.float32)

    def read(carry, first, refs):
        tile_ref, count_ref, first_ref, seen_ref, key_ref, value_ref = refs
        columns = value_ref.shape[2]
        each = -(-columns // TILE)  # tiles of one n

        def step(i, carry):
            top_p, total_p, out_pe = carry
            tile = tile_ref[split + i * splits]
            n, start = first_ref[0] + tile // each, tile % each * TILE
            slice_s, place_s = pl.ds(start, TILE), start + jnp.arange(TILE)

            def load(ref, last):
                at = ref.at[n, head, :, slice_s] if last else ref.at[n, head, slice_s, :]
                if columns % TILE == 0:
                    return at[...]
                inside = place_s[None, :] < columns if last else place_s[:, None] < columns
                size = (width, TILE) if last else (TILE, width)
                return triton.load(at, mask=jnp.broadcast_to(inside, size), other=0.0)

            key = load(key_ref, not first)
            logits_ps = dot(query_pe, key.T if first else key) * width**-0.5
            seen_ps = seen_ref[(known_p // shape.group)[:, None], (tile * TILE + jnp.arange(TILE))[None, :]]
            logits_ps = jnp.where(seen_ps != 0, logits_ps, MASKED)
            new_p = jnp.maximum(top_p, logits_ps.max(1))
            weight_ps = jnp.exp(logits_ps - new_p[:, None])
            fade_p = jnp.exp(top_p - new_p)
            value_se = load(value_ref, False)
            out_pe = out_pe * fade_p[:, None] + dot(weight_ps.astype(value_se.dtype), value_se)
            return new_p, total_p * fade_p + weight_ps.sum(1), out_pe

        turns = jnp.maximum(0, count_ref[0] - split + splits - 1) // splits
        return lax.fori_loop(0, turns, step, carry)

    carry = jnp.full((shape.block,), MASKED), jnp.zeros((shape.block,)), jnp.zeros((shape.block, width))
    for number, first in enumerate(columns_first):
        carry = read(carry, first, source_refs[6 * number : 6 * number + 6])
    top_p, total_p, out_pe = carry
    if splits > 1:
        top_ref, total_ref, out_ref = outputs
        place_p = pl.ds(group * shape.block, shape.block)
        top_ref[place_p], total_ref[place_p], out_ref[place_p, :] = carry
    else:
        _store(shape, outputs[0], head, index_p, out_pe / total_p[:, None])


def _join(shape: _Shape, splits: int, top_ref, total_ref, part_ref, out_ref):
    """The output of a few query rows from all of its parts."""
    width = part_ref.shape[-1]
    head = pl.program_id(1)
    index_p = pl.program_id(2) * JOINED_ROWS + jnp.arange(JOINED_ROWS)
    place_p = pl.ds(pl.program_id(2) * JOINED_ROWS, JOINED_ROWS)
    # Not loops: their reads would wait for one another.
    tops = [top_ref[split, place_p] for split in range(splits)]
    top_p = functools.reduce(jnp.maximum, tops)
    total_p, out_pe = jnp.zeros(JOINED_ROWS), jnp.zeros((JOINED_ROWS, width))
    for split in range(splits):
        fade_p = jnp.exp(tops[split] - top_p)
        total_p += fade_p * total_ref[split, place_p]
        out_pe += fade_p[:, None] * part_ref[split, place_p, :]
    _store(shape, out_ref, head, index_p, out_pe / total_p[:, None])


def _store(shape: _Shape, ref, head, index_p, out_pe):
    """Writes query rows; there are none beyond the last."""
    inside_pe = jnp.broadcast_to((index_p < shape.rows)[:, None], out_pe.shape)
    triton.store(
        ref.at[shape.place(head, index_p, out_pe.shape[1])], out_pe.astype(ref.dtype), mask=inside_pe
    )
