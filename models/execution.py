"""The way in which a network runs on a mesh: layout of its parameters, attention, sizes of what is computed at a time.

    execution = execution_of(config, mesh, "bfloat16", decodes=True)

`execution_of` is the one place that asks for the platform of the devices; everything else is told by an `Execution`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from models import cpu
from models.attention.choice import choose_attention
from models.attention.packed import PackedAttention
from models.attention.prefix_tree import TreeAttention
from models.config import ModelConfig
from models.decoder import RowWise, of_all_rows
from models.sharding import heads_or_columns

# Hidden size from which on a CPU spends its time on products with weights.
WIDE = 512
# Elements of the last axis that a TPU lays out together.
TPU_LANES = 128


@dataclasses.dataclass(frozen=True)
class PoolGeometry:
    """The division of a pool of keys and values (`models.attention.kv_cache`) into blocks of columns.

    Attributes:
      block: columns of a block, at least.
      most: blocks of a pool, at most; where layers are not stacked, attention to each is compiled for every layer.
      unit: the columns of a block are a multiple of it.
    """

    block: int
    most: int
    unit: int

    def blocks(self, columns: int) -> tuple[int, ...]:
        """The blocks of a pool of at least so many columns; all but the last, which takes the rest, are alike."""
        block = _round_up(max(self.block, -(-columns // self.most)), self.unit)
        number = -(-columns // block)
        return (block,) * (number - 1) + (_round_up(columns - (number - 1) * block, self.unit),)


@dataclasses.dataclass(frozen=True)
class Execution:
    """The way in which a network runs on a mesh. Hashable: static under `jax.jit`. Changes no result but by rounding.

    Attributes:
      stacked: whether its layers are one stack (`Decoder`).
      outputs_first: whether kernels lie as [outputs, inputs], for products of few rows (`layers.Linear`).
      skips_rows: whether products with weights leave out rows that do not matter (`per_row`).
      tree: attention over a prefix tree.
      packed: attention of training on packed windows.
      chunk: tokens of a packed text that attend at a time; a row of a prefix tree takes whole chunks.
      together: chunks, of one row or of several, that are multiplied by weights at a time.
      pool: how the columns of a pool are cut into blocks.
      split: the axis of a pool's keys and values that lies over the mesh's `model` axis: "heads" or "columns".
      argmax: logits [p, v] -> the index of the greatest of each row, the lowest on ties, int32 [p].
      training_dtype: dtype in which training computes unless told otherwise.
      reads_stacks_whole: whether a stack of layers is put together in host memory before it goes to the devices.
      compiler: options of the compiler for programs that run the network, as pairs.
    """

    stacked: bool
    outputs_first: bool
    skips_rows: bool
    tree: TreeAttention
    packed: PackedAttention
    chunk: int
    together: int
    pool: PoolGeometry
    split: str | None
    argmax: Callable[[jax.Array], jax.Array]
    training_dtype: str
    reads_stacks_whole: bool
    compiler: tuple[tuple[str, Any], ...] = ()

    @property
    def compiler_options(self) -> dict[str, Any] | None:
        """The argument of that name of `jax.jit`."""
        return dict(self.compiler) or None

    def per_row(self, count, least: int = 1) -> RowWise:
        """Applies functions of rows of which the first `count` matter, a number that is known to the device only.

        Args:
          count: int32 scalar, mostly a multiple of `least`.
        """
        return cpu.Leading(count, least) if self.skips_rows else of_all_rows


def execution_of(
    config: ModelConfig, mesh: Mesh | None = None, dtype: Any = None, decodes: bool = False
) -> Execution:
    """Decides how a network runs.

    Args:
      config: its architecture.
      mesh: its axis `model` divides heads and features; None: the default device alone.
      dtype: of its parameters; None: that of the config.
      decodes: whether it writes, token by token. Then a GPU's layers are not stacked: a loop over them copies every
        layer's weights, keys and values for every token.
    """
    if mesh is None:
        device = jax.config.jax_default_device or jax.local_devices()[0]
        mesh = Mesh(np.array([device]), ("model",))
    platform, model = mesh.devices.flat[0].platform, mesh.shape.get("model", 1)
    on_cpu = platform == "cpu"
    attentions = choose_attention(config, platform, mesh, jnp.dtype(dtype or config.dtype))
    # Not where a product is divided over `model`: all its devices would have to leave out the same rows.
    skips_rows = on_cpu and model == 1 and config.hidden_size >= WIDE
    together = 1
    if on_cpu:
        # Arithmetic is what costs there, so little is computed at a time; but large matrices want many rows.
        chunk, pool = 32, PoolGeometry(block=288, most=3 if model > 1 else 1, unit=_round_up(32, model))
        if model == 1:  # `TreePieces` reads pieces of a block
            together = 8 if skips_rows else 4
    elif platform == "gpu":  # `TreeTriton` leaves out what is not seen
        chunk, pool = 512, PoolGeometry(block=1024, most=1, unit=_round_up(512, model))
    else:
        # Where columns lie over `model`, a TPU turns keys around whose columns on a device do not fill its lanes, and
        # with them whole pools, again and again.
        chunk, pool = 512, PoolGeometry(block=1024, most=8, unit=_round_up(512, TPU_LANES * model))
    alike = config.experts is None or len(set(config.experts.layers)) == 1
    return Execution(
        # A scan over stacked weights copies them on a CPU.
        stacked=alike and not on_cpu and not (decodes and platform == "gpu"),
        outputs_first=decodes and skips_rows,
        skips_rows=skips_rows,
        tree=attentions.tree,
        packed=attentions.packed,
        chunk=chunk,
        together=together,
        pool=pool,
        split=heads_or_columns(config.num_kv_heads, pool.unit, mesh),
        argmax=cpu.argmax if on_cpu else _argmax,
        training_dtype="float32" if on_cpu else "bfloat16",
        reads_stacks_whole=on_cpu,  # device memory is host memory: reading in parts saves nothing
        # A GPU would make one product of several that share an operand, and put their weights together for that: a copy
        # of the weights in every pass. That pays for small weights only.
        compiler=(("xla_gpu_dot_merger_threshold_mb", 16),) if platform == "gpu" else (),
    )


def _argmax(logits_pv: jax.Array) -> jax.Array:
    return jnp.argmax(logits_pv, axis=-1).astype(jnp.int32)


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
