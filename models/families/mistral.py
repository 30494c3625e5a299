"""Mistral, Magistral: no biases, head_dim of its own, a sliding window in all layers or in none."""

from models.config import ModelConfig, dense_config, uniform_windows
from models.families.keys import BODY, SEPARATE
from models.files import Fields

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


def config(hf: Fields) -> ModelConfig:
    """`config.json` of a Mistral model -> ModelConfig."""
    hf = hf.with_defaults(DEFAULTS)
    return dense_config(hf, "mistral", sliding_windows=uniform_windows(hf, 4096))
