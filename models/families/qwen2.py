"""Qwen2 and Qwen2.5: biases on q, k and v; optionally sliding windows in the upper layers.

Also QwQ, the Qwen distillations of DeepSeek-R1, and the process reward models of Qwen2.5-Math.
"""

from models.config import ModelConfig, dense_config, qwen_windows
from models.families.keys import BODY, QKV_BIAS, SEPARATE, Entry
from models.files import Fields

SCORE = {
    "score.0.weight": Entry(("score.hidden.kernel",), 1),
    "score.0.bias": Entry(("score.hidden.bias",)),
    "score.2.weight": Entry(("score.out.kernel",), 1),
    "score.2.bias": Entry(("score.out.bias",)),
}
KEYS = BODY | SEPARATE | QKV_BIAS | SCORE

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


def config(hf: Fields) -> ModelConfig:
    """`config.json` of a Qwen2 model -> ModelConfig."""
    hf = hf.with_defaults(DEFAULTS)
    rewards = "Qwen2ForProcessRewardModel" in hf.texts("architectures")
    return dense_config(
        hf,
        "qwen2",
        attention_bias=True,
        sliding_windows=qwen_windows(hf),
        head="process_reward" if rewards else "language_model",
        num_labels=hf.integer("num_labels", 2, at_least=2, at_most=1000),
    )
