"""Qwen2 and Qwen2.5: biases on q, k and v; optionally sliding windows in the upper layers.

Also QwQ and the Qwen distillations of DeepSeek-R1.
"""

from collections.abc import Mapping
from typing import Any

from models.config import ModelConfig, dense_config, qwen_windows
from models.families.keys import BODY, QKV_BIAS, SEPARATE

KEYS = BODY | SEPARATE | QKV_BIAS

# Qwen2Config of transformers 5.
DEFAULTS = {
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
}


def config(hf: Mapping[str, Any]) -> ModelConfig:
    """`config.json` of a Qwen2 model -> ModelConfig."""
    num_layers = hf.get("num_hidden_layers") or DEFAULTS["num_hidden_layers"]
    return dense_config(
        hf, "qwen2", DEFAULTS, attention_bias=True, sliding_windows=qwen_windows(hf, num_layers)
    )
