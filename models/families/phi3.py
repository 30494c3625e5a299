"""Phi-3 and Phi-4: q, k, v in one tensor, gate and up in one tensor, partial rotation, longrope.

The parts are separate parameters here, so that each can be sharded by heads or by feed-forward width.
"""

import dataclasses

from models.config import ModelConfig, dense_config, uniform_windows
from models.families.keys import BODY, LAYER, Entry
from models.files import Fields

KEYS = BODY | {
    LAYER + "self_attn.qkv_proj.weight": Entry(
        tuple(f"layers.{{layer}}.attention.{name}.kernel" for name in ("q", "k", "v")), 1
    ),
    LAYER + "mlp.gate_up_proj.weight": Entry(
        tuple(f"layers.{{layer}}.mlp.{name}.kernel" for name in ("gate", "up")), 1
    ),
}

# Phi3Config of transformers 5.
DEFAULTS = {
    "vocab_size": 32064,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 4096,
    "original_max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
}


def config(hf: Fields) -> ModelConfig:
    """`config.json` of a Phi-3 or Phi-4 model -> ModelConfig."""
    hf = hf.with_defaults(DEFAULTS)
    scaling = hf.section("rope_scaling" if hf.values.get("rope_scaling") else "rope_parameters")
    if scaling.text("rope_type" if scaling.has("rope_type") else "type", "") == "yarn":
        # What early Phi-3 checkpoints call yarn is longrope (as Phi3Config in transformers reads it).
        longrope = {**scaling.values, "rope_type": "longrope"}
        hf = dataclasses.replace(hf, values={**hf.values, "rope_scaling": longrope})
    return dense_config(hf, "phi3", partial_rotary=True, sliding_windows=uniform_windows(hf, None))
