"""Random small models of transformers' torch classes, which the decoders are compared with."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
import transformers
from flax import nnx

import models

TOKENS = 24
CLASSES = {
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
    "mistral": (transformers.MistralConfig, transformers.MistralForCausalLM),
    "phi3": (transformers.Phi3Config, transformers.Phi3ForCausalLM),
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
    "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
    "qwen3_moe": (transformers.Qwen3MoeConfig, transformers.Qwen3MoeForCausalLM),
    "gemma3": (transformers.Gemma3TextConfig, transformers.Gemma3ForCausalLM),
}
FAMILIES = tuple(CLASSES)


@dataclasses.dataclass
class Reference:
    """A torch model in evaluation mode, its checkpoint, token ids [2, TOKENS] and its float32 logits for
    them.

    max_length is what the loader needs to know for scalings that depend on the length, else None.
    """

    model: Any
    directory: Path
    tokens: np.ndarray
    logits: np.ndarray
    max_length: int | None


def draw_rope(rng: np.random.Generator, family: str, head_dim: int) -> tuple[dict[str, Any], int]:
    """Random rope fields and max_position_embeddings; TOKENS lies on either side of the limits."""
    limit = int(rng.choice([TOKENS // 2, 2 * TOKENS]))
    theta = float(rng.choice([100.0, 10_000.0, 500_000.0]))
    kinds = (
        ["default", "longrope"]
        if family == "phi3"
        else ["default", "linear", "yarn", "llama3"]
        if family == "gemma3"
        else ["default", "linear", "dynamic", "yarn", "llama3", "longrope"]
    )
    kind = str(rng.choice(kinds))
    rope = {"rope_type": kind, "rope_theta": theta}
    rotated = head_dim
    if family == "phi3":
        rope["partial_rotary_factor"] = float(rng.choice([0.5, 1.0]))
        rotated = int(head_dim * rope["partial_rotary_factor"])
    if kind in ("linear", "dynamic", "yarn", "llama3"):
        rope["factor"] = float(rng.choice([1.5, 4.0]))
    if kind in ("yarn", "llama3", "longrope"):
        rope["original_max_position_embeddings"] = limit
    if kind == "yarn":
        rope |= [{}, {"mscale": 0.7, "mscale_all_dim": 1.2}, {"attention_factor": 1.3}, {"truncate": False}][
            rng.integers(4)
        ]
        rope |= [{}, {"beta_fast": 8.0, "beta_slow": 2.0}][rng.integers(2)]
    if kind == "llama3":
        rope |= {"low_freq_factor": 1.0, "high_freq_factor": float(rng.choice([2.0, 4.0]))}
    if kind == "longrope":
        rope["short_factor"] = rng.uniform(1, 2, rotated // 2).tolist()
        rope["long_factor"] = rng.uniform(1, 4, rotated // 2).tolist()
    return rope, 4 * limit if kind in ("yarn", "llama3", "longrope") else limit


def draw_fields(rng: np.random.Generator, family: str) -> dict[str, Any]:
    """Random fields of a configuration, over every switch of the family."""
    groups, per_group = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    heads = groups * per_group
    width = heads * 4 * int(rng.integers(2, 5))
    # Phi derives the head width from the model width.
    head_dim = width // heads if family == "phi3" else int(rng.choice([width // heads, 12, 20]))
    rope, max_length = draw_rope(rng, family, head_dim)
    vocab_size, intermediate_size = 2 * int(rng.integers(30, 70)) + 1, int(rng.integers(20, 70))
    layers = int(rng.integers(1, 4))
    fields = dict(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=intermediate_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        head_dim=head_dim,
        max_position_embeddings=max_length,
        rms_norm_eps=float(rng.choice([1e-6, 1e-5, 1e-2])),
        tie_word_embeddings=bool(rng.integers(2)),
        rope_parameters=rope,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    if family == "gemma3":
        rope.pop("truncate", None)  # transformers reads it beside the two rotations, and not in them
        local = {"rope_type": "default", "rope_theta": float(rng.choice([100.0, 1000.0]))}
        kinds = [["full_attention", "sliding_attention"][rng.integers(2)] for _ in range(layers)]
        fields |= {
            "rope_parameters": {"full_attention": rope, "sliding_attention": local},
            "layer_types": kinds,
            "sliding_window": int(rng.integers(1, TOKENS)),
            "query_pre_attn_scalar": int(rng.choice([head_dim, 7])),
            "attention_bias": bool(rng.integers(2)),
        }
    if family == "phi3":
        fields["original_max_position_embeddings"] = rope.get("original_max_position_embeddings", 4096)
    if family in ("llama", "qwen3", "qwen3_moe"):
        fields["attention_bias"] = bool(rng.integers(2))
    if family == "llama":
        fields["mlp_bias"] = bool(rng.integers(2))
    if family in ("qwen2", "qwen3", "qwen3_moe"):
        fields |= {
            "use_sliding_window": bool(rng.integers(2)),
            "sliding_window": int(rng.integers(1, TOKENS)),
        }
    if family in ("qwen2", "qwen3"):
        fields["max_window_layers"] = int(rng.integers(0, 3))
    if family in ("mistral", "phi3"):
        fields["sliding_window"] = [None, int(rng.integers(1, TOKENS))][rng.integers(2)]
    if family == "qwen3_moe":
        experts = int(rng.integers(2, 7))
        fields |= dict(
            num_experts=experts,
            num_experts_per_tok=int(rng.integers(1, experts + 1)),
            moe_intermediate_size=int(rng.integers(10, 30)),
            norm_topk_prob=bool(rng.integers(2)),
            decoder_sparse_step=int(rng.integers(1, 3)),
            mlp_only_layers=[[], [0]][rng.integers(2)],
        )
    return fields


def make_reference(directory: Path, family: str, fields: dict[str, Any], seed: int = 0) -> Reference:
    """A torch model whose every parameter is random (norms and biases too), and its saved checkpoint."""
    config_class, model_class = CLASSES[family]
    torch.manual_seed(seed)
    model = model_class(config_class(**fields)).eval()
    if family == "qwen3_moe":
        model.set_experts_implementation("eager")  # the grouped kernel of torch refuses small widths
    for name, parameter in model.named_parameters():
        scale = 0.05 if "embed_tokens" in name or "lm_head" in name else 0.3 / parameter.shape[-1] ** 0.5
        offset = 1.0 if name.endswith("norm.weight") and family != "gemma3" else 0.0
        parameter.data = offset + scale * torch.randn_like(parameter)
    model.tie_weights()
    model.save_pretrained(directory)
    tokens = np.random.default_rng(seed).integers(0, fields["vocab_size"], (2, TOKENS))
    with torch.no_grad():
        logits = model(torch.tensor(tokens)).logits.numpy()
    dynamic = fields["rope_parameters"].get("rope_type") in ("dynamic", "longrope")
    return Reference(model, directory, tokens.astype(np.int32), logits, TOKENS if dynamic else None)


def relative_error(found: Any, expected: Any) -> float:
    """Greatest absolute difference, relative to the greatest absolute expected value."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@nnx.jit
def logits_of(model: models.Decoder, *args: Any, **kwargs: Any) -> jax.Array:
    """Logits of whole sequences, compiled."""
    return model(*args, **kwargs)


def load_reference(ref: Reference, stacked: bool = False, **options: Any) -> models.Decoder:
    """The decoder of a reference; stacked only if all its layers are alike."""
    experts = models.read_config(ref.directory).experts
    stacked = stacked and (experts is None or len(set(experts.layers)) == 1)
    return models.load(ref.directory, stacked=stacked, max_length=ref.max_length, **options)
