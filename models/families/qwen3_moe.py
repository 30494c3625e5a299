"""Qwen3-MoE: Qwen3 with a mixture of experts instead of the feed-forward, in all layers or in some."""

from models.config import (
    LARGEST_WIDTH,
    MOST_EXPERTS,
    MOST_LAYERS,
    ExpertConfig,
    ModelConfig,
    dense_config,
    uniform_windows,
)
from models.families.keys import BODY, LAYER, OUT_BIAS, QK_NORM, QKV_BIAS, SEPARATE, Entry
from models.files import Fields

EXPERTS = {
    LAYER + "mlp.gate.weight": Entry(("layers.{layer}.mlp.router.kernel",), 1),
    LAYER + "mlp.experts.{expert}.gate_proj.weight": Entry(("layers.{layer}.mlp.experts.gate.kernel",), 1),
    LAYER + "mlp.experts.{expert}.up_proj.weight": Entry(("layers.{layer}.mlp.experts.up.kernel",), 1),
    LAYER + "mlp.experts.{expert}.down_proj.weight": Entry(("layers.{layer}.mlp.experts.down.kernel",), 1),
}
KEYS = BODY | SEPARATE | QKV_BIAS | OUT_BIAS | QK_NORM | EXPERTS

# Qwen3MoeConfig of transformers 5.
DEFAULTS = {
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 24,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
}


def config(hf: Fields) -> ModelConfig:
    """`config.json` of a Qwen3-MoE model -> ModelConfig."""
    hf = hf.with_defaults(DEFAULTS)
    name = "num_experts" if hf.has("num_experts") else "num_local_experts"
    num_experts = hf.integer(name, 128, at_most=MOST_EXPERTS)
    every, dense = hf.integer("decoder_sparse_step", 1), set(hf.integers("mlp_only_layers"))
    layers = range(hf.integer("num_hidden_layers", at_most=MOST_LAYERS))
    bias = hf.boolean("attention_bias")
    return dense_config(
        hf,
        "qwen3_moe",
        attention_bias=bias,
        attention_out_bias=bias,
        qk_norm=True,
        sliding_windows=uniform_windows(hf, 4096) if hf.boolean("use_sliding_window") else None,
        experts=ExpertConfig(
            num_experts=num_experts,
            experts_per_token=hf.integer("num_experts_per_tok", min(8, num_experts), at_most=num_experts),
            intermediate_size=hf.integer("moe_intermediate_size", 768, at_most=LARGEST_WIDTH),
            normalise=hf.boolean("norm_topk_prob"),
            layers=tuple(i not in dense and (i + 1) % every == 0 for i in layers),
        ),
    )
