"""Model families: one file each, with the mapping of `config.json` and the table of tensor names."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from models.config import ModelConfig
from models.errors import CheckpointError
from models.families import gemma3, llama, mistral, phi3, qwen2, qwen3, qwen3_moe
from models.families.keys import Entry
from models.files import Fields, show


class Family(NamedTuple):
    """config: parsed `config.json` -> ModelConfig; keys: tensor name pattern -> Entry."""

    config: Callable[[Fields], ModelConfig]
    keys: Mapping[str, Entry]


FAMILIES: dict[str, Family] = {
    "gemma3": Family(gemma3.config, gemma3.KEYS),
    "llama": Family(llama.config, llama.KEYS),
    "mistral": Family(mistral.config, mistral.KEYS),
    "phi3": Family(phi3.config, phi3.KEYS),
    "qwen2": Family(qwen2.config, qwen2.KEYS),
    "qwen3": Family(qwen3.config, qwen3.KEYS),
    "qwen3_moe": Family(qwen3_moe.config, qwen3_moe.KEYS),
}

# `model_type` where it is not the family's name.
MODEL_TYPES = {"gemma3_text": "gemma3"}
# Class named in `architectures` of config.json -> family.
ARCHITECTURES: dict[str, str] = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Phi3ForCausalLM": "phi3",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen2ForProcessRewardModel": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Qwen3MoeForCausalLM": "qwen3_moe",
    "Gemma3ForCausalLM": "gemma3",
}

# Multimodal class -> class of its language model, whose part alone is read, and its `model_type`.
WRAPPERS: dict[str, tuple[str, str]] = {
    "Gemma3ForConditionalGeneration": ("Gemma3ForCausalLM", "gemma3_text"),
    "Mistral3ForConditionalGeneration": ("MistralForCausalLM", "mistral"),
}
# Fields that these keep outside of `text_config`, too; those within come first, but for the tie, whose head is outside.
_OUTSIDE = ("dtype", "torch_dtype", "eos_token_id", "bos_token_id", "pad_token_id")
_TIED = "tie_word_embeddings"


def config_from_hf(hf: Mapping[str, Any]) -> ModelConfig:
    """Reads a parsed `config.json`.

    Raises:
      CheckpointError: the architecture, an activation or a rope scaling is not supported (the message lists
        what is), or a field is missing or makes no sense.
    """
    fields = Fields("config.json", hf)
    if wrapper := next((name for name in fields.texts("architectures") if name in WRAPPERS), None):
        return dataclasses.replace(config_from_hf(_of_language_model(fields, wrapper)), multimodal=True)
    names, model_type = fields.texts("architectures"), fields.text("model_type", "")
    family = next((ARCHITECTURES[name] for name in names if name in ARCHITECTURES), None)
    if family is None and not names:
        family = MODEL_TYPES.get(model_type, model_type if model_type in FAMILIES else None)
    if family is None:
        raise CheckpointError(f"config.json: {_unknown(fields, names, model_type)}")
    return FAMILIES[family].config(fields)


def _of_language_model(fields: Fields, wrapper: str) -> dict[str, Any]:
    """The `config.json` that the language model of a multimodal checkpoint has by itself."""
    held = {name: fields.values[name] for name in _OUTSIDE if fields.has(name)}
    inside = {
        name: value for name, value in fields.section("text_config").values.items() if value is not None
    }
    architecture, model_type = WRAPPERS[wrapper]
    found = inside.get("model_type", model_type)
    if found != model_type:
        raise CheckpointError(
            f"config.json: text_config has model_type {show(found)}; of a {wrapper}, {model_type!r} is supported"
        )
    for name in ("quantization_config", "compression_config", "quantization"):
        held |= {name: fields.values[name]} if fields.has(name) else {}
    tied = next((part[_TIED] for part in (fields.values, inside) if part.get(_TIED) is not None), True)
    return held | inside | {"architectures": [architecture], "model_type": model_type, _TIED: tied}


def _unknown(fields: Fields, names: tuple[str, ...], model_type: str) -> str:
    supported = f"supported are {', '.join([*ARCHITECTURES, *WRAPPERS])}"
    if not names and not model_type:
        return f"names neither architectures nor model_type; {supported}"
    code = "; code that comes with a checkpoint (auto_map) is never run" if fields.has("auto_map") else ""
    return f"architecture {', '.join(names) or model_type!r} is not supported; {supported}{code}"
