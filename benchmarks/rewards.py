"""A process reward model of another checkpoint's size, whose rewards mean nothing: for benchmarks of what it costs."""

import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

SEPARATOR = "<extra_0>"


def write_reward_model(directory: Path, like: Path) -> Path:
    """A `Qwen2ForProcessRewardModel` with the network and vocabulary of a Qwen2 checkpoint, and a random head."""
    directory.mkdir(parents=True)
    for path in like.iterdir():
        if path.suffix in (".json", ".jinja") and path.name not in ("config.json", "tokenizer.json"):
            shutil.copyfile(path, directory / path.name)
    tokenizer = Tokenizer.from_file(str(like / "tokenizer.json"))
    tokenizer.add_special_tokens([SEPARATOR])
    tokenizer.save(str(directory / "tokenizer.json"))
    config = json.loads((like / "config.json").read_text(encoding="utf-8"))
    tensors = {
        name: tensor
        for path in sorted(like.glob("*.safetensors"))
        for name, tensor in load_file(path).items()
        if not name.startswith("lm_head")
    }
    embedding_vd, missing = "model.embed_tokens.weight", tokenizer.get_vocab_size() - config["vocab_size"]
    if missing > 0:
        rows_vd = tensors[embedding_vd]
        tensors[embedding_vd] = np.concatenate([rows_vd, np.zeros_like(rows_vd[:missing])])
        config["vocab_size"] += missing
    width, generator = config["hidden_size"], np.random.default_rng(0)
    for name, shape in (("score.0", (width, width)), ("score.2", (2, width))):
        tensors[f"{name}.weight"] = (generator.normal(size=shape) / width**0.5).astype(np.float32)
        tensors[f"{name}.bias"] = np.zeros(shape[0], np.float32)
    save_file(tensors, directory / "model.safetensors")
    config |= {"architectures": ["Qwen2ForProcessRewardModel"], "tie_word_embeddings": False}
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return directory
