"""The choice of attention: one table, one function."""

from typing import NamedTuple

import jax.numpy as jnp
from jax.sharding import Mesh

from models.attention import triton_kernel
from models.attention.packed import Blockwise, PackedAttention, Splash
from models.attention.prefix_tree import TreeAttention
from models.attention.tree_blocks import TreeBlocks
from models.attention.tree_pieces import TreePieces
from models.attention.tree_triton import TreeTriton
from models.config import ModelConfig


class Attentions(NamedTuple):
    """The attention of decoding and prefill over a prefix tree, and that of training on packed windows."""

    tree: TreeAttention
    packed: PackedAttention


def choose_attention(config: ModelConfig, platform: str, mesh: Mesh, dtype: jnp.dtype) -> Attentions:
    """Chooses the attention of a network with parameters of `dtype` on the devices of a mesh, which are of one platform.

    |                                 | CPU             | TPU            | GPU             |
    |---------------------------------|-----------------|----------------|-----------------|
    | prefix tree: decoding, prefill  | `TreePieces`    | `TreeBlocks`   | `TreeTriton` ¹  |
    | the same, mesh with `model` > 1 | `TreeBlocks`    | `TreeBlocks`   | `TreeBlocks`    |
    | training on packed windows      | `Blockwise(64)` | `Splash` ²     | `Blockwise(512)`|
    | `model(tokens)`, `rewards`      | `dense_attention` everywhere                       |

    ¹ Parameters of 16 bits and a head width that is a power of 2, at least 16 (`triton_kernel.supported`); else, so also
      in float32, `TreeBlocks`.
    ² No sliding windows and a head width that is a multiple of 64; else `Blockwise(512)`.

    All of them compute the same function; the choice is one of memory and speed. Small blocks skip more of what other
    segments hold; large ones keep an accelerator's matrix units busy.
    """
    tree: TreeAttention = TreeBlocks()
    if mesh.shape.get("model", 1) == 1:
        if platform == "cpu":
            tree = TreePieces()
        elif platform == "gpu" and triton_kernel.supported(dtype, config.head_dim):
            tree = TreeTriton()
    packed: PackedAttention = Blockwise(64 if platform == "cpu" else 512)
    if platform == "tpu" and config.sliding_windows is None and config.head_dim % 64 == 0:
        packed = Splash(mesh)
    return Attentions(tree, packed)
