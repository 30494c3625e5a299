"""Qwen3-MoE: Qwen3 with a mixture of experts instead of the feed-forward, in all layers or in some."""

from collections.abc import Mapping
from typing import Any

from models.config import ExpertConfig, ModelConfig, dense_config, uniform_windows
from models.families.keys import BODY, LAYER, OUT_BIAS, QK_NORM, QKV_BIAS, SEPARATE, Entry

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


def config(hf: Mapping[str, Any]) -> ModelConfig:
    """`config.json` of a Qwen3-MoE model -> ModelConfig."""
    num_layers = hf.get("num_hidden_layers") or DEFAULTS["num_hidden_layers"]
    num_experts = next((hf[name] for name in ("num_experts", "num_local_experts") if hf.get(name)), 128)
    every, dense = hf.get("decoder_sparse_step", 1), set(hf.get("mlp_only_layers") or ())
    layers = tuple(i not in dense and (i + 1) % every == 0 for i in range(num_layers))
    bias = bool(hf.get("attention_bias"))
    window = hf.get("sliding_window", 4096) if hf.get("use_sliding_window") else None
    return dense_config(
        hf,
        "qwen3_moe",
        DEFAULTS,
        attention_bias=bias,
        attention_out_bias=bias,
        qk_norm=True,
        sliding_windows=uniform_windows({"sliding_window": window}, num_layers, None),
        experts=ExpertConfig(
            num_experts=num_experts,
            experts_per_token=hf.get("num_experts_per_tok", 8),
            intermediate_size=hf.get("moe_intermediate_size", 768),
            normalise=bool(hf.get("norm_topk_prob", False)),
            layers=layers,
        ),
    )
