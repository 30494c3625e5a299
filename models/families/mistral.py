"""Mistral, Magistral: no biases, head_dim of its own, a sliding window in all layers or in none."""

from collections.abc import Mapping
from typing import Any

from models.config import ModelConfig, dense_config, uniform_windows
from models.families.keys import BODY, SEPARATE

KEYS = BODY | SEPARATE

# MistralConfig of transformers 5.
DEFAULTS = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 4096 * 32,
    "rms_norm_eps": 1e-6,
}


def config(hf: Mapping[str, Any]) -> ModelConfig:
    """`config.json` of a Mistral model -> ModelConfig."""
    num_layers = hf.get("num_hidden_layers") or DEFAULTS["num_hidden_layers"]
    return dense_config(hf, "mistral", DEFAULTS, sliding_windows=uniform_windows(hf, num_layers, 4096))
