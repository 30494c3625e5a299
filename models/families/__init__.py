"""Model families: one file each, with the mapping of `config.json` and the table of tensor names."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from models.config import ModelConfig
from models.errors import CheckpointError
from models.families import gemma3, llama, mistral, phi3, qwen2, qwen3, qwen3_moe
from models.families.keys import Entry
from models.files import Fields


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


def config_from_hf(hf: Mapping[str, Any]) -> ModelConfig:
    """Reads a parsed `config.json`.

    Raises:
      CheckpointError: the architecture, an activation or a rope scaling is not supported (the message lists
        what is), or a field is missing or makes no sense.
    """
    fields = Fields("config.json", hf)
    names, model_type = fields.texts("architectures"), fields.text("model_type", "")
    family = next((ARCHITECTURES[name] for name in names if name in ARCHITECTURES), None)
    if family is None and not names:
        family = MODEL_TYPES.get(model_type, model_type if model_type in FAMILIES else None)
    if family is None:
        raise CheckpointError(
            f"config.json: architecture {', '.join(names) or model_type!r} is not supported; "
            f"supported are {', '.join(ARCHITECTURES)}"
        )
    return FAMILIES[family].config(fields)
