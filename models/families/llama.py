"""Llama 2 and 3.x: optional biases, head_dim of its own, llama3 rope scaling."""

from models.config import ModelConfig, dense_config
from models.families.keys import BODY, LAYER, OUT_BIAS, QKV_BIAS, SEPARATE, Entry
from models.files import Fields

MLP_BIAS = {
    LAYER + f"mlp.{name}_proj.bias": Entry((f"layers.{{layer}}.mlp.{name}.bias",))
    for name in ("gate", "up", "down")
}
KEYS = BODY | SEPARATE | QKV_BIAS | OUT_BIAS | MLP_BIAS

# LlamaConfig of transformers 5.
DEFAULTS = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
}


def config(hf: Fields) -> ModelConfig:
    """`config.json` of a Llama model -> ModelConfig."""
    bias = hf.boolean("attention_bias")
    return dense_config(
        hf.with_defaults(DEFAULTS),
        "llama",
        attention_bias=bias,
        attention_out_bias=bias,
        mlp_bias=hf.boolean("mlp_bias"),
    )
