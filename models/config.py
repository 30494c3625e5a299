"""The architecture of a network, read from a Hugging Face `config.json`."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from models.errors import CheckpointError
from models.files import Fields, show
from models.rope import RopeConfig, rope_from_hf

# Our name of each activation of transformers that is supported.
ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh"}
# The dtype of the parameters for each that a config.json may name.
DTYPES = {"float32": "float32", "bfloat16": "bfloat16", "float16": "float16", "float64": "float32"}
# Values of layer_types.
SLIDING, FULL = "sliding_attention", "full_attention"
# Beyond what any network has; shapes of this size are still described at once.
MOST_LAYERS, MOST_EXPERTS, LARGEST_WIDTH = 1000, 4096, 1 << 24


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
    query_scale: the width whose square root attention logits are divided by; None: head_dim.
    activation: of the feed-forward's gate, "silu" or "gelu_tanh".
    norm_offset: what is added to the weights of RMS norms (1 where they are stored as differences from 1).
    post_norms: RMS norms of what attention and feed-forward give, too, before it is added.
    embedding_scale: what embedded tokens are multiplied by, rounded to the dtype of the weights.
    local_rope: rotation of the layers with a sliding window, where it is another than `rope`.
    sliding_windows: for each layer the number of last positions (itself included) that it attends to, or None
        for all; None if no layer has a window.
    experts: mixture of experts, or None for dense feed-forward layers.
    head: "language_model", or "process_reward" (two-layer score head, `num_labels` outputs).
    dtype: dtype of the stored weights ("bfloat16", "float32", "float16").
    multimodal: whether it is the language model's part of a checkpoint that has others.
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
    query_scale: float | None = None
    activation: str = "silu"
    norm_offset: float = 0.0
    post_norms: bool = False
    embedding_scale: float = 1.0
    local_rope: RopeConfig | None = None
    sliding_windows: tuple[int | None, ...] | None = None
    experts: ExpertConfig | None = None
    head: str = "language_model"
    num_labels: int = 2
    dtype: str = "float32"
    initializer_range: float = 0.02
    multimodal: bool = False
    hf: str = "{}"

    def for_length(self, length: int) -> "ModelConfig":
        """With dynamic and longrope frequencies fixed for sequences of at most `length` tokens."""
        ropes = {name: getattr(self, name) for name in ("rope", "local_rope")}
        fixed = {name: rope and dataclasses.replace(rope, length=length) for name, rope in ropes.items()}
        return dataclasses.replace(self, **fixed)

    @property
    def depends_on_length(self) -> bool:
        """Whether frequencies depend on the length that `for_length` fixes."""
        return any(rope is not None and rope.depends_on_length for rope in (self.rope, self.local_rope))


def dense_config(fields: Fields, family: str, **switches: Any) -> ModelConfig:
    """The fields that all families spell the same way.

    Args:
      fields: the parsed `config.json`, with the defaults of the family's configuration class in transformers.
      family: name of the family.
      **switches: fields of ModelConfig that the family decides, and `partial_rotary`.
    """
    for name in ("quantization_config", "compression_config", "quantization"):  # the last is MLX's
        if not fields.has(name):
            continue
        method = fields.section(name).values.get("quant_method")
        how = f"quantised by {method!r}" if method else f"quantised ({name})"
        raise CheckpointError(
            f"config.json: weights {how} are not supported; use the original checkpoint, with weights='int8' to save memory"
        )
    hidden = fields.integer("hidden_size", at_most=LARGEST_WIDTH)
    heads = fields.integer("num_attention_heads", at_most=LARGEST_WIDTH)
    kv_heads = fields.integer("num_key_value_heads", fields.defaults.get("num_key_value_heads", heads))
    if heads % kv_heads:
        raise CheckpointError(
            f"config.json: num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}"
        )
    head_dim = fields.integer(
        "head_dim", fields.defaults.get("head_dim") or hidden // heads, 1, LARGEST_WIDTH
    )
    partial = switches.pop("partial_rotary", False)
    rope = switches.pop("rope", None) or rope_from_hf(fields, head_dim, partial)
    activation = switches.pop("activation", None) or activation_of(fields, "hidden_act")
    return ModelConfig(
        family=family,
        vocab_size=fields.integer("vocab_size"),
        hidden_size=hidden,
        intermediate_size=fields.integer("intermediate_size", at_most=LARGEST_WIDTH),
        num_layers=fields.integer("num_hidden_layers", at_most=MOST_LAYERS),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        activation=activation,
        rope=rope,
        tie_word_embeddings=fields.boolean(
            "tie_word_embeddings", fields.defaults.get("tie_word_embeddings", False)
        ),
        rms_norm_eps=fields.number("rms_norm_eps", above=-1e-30, at_most=1.0),
        max_position_embeddings=fields.integer("max_position_embeddings"),
        dtype=_dtype(fields),
        initializer_range=fields.number("initializer_range", 0.02, above=-1e-30, at_most=100.0),
        hf=json.dumps(dict(fields.values), sort_keys=True),
        **switches,
    )


def activation_of(fields: Fields, name: str) -> str:
    """The activation of the feed-forward, by our name for it."""
    found = fields.text(name, fields.defaults.get(name, "silu"))
    if found not in ACTIVATIONS:
        raise CheckpointError(
            f"config.json: {name} {found!r} is not supported; supported are {', '.join(map(repr, ACTIVATIONS))}"
        )
    return ACTIVATIONS[found]


def _dtype(fields: Fields) -> str:
    """The dtype of the stored weights; weights in double precision are computed in single."""
    name = "dtype" if fields.has("dtype") else "torch_dtype"
    found = fields.text(name, "float32").removeprefix("torch.")
    if found not in DTYPES:
        raise CheckpointError(
            f"config.json: field {name!r} must be one of {', '.join(DTYPES)}, found {show(found)}"
        )
    return DTYPES[found]


def uniform_windows(fields: Fields, default: int | None) -> tuple[int, ...] | None:
    """Sliding windows of the families that apply `sliding_window` in all layers or in none."""
    if default is None or "sliding_window" in fields.values:
        window = fields.integer("sliding_window") if fields.has("sliding_window") else None
    else:
        window = default
    return None if window is None else (window,) * fields.integer("num_hidden_layers", at_most=MOST_LAYERS)


def windows_of_types(
    fields: Fields, window: int | None, default: Sequence[str]
) -> tuple[int | None, ...] | None:
    """Sliding windows by `layer_types`, "sliding_attention" or "full_attention" for each layer.

    Args:
      window: of the layers that have one, or None.
      default: the types where the field is absent.
    """
    kinds = fields.texts("layer_types") if fields.has("layer_types") else tuple(default)
    unknown = set(kinds) - {SLIDING, FULL}
    if unknown or len(kinds) != len(default) or (SLIDING in kinds and not window):
        raise CheckpointError(
            f"config.json: layer_types must hold {len(default)} of '{FULL}' and '{SLIDING}' "
            f"(the latter with use_sliding_window and sliding_window set), found {show(kinds)}"
        )
    if SLIDING not in kinds:
        return None
    return tuple(window if kind == SLIDING else None for kind in kinds)


def qwen_windows(fields: Fields) -> tuple[int | None, ...] | None:
    """Sliding windows of Qwen2 and Qwen3: by `layer_types`, else all layers from `max_window_layers` on."""
    window = None
    if fields.boolean("use_sliding_window") and (
        fields.has("sliding_window") or "sliding_window" not in fields.values
    ):
        window = fields.integer("sliding_window", 4096)
    first = fields.integer("max_window_layers", 28, at_least=0)
    layers = range(fields.integer("num_hidden_layers", at_most=MOST_LAYERS))
    return windows_of_types(fields, window, [SLIDING if window and i >= first else FULL for i in layers])
