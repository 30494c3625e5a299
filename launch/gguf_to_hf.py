"""Makes a Hugging Face directory of a GGUF file: dense weights, tokenizer, chat template, as transformers reads them.

  python -m pip install gguf torch
  python -m launch.gguf_to_hf --gguf=SmolLM2-135M-Instruct.Q4_1.gguf --output_dir=checkpoints/smollm2

The weights are those of the file, unpacked: quantisation has cost what it has cost. Where the original checkpoint can be
had, it is the better teacher.
"""

import importlib.util
import json
import shutil
import struct
from pathlib import Path

from absl import flags

from cord_jax.errors import UserError
from cord_jax.files import read_object
from cord_jax.settings import check, configuration, setting
from launch import common, flags_of


@configuration
class ConversionConfig:
    """A GGUF file and the directory to be made of it."""

    gguf: Path | str = setting(help="GGUF file of a model and its tokenizer")
    output_dir: Path | str = setting(help="Hugging Face directory to write; must not exist")
    dtype: str = setting(
        default="float32",
        help="of the weights that are written; CPUs compute in it, too",
        choices=("float32", "bfloat16"),
    )

    def __post_init__(self):
        """Raises: `UserError` for a value that cannot be."""
        check(self)


FLAGS = flags.FlagValues()
flags_of.define(ConversionConfig, FLAGS)


def convert(config: ConversionConfig) -> None:
    """Writes the directory, whole or not at all.

    Raises: `UserError` for a file or directory that cannot be; `models.CheckpointError` for a network that `models.load`
    does not read.
    """
    source, target = Path(config.gguf), Path(config.output_dir)
    if missing := [name for name in ("gguf", "torch") if importlib.util.find_spec(name) is None]:
        raise UserError(
            f"{' and '.join(missing)} must be installed to read GGUF: python -m pip install {' '.join(missing)}"
        )
    if not source.is_file():
        raise UserError(f"--gguf={source} is no file")
    if source.open("rb").read(4) != b"GGUF":
        raise UserError(f"--gguf={source} is no GGUF file: it does not begin with GGUF")
    if target.exists():
        raise UserError(f"--output_dir={target} exists; choose another, or delete it")
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of an attempt that was cut off
    try:
        _write(source, temporary, config.dtype)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write(source: Path, target: Path, dtype: str) -> None:
    import torch
    import transformers

    import models

    where = {"pretrained_model_name_or_path": source.parent, "gguf_file": source.name}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(**where)
        packed = transformers.AutoModelForCausalLM.from_pretrained(**where, dtype=getattr(torch, dtype))
    except (ValueError, LookupError, NotImplementedError, struct.error) as error:  # unknown or broken
        raise UserError(f"--gguf={source}: transformers cannot read it: {error}") from None
    settings = packed.config
    if hasattr(settings, "quantization_config"):
        del settings.quantization_config
    # transformers does not save what it has read from GGUF, so the weights go into a network of their own.
    network = type(packed)(settings).to(packed.dtype)
    network.load_state_dict(packed.state_dict())
    network.generation_config = packed.generation_config
    network.save_pretrained(target)
    tokenizer.save_pretrained(target)
    _drop_tokens_beyond(settings.vocab_size, target)
    models.read_config(target)


def _drop_tokens_beyond(vocab_size: int, directory: Path) -> None:
    """Takes out tokens that the network has no row for; transformers adds an `unk_token` that a file may not have."""
    definition, settings = directory / "tokenizer.json", directory / "tokenizer_config.json"
    tokenizer, config = read_object(definition), read_object(settings)
    beyond = [token["content"] for token in tokenizer["added_tokens"] if token["id"] >= vocab_size]
    tokenizer["added_tokens"] = [t for t in tokenizer["added_tokens"] if t["content"] not in beyond]
    config = {name: value for name, value in config.items() if value not in beyond}
    definition.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    settings.write_text(json.dumps(config, ensure_ascii=False, indent=2), encoding="utf-8")


def main(values: flags.FlagValues) -> None:
    """Converts, and says where the directory is."""
    config = flags_of.config_of(ConversionConfig, values)
    convert(config)
    print(config.output_dir)


if __name__ == "__main__":
    common.run(main, FLAGS, __doc__)
