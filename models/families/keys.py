"""Tensor names of Hugging Face checkpoints and their places in `models.Decoder`.

A table maps a pattern of tensor names, with `{layer}` (and `{expert}`) for the running numbers, to an
`Entry`. It is read in both directions: to load and to save.
"""

from typing import NamedTuple


class Entry(NamedTuple):
    """The place of one tensor in a decoder.

    paths: parameters of the decoder. Several mean that the tensor is fused: its rows are those of the
        parameters, in this order.
    inputs: 0: the tensor is stored as it is here (norms and, flattened to a vector, biases). Else the number
        of leading axes of the parameter that are the tensor's columns: torch stores a projection as [out,
        in], ours are [in..., out...]. Where ours are [out..., in...] too, the number of inputs is negative.
    matrix: the tensor is a matrix in the same order as here (embeddings).
    """

    paths: tuple[str, ...]
    inputs: int = 0
    matrix: bool = False


LAYER = "model.layers.{layer}."
BODY = {
    "model.embed_tokens.weight": Entry(("embed.embedding",), matrix=True),
    "model.norm.weight": Entry(("norm.scale",)),
    "lm_head.weight": Entry(("lm_head.kernel",), 1),
    LAYER + "input_layernorm.weight": Entry(("layers.{layer}.attention_norm.scale",)),
    LAYER + "post_attention_layernorm.weight": Entry(("layers.{layer}.mlp_norm.scale",)),
    LAYER + "self_attn.o_proj.weight": Entry(("layers.{layer}.attention.o.kernel",), 2),
    LAYER + "mlp.down_proj.weight": Entry(("layers.{layer}.mlp.down.kernel",), 1),
}
SEPARATE = {
    LAYER + "self_attn.q_proj.weight": Entry(("layers.{layer}.attention.q.kernel",), 1),
    LAYER + "self_attn.k_proj.weight": Entry(("layers.{layer}.attention.k.kernel",), 1),
    LAYER + "self_attn.v_proj.weight": Entry(("layers.{layer}.attention.v.kernel",), 1),
    LAYER + "mlp.gate_proj.weight": Entry(("layers.{layer}.mlp.gate.kernel",), 1),
    LAYER + "mlp.up_proj.weight": Entry(("layers.{layer}.mlp.up.kernel",), 1),
}
QKV_BIAS = {
    LAYER + "self_attn.q_proj.bias": Entry(("layers.{layer}.attention.q.bias",)),
    LAYER + "self_attn.k_proj.bias": Entry(("layers.{layer}.attention.k.bias",)),
    LAYER + "self_attn.v_proj.bias": Entry(("layers.{layer}.attention.v.bias",)),
}
OUT_BIAS = {LAYER + "self_attn.o_proj.bias": Entry(("layers.{layer}.attention.o.bias",))}
QK_NORM = {
    LAYER + "self_attn.q_norm.weight": Entry(("layers.{layer}.attention.q_norm.scale",)),
    LAYER + "self_attn.k_norm.weight": Entry(("layers.{layer}.attention.k_norm.scale",)),
}
