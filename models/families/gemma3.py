"""Gemma 3, its text models: norms before and after each part, two rotations, sliding windows in five of six layers.

As Gemma3ForCausalLM in transformers. Of multimodal checkpoints (Gemma3ForConditionalGeneration: 4b and larger) the text
model is read (`models.checkpoint.language_model`).
"""

import dataclasses

from models.config import (
    FULL,
    MOST_LAYERS,
    SLIDING,
    ModelConfig,
    activation_of,
    dense_config,
    windows_of_types,
)
from models.errors import CheckpointError
from models.families.keys import BODY, LAYER, OUT_BIAS, QK_NORM, QKV_BIAS, SEPARATE, Entry
from models.files import Fields
from models.rope import RopeConfig, rope_from_hf

NORMS = {
    LAYER + "post_attention_layernorm.weight": Entry(("layers.{layer}.attention_post_norm.scale",)),
    LAYER + "pre_feedforward_layernorm.weight": Entry(("layers.{layer}.mlp_norm.scale",)),
    LAYER + "post_feedforward_layernorm.weight": Entry(("layers.{layer}.mlp_post_norm.scale",)),
}
KEYS = BODY | SEPARATE | QKV_BIAS | OUT_BIAS | QK_NORM | NORMS

# Gemma3TextConfig of transformers 5.
DEFAULTS = {
    "vocab_size": 262208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "query_pre_attn_scalar": 256,
}
PATTERN = 6  # of so many layers one, the last, has no window


def config(hf: Fields) -> ModelConfig:
    """`config.json` of a Gemma 3 text model -> ModelConfig."""
    hf = hf.with_defaults(DEFAULTS)
    for name in ("attn_logit_softcapping", "final_logit_softcapping", "use_bidirectional_attention"):
        if hf.values.get(name):
            raise CheckpointError(f"config.json: {name} is not supported, found {hf.values[name]!r}")
    every = hf.integer("sliding_window_pattern", PATTERN)
    layers = range(hf.integer("num_hidden_layers", at_most=MOST_LAYERS))
    kinds = [SLIDING if (i + 1) % every else FULL for i in layers]
    windows = windows_of_types(hf, hf.integer("sliding_window", 4096), kinds)
    bias = hf.boolean("attention_bias")
    return dense_config(
        hf,
        "gemma3",
        attention_bias=bias,
        attention_out_bias=bias,
        qk_norm=True,
        query_scale=hf.number("query_pre_attn_scalar", at_most=1e6),
        activation=activation_of(hf, "hidden_activation"),
        norm_offset=1.0,
        post_norms=True,
        embedding_scale=hf.integer("hidden_size") ** 0.5,
        sliding_windows=windows,
        rope=_rope(hf, FULL, "rope_theta", 1e6),
        local_rope=None if windows is None else _rope(hf, SLIDING, "rope_local_base_freq", 1e4),
    )


def _rope(hf: Fields, kind: str, theta_field: str, theta: float) -> RopeConfig:
    """The rotation of the layers of one kind; `rope_scaling` of older files is for those without a window."""
    parameters = {"rope_theta": hf.number(theta_field, theta, above=1.0, at_most=1e15)}
    of_kinds = hf.section("rope_parameters")
    parameters |= of_kinds.section(kind).values
    if kind == FULL and not of_kinds.has(FULL) and not of_kinds.has(SLIDING):
        parameters |= of_kinds.values
    if kind == FULL:
        parameters |= hf.section("rope_scaling").values
    values = {**hf.values, "rope_scaling": None, "rope_parameters": parameters}
    return rope_from_hf(dataclasses.replace(hf, values=values), hf.integer("head_dim"))
