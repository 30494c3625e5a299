"""What to do with a directory that is no checkpoint, by what lies in it."""

import os
from pathlib import Path

from models.errors import CheckpointError, hub_hint
from models.files import read_json_object, show

ADAPTER = "adapter_config.json"
CONFIG = "config.json"


def no_checkpoint(directory: str | Path) -> str:
    """The remedy where a directory has no config.json: "; ..." or, where nothing is known, nothing."""
    path = Path(directory)
    if os.path.isfile(path):
        return _of_file(path)
    if not os.path.isdir(path):
        return hub_hint(directory)
    try:
        names = sorted(entry.name for entry in path.iterdir())
    except OSError as error:
        return f"; it cannot be read ({error.strerror})"
    if ADAPTER in names:
        return (
            f"; it holds an adapter of {base_of_adapter(path)}: merge the two with PEFT, "
            "PeftModel.from_pretrained(model, DIR).merge_and_unload().save_pretrained(OUT)"
        )
    if gguf := [name for name in names if name.lower().endswith(".gguf")]:
        return _of_file(path / gguf[0])
    below = [config.parent for config in sorted(path.glob("snapshots/*/" + CONFIG))]
    below = below or [config.parent for config in sorted(path.glob("*/" + CONFIG))]
    if below:
        return f"; there is one below: give {below[-1]}"
    if "params.json" in names or "consolidated.00.pth" in names:
        return "; this is a release in its makers' own format: take the one for transformers"
    return ""


def no_weights(names: list[str]) -> str:
    """The remedy where a checkpoint has neither weights nor an index under their names."""
    safe = [name for name in names if name.endswith(".safetensors")]
    if not safe:
        return ""
    if all("-of-" in name for name in safe):
        return "; these are shards without their index: get model.safetensors.index.json from where the model came from"
    if any(name.startswith("consolidated") for name in safe):
        return "; consolidated.safetensors is in its makers' own format: take the release for transformers"
    return f"; if {safe[0]} is the whole model, name it model.safetensors"


def base_of_adapter(directory: Path) -> str:
    """The model that an adapter belongs to, as its configuration says."""
    try:
        base = read_json_object(directory / ADAPTER).get("base_model_name_or_path")
    except CheckpointError:
        base = None
    return show(base) if isinstance(base, str) else "an unknown model"


def _of_file(path: Path) -> str:
    if path.suffix.lower() == ".gguf":
        return f"; make one of the GGUF file: python -m launch.gguf_to_hf --gguf={path} --output_dir=DIR"
    return "; this is a file: give the directory that it lies in"
