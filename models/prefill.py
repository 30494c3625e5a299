"""Prefill of a prefix tree: many texts that continue its branches, packed into one, run through a decoder."""

import jax
import jax.numpy as jnp
from jax import lax

from models.attention.kv_cache import Attend, Scratch, block_columns, write_tokens
from models.attention.prefix_tree import Chunks, Packed, PrefixTree
from models.decoder import Decoder
from models.execution import Execution


def prefill(
    model: Decoder, tree: PrefixTree, packed: Packed, execution: Execution
) -> tuple[Scratch, jax.Array]:
    """Runs packed texts that continue branches of prefix trees through the decoder, some chunks at a time.

    Cost follows the number of tokens and not the capacity w, which must be a multiple of `execution.together` chunks of
    `execution.chunk` tokens.

    Args:
      tree: it is only read.

    Returns:
      Keys and values of all tokens, and the final hidden states [w, d]. What lies beyond the ends of segments is undefined.
    """
    width, chunk, together = packed.token_w.shape[0], execution.chunk, execution.together
    if width % (chunk * together):
        raise ValueError(f"the packed width {width} is not a multiple of {together} chunks of {chunk} tokens")
    attention = execution.tree
    columns = block_columns(model.is_stacked, tree.pool)
    dtype = jax.tree.leaves(tree.pool)[0].dtype
    scratch = Scratch.empty(model.config, model.is_stacked, width, dtype, attention.scratch_axes)
    hidden_wd = jnp.zeros((width, model.config.hidden_size), dtype)
    span = min(width, chunk + packed.reach) if attention.reads_near else width

    def run_chunks(index, carry):
        scratch, hidden_wd = carry
        first = index * together
        row_k = lax.dynamic_slice_in_dim(packed.row_k, first, together)
        place_kc = (first * chunk + jnp.arange(together * chunk)).reshape(together, chunk)
        first_k = jnp.clip(place_kc[:, -1] + 1 - span, 0, width - span)
        near_kw = first_k[:, None] + jnp.arange(span)
        alternative_kc, alternative_kw = packed.alternative_w[place_kc], packed.alternative_w[near_kw]
        own_kcw = (
            (near_kw[:, None] <= place_kc[..., None])
            & (packed.segment_w[near_kw][:, None] == packed.segment_w[place_kc][..., None])
            & ((alternative_kw[:, None] == 0) | (alternative_kw[:, None] == alternative_kc[..., None]))
        )
        slot_k, branch_kc = tree.slot_r[row_k], packed.branch_w[place_kc]
        chunks = Chunks(
            slot_k=slot_k,
            position_kc=packed.position_w[place_kc],
            masks=attention.masks(columns, tree.path_rbs[row_k], branch_kc, tree.depth_rs[row_k], slot_k),
            first_k=first_k,
            own=attention.text_masks(own_kcw, packed.position_w[near_kw]),
        )
        number = jnp.minimum(together, packed.chunks - first)
        x_1pd, layers = model.run_layers(
            model.embed_tokens(packed.token_w[place_kc.reshape(1, -1)]),
            chunks.position_kc.reshape(1, -1),
            _attend(chunks, first * chunk, number, execution),
            tree.pool,
            scratch.layers,
            per_row=execution.per_row(number * chunk, least=chunk),
        )
        hidden_wd = lax.dynamic_update_slice_in_dim(hidden_wd, x_1pd[0].astype(dtype), first * chunk, 0)
        return scratch.replaced(layers), hidden_wd

    return lax.fori_loop(0, -(-packed.chunks // together), run_chunks, (scratch, hidden_wd))


def _attend(chunks: Chunks, start, number, execution: Execution) -> Attend:
    """The attention of some chunks, which lie in the packed text from `start` on; the first `number` of them matter."""
    together, chunk = chunks.position_kc.shape
    attention = execution.tree

    def attend(query_1phe, key_1pge, value_1pge, cache, window):
        written = write_tokens(cache, start, key_1pge, value_1pge, attention.scratch_axes)
        cache = cache._replace(written=written)
        if together == 1:
            return attention.prefill(chunks, query_1phe, cache, window), written

        def of_chunk(k, out_1phe):
            query_1che = lax.dynamic_slice_in_dim(query_1phe, k * chunk, chunk, 1)
            out_1che = attention.prefill(chunks.one(k), query_1che, cache, window)
            return lax.dynamic_update_slice_in_dim(out_1phe, out_1che, k * chunk, 1)

        return lax.fori_loop(0, number, of_chunk, jnp.zeros_like(query_1phe)), written

    return attend
