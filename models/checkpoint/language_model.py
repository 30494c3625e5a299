"""The language model's part of multimodal checkpoints, under the names that it has by itself.

As published, names begin with "language_model.model." and the head is under "language_model."; as transformers 5 names
modules, they begin with "model.language_model." and the head stands alone. The parts that see or hear lie beside it and
are left out.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from models.checkpoint import safetensors

_NAMES = (
    (re.compile(r"(?:model\.)?language_model\.(?:model\.)?(?=layers\.|embed_tokens\.|norm\.)"), "model."),
    (re.compile(r"(?:model\.)?language_model\.(?=lm_head\.)"), ""),
)
# Modules of Gemma3ForConditionalGeneration and Mistral3ForConditionalGeneration beside the language model.
_OTHERS = re.compile(r"(?:model\.)?(?:vision_tower|multi_modal_projector)\.")


def by_own_names(names: Iterable[str]) -> dict[str, str]:
    """Name of each tensor of the language model in the file -> its own name; unchanged where the file has no other part."""
    names = list(names)
    if not any(pattern.match(name) for name in names for pattern, _ in _NAMES):
        return {name: name for name in names}
    found = {}
    for name in names:
        if not _OTHERS.match(name):
            own = name
            for pattern, prefix in _NAMES:
                own = pattern.sub(prefix, own, count=1) if pattern.match(own) else own
            found[name] = own
    return found


def read_tensors(directory: Path) -> dict[str, safetensors.Tensor]:
    """The tensors of a checkpoint's language model by their own names (`safetensors.read_directory`)."""
    stored: Mapping[str, safetensors.Tensor] = safetensors.read_directory(directory)
    return {own: stored[name] for name, own in by_own_names(stored).items()}


def has_tensor(directory: Path, name: str) -> bool:
    """Whether a checkpoint's language model has a tensor of this name; False, too, if there are no weights."""
    return name in by_own_names(safetensors.names(directory)).values()
