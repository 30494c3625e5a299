"""Attention of training: causal, inside the segments of packed windows.

All of it computes the same function, that of `dense`; which one is used is a matter of memory and speed. None
that takes no segment ids (cuDNN's, through jax, is one) may be used here: it would read across packed rows in
silence.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
from jax.sharding import Mesh, PartitionSpec

from models.attention.blockwise import blockwise_attention
from models.attention.dense import causal_mask, dense_attention
from models.config import ModelConfig
from models.decoder import Attend

# (positions_bt, segments_bt) -> the `attend` of `Decoder.run_layers`.
Attention = Callable[[jax.Array, jax.Array], Attend]


def choose_attention(config: ModelConfig, mesh: Mesh) -> Attention:
    """The attention for a model on the devices of `mesh`: on TPUs `splash` where it can, else `blockwise`."""
    platform = mesh.devices.flat[0].platform
    if platform == "tpu" and config.sliding_windows is None and config.head_dim % 64 == 0:
        return partial(splash, mesh=mesh)
    # Small blocks skip more of what other segments hold; large ones keep an accelerator's matrix units busy.
    return partial(blockwise, block=64 if platform == "cpu" else 512)


def dense(positions_bt: jax.Array, segments_bt: jax.Array) -> Attend:
    """All scores of a window at once: memory grows with the square of its length."""

    def attend(q_bthe, k_btge, v_btge, cache, window):
        mask_bts = causal_mask(positions_bt, segments_bt, window)
        return dense_attention(q_bthe, k_btge, v_btge, mask_bts), cache

    return attend


def blockwise(positions_bt: jax.Array, segments_bt: jax.Array, block: int) -> Attend:
    """A block of queries and a block of keys at a time, in plain jax; skips blocks of other segments.

    Blocks have `block` tokens, or fewer where a window is not a multiple of it.
    """

    def attend(q_bthe, k_btge, v_btge, cache, window):
        size = math.gcd(block, positions_bt.shape[1])
        return blockwise_attention(q_bthe, k_btge, v_btge, positions_bt, segments_bt, window, size), cache

    return attend


def splash(positions_bt: jax.Array, segments_bt: jax.Array, mesh: Mesh, interpret: bool = False) -> Attend:
    """The TPU kernel of jax, with segment ids; without sliding windows, for windows of a multiple of 128
    tokens.

    Each device computes its own rows and heads, so heads are split over `model` where it divides them.
    `interpret` runs the kernel without a TPU, very slowly.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel,
        splash_attention_mask,
    )

    rows = tuple(axis for axis in ("data", "fsdp") if axis in mesh.shape)

    def attend(q_bthe, k_btge, v_btge, cache, window):
        length, heads, kv_heads = q_bthe.shape[1], q_bthe.shape[2], k_btge.shape[2]
        model = mesh.shape.get("model", 1)
        split = "model" if model > 1 and kv_heads % model == 0 else None
        local_heads = heads // (model if split else 1)
        mask = splash_attention_mask.MultiHeadMask(
            [splash_attention_mask.CausalMask((length, length))] * local_heads
        )
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
        kernel = splash_attention_kernel.make_splash_mha(
            mask, block_sizes=sizes, head_shards=1, q_seq_shards=1, interpret=interpret
        )

        def one_row(q_the, k_tge, v_tge, segments_t):
            q_hte, k_gte, v_gte = (a.swapaxes(0, 1) for a in (q_the, k_tge, v_tge))
            ids = splash_attention_kernel.SegmentIds(segments_t, segments_t)
            return kernel(q_hte * q_hte.shape[-1] ** -0.5, k_gte, v_gte, ids).swapaxes(0, 1)

        spec = PartitionSpec(rows, None, split, None)
        local = jax.shard_map(
            jax.vmap(one_row),
            mesh=mesh,
            in_specs=(spec, spec, spec, PartitionSpec(rows, None)),
            out_specs=spec,
            check_vma=False,
        )
        return local(q_bthe, k_btge, v_btge, segments_bt), cache

    return attend
