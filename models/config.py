"""The architecture of a network, read from a Hugging Face `config.json`."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from models.errors import CheckpointError
from models.rope import RopeConfig, rope_from_hf


@dataclasses.dataclass(frozen=True)
class ExpertConfig:
    """Mixture-of-experts feed-forward layers.

    num_experts: experts of a layer.
    experts_per_token: experts that each token is sent to.
    intermediate_size: feed-forward width of one expert.
    normalise: whether the chosen experts' probabilities are divided by their sum.
    layers: for each layer, whether it has experts (else a dense feed-forward).
    """

    num_experts: int
    experts_per_token: int
    intermediate_size: int
    normalise: bool
    layers: tuple[bool, ...]


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Everything that defines a network's shapes and arithmetic. Hashable: it is static under `jax.jit`.

    family: name in `models.families.FAMILIES`.
    vocab_size: rows of the embedding and width of the logits; at least the tokenizer's vocabulary, often
        padded.
    head_dim: features of one head; not always hidden_size / num_heads.
    attention_bias, attention_out_bias, mlp_bias: biases of q, k and v; of the output projection; of the
        feed-forward.
    qk_norm: RMS norm over the features of each query and key head, before the rotation.
    sliding_windows: for each layer the number of last positions (itself included) that it attends to, or None
        for all; None if no layer has a window.
    experts: mixture of experts, or None for dense feed-forward layers.
    head: "language_model", or "process_reward" (two-layer score head, `num_labels` outputs).
    dtype: dtype of the stored weights ("bfloat16", "float32", "float16").
    hf: the `config.json` this was read from, as JSON text; what `models.save` writes.
    """

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope: RopeConfig
    max_position_embeddings: int
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    attention_out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    sliding_windows: tuple[int | None, ...] | None = None
    experts: ExpertConfig | None = None
    head: str = "language_model"
    num_labels: int = 2
    dtype: str = "float32"
    initializer_range: float = 0.02
    hf: str = "{}"

    def for_length(self, length: int) -> "ModelConfig":
        """With dynamic and longrope frequencies fixed for sequences of at most `length` tokens."""
        return dataclasses.replace(self, rope=dataclasses.replace(self.rope, length=length))


def dense_config(
    hf: Mapping[str, Any], family: str, defaults: Mapping[str, Any], **switches: Any
) -> ModelConfig:
    """The fields that all families spell the same way.

    Args:
      hf: the parsed `config.json`.
      family: name of the family.
      defaults: values of absent fields, those of the family's configuration class in transformers.
      **switches: fields of ModelConfig that the family decides, and `partial_rotary`.
    """
    hf = dict(hf)

    def get(name: str) -> Any:
        value = hf.get(name)
        return defaults.get(name) if value is None else value

    def positive(name: str) -> int:
        value = get(name)
        if not isinstance(value, int) or value <= 0:
            raise CheckpointError(f"config.json: field {name!r} must be a positive integer, found {value!r}")
        return value

    activation = get("hidden_act") or "silu"
    if activation not in ("silu", "swish"):
        raise CheckpointError(f"config.json: hidden_act {activation!r} is not supported; supported is 'silu'")
    if quantisation := hf.get("quantization_config"):
        raise CheckpointError(
            f"config.json: weights quantised by {quantisation.get('quant_method')!r} are not supported; use "
            "the original checkpoint, with weights='int8' to save memory"
        )
    hidden, heads = positive("hidden_size"), positive("num_attention_heads")
    kv_heads = get("num_key_value_heads") or heads
    if heads % kv_heads:
        raise CheckpointError(
            f"config.json: num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}"
        )
    head_dim = get("head_dim") or hidden // heads
    partial = switches.pop("partial_rotary", False)
    rope_fields = {**hf, "max_position_embeddings": positive("max_position_embeddings")}
    if "original_max_position_embeddings" in defaults:
        rope_fields["original_max_position_embeddings"] = get("original_max_position_embeddings")
    return ModelConfig(
        family=family,
        vocab_size=positive("vocab_size"),
        hidden_size=hidden,
        intermediate_size=positive("intermediate_size"),
        num_layers=positive("num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        rms_norm_eps=float(get("rms_norm_eps")),
        rope=rope_from_hf(rope_fields, head_dim, partial),
        max_position_embeddings=rope_fields["max_position_embeddings"],
        tie_word_embeddings=bool(get("tie_word_embeddings")),
        dtype=str(hf.get("dtype") or hf.get("torch_dtype") or "float32").removeprefix("torch."),
        initializer_range=float(get("initializer_range") or 0.02),
        hf=json.dumps(hf, sort_keys=True),
        **switches,
    )


def uniform_windows(hf: Mapping[str, Any], num_layers: int, default: int | None) -> tuple[int, ...] | None:
    """Sliding windows of the families that apply `sliding_window` in all layers or in none."""
    window = hf.get("sliding_window", default)
    return None if window is None else (int(window),) * num_layers


def qwen_windows(hf: Mapping[str, Any], num_layers: int) -> tuple[int | None, ...] | None:
    """Sliding windows of Qwen2 and Qwen3: by `layer_types`, else all layers from `max_window_layers` on."""
    window = hf.get("sliding_window", 4096) if hf.get("use_sliding_window") else None
    kinds = hf.get("layer_types")
    if kinds is None:
        first = hf.get("max_window_layers", 28)
        kinds = [
            "sliding_attention" if window and i >= first else "full_attention" for i in range(num_layers)
        ]
    unknown = set(kinds) - {"sliding_attention", "full_attention"}
    if unknown or len(kinds) != num_layers or ("sliding_attention" in kinds and not window):
        raise CheckpointError(
            f"config.json: layer_types must hold {num_layers} of 'full_attention' and 'sliding_attention' "
            f"(the latter with use_sliding_window and sliding_window set), found {kinds}"
        )
    if "sliding_attention" not in kinds:
        return None
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)
