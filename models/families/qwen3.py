"""Qwen3: a norm on each query and key head, no biases by default, head_dim of its own."""

from models.config import ModelConfig, dense_config, qwen_windows
from models.families.keys import BODY, OUT_BIAS, QK_NORM, QKV_BIAS, SEPARATE
from models.files import Fields

KEYS = BODY | SEPARATE | QKV_BIAS | OUT_BIAS | QK_NORM

# Qwen3Config of transformers 5.
DEFAULTS = {
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "head_dim": 128,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
}


def config(hf: Fields) -> ModelConfig:
    """`config.json` of a Qwen3 model -> ModelConfig."""
    hf = hf.with_defaults(DEFAULTS)
    bias = hf.boolean("attention_bias")
    return dense_config(
        hf,
        "qwen3",
        attention_bias=bias,
        attention_out_bias=bias,
        qk_norm=True,
        sliding_windows=qwen_windows(hf),
    )
