"""Attention of training: causal, inside the segments of packed windows.

All of it computes the same function, that of `dense_attention` under `causal_mask`; `models.attention.choice` says which
one runs where. None that takes no segment ids (cuDNN's, through jax, is one) may be used here: it would read across
packed rows in silence.
"""

import dataclasses
import math
from typing import Protocol

import jax
from jax.sharding import Mesh, PartitionSpec

from models.attention.blockwise import blockwise_attention
from models.attention.kv_cache import Attend


class PackedAttention(Protocol):
    """Attention to packed windows. Hashable."""

    def __call__(self, positions_bt: jax.Array, segments_bt: jax.Array) -> Attend:
        """The attention of `Decoder.run_layers` for windows of these positions and segments, int32.

        Segments rise along a row from 1; 0 is padding, which comes last.
        """


@dataclasses.dataclass(frozen=True)
class Blockwise:
    """A block of queries and a block of keys at a time, in plain jax; skips blocks of other segments.

    Attributes:
      block: tokens of a block; fewer where a window is not a multiple of it.
    """

    block: int

    def __call__(self, positions_bt: jax.Array, segments_bt: jax.Array) -> Attend:
        """As `PackedAttention`."""

        def attend(q_bthe, k_btge, v_btge, cache, window):
            size = math.gcd(self.block, positions_bt.shape[1])
            out_bthe = blockwise_attention(q_bthe, k_btge, v_btge, positions_bt, segments_bt, window, size)
            return out_bthe, cache

        return attend


@dataclasses.dataclass(frozen=True)
class Splash:
    """The TPU kernel of jax, with segment ids; without sliding windows, for windows of a multiple of 128 tokens.

    Each device computes its own rows and heads, so heads are split over `model` where it divides them.

    Attributes:
      mesh: of the network.
      interpret: runs the kernel without a TPU, very slowly.
    """

    mesh: Mesh
    interpret: bool = False

    def __call__(self, positions_bt: jax.Array, segments_bt: jax.Array) -> Attend:
        """As `PackedAttention`."""
        from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel

        rows = tuple(axis for axis in ("data", "fsdp") if axis in self.mesh.shape)

        def attend(q_bthe, k_btge, v_btge, cache, window):
            model, kv_heads = self.mesh.shape.get("model", 1), k_btge.shape[2]
            split = "model" if model > 1 and kv_heads % model == 0 else None
            kernel = self._kernel(q_bthe.shape[1], q_bthe.shape[2] // (model if split else 1))

            def one_row(q_the, k_tge, v_tge, segments_t):
                q_hte, k_gte, v_gte = (a.swapaxes(0, 1) for a in (q_the, k_tge, v_tge))
                ids = splash_attention_kernel.SegmentIds(segments_t, segments_t)
                return kernel(q_hte * q_hte.shape[-1] ** -0.5, k_gte, v_gte, ids).swapaxes(0, 1)

            spec = PartitionSpec(rows, None, split, None)
            local = jax.shard_map(
                jax.vmap(one_row),
                mesh=self.mesh,
                in_specs=(spec, spec, spec, PartitionSpec(rows, None)),
                out_specs=spec,
                check_vma=False,
            )
            return local(q_bthe, k_btge, v_btge, segments_bt), cache

        return attend

    def _kernel(self, length: int, heads: int):
        """The kernel for windows of so many tokens and so many query heads on a device."""
        from jax.experimental.pallas.ops.tpu.splash_attention import (
            splash_attention_kernel,
            splash_attention_mask,
        )

        causal = splash_attention_mask.CausalMask((length, length))
        block = next(size for size in (1024, 512, 256, 128) if length % size == 0)
        sizes = splash_attention_kernel.BlockSizes(
            block_q=block,
            block_kv=block,
            block_kv_compute=min(block, 512),
            block_q_dkv=block,
            block_kv_dkv=block,
            block_kv_dkv_compute=min(block, 512),
            block_q_dq=block,
            block_kv_dq=block,
        )
        return splash_attention_kernel.make_splash_mha(
            splash_attention_mask.MultiHeadMask([causal] * heads),
            block_sizes=sizes,
            head_shards=1,
            q_seq_shards=1,
            interpret=self.interpret,
        )
