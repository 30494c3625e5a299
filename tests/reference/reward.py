"""A process reward model by torch: a Qwen2 network with a head, which reads a separator behind every step."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2Model

from . import text

SEPARATOR = "<extra_0>"


def write_reward_model(directory: Path, like: Path, seed: int) -> Path:
    """A random Qwen2ForProcessRewardModel with the tokenizer of another checkpoint and the separator."""
    directory.mkdir(parents=True)
    for name in ("tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json"):
        if (like / name).exists():
            shutil.copyfile(like / name, directory / name)
    tokenizer = Tokenizer.from_file(str(like / "tokenizer.json"))
    tokenizer.add_special_tokens([SEPARATOR])
    tokenizer.save(str(directory / "tokenizer.json"))
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=tokenizer.get_vocab_size() + 5,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        tie_word_embeddings=False,
    )
    network, head = Qwen2Model(config), _head(config.hidden_size)
    tensors = {f"model.{name}": value for name, value in network.state_dict().items()}
    tensors |= {f"score.{name}": value for name, value in head.state_dict().items()}
    save_file(tensors, directory / "model.safetensors")
    fields = config.to_dict() | {"architectures": ["Qwen2ForProcessRewardModel"]}
    (directory / "config.json").write_text(json.dumps(fields))
    return directory


def _head(width: int) -> torch.nn.Sequential:
    return torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.ReLU(), torch.nn.Linear(width, 2))


class RewardReader:
    """Reads whole reasonings from their first token on."""

    def __init__(self, checkpoint: Path):
        tensors = load_file(checkpoint / "model.safetensors")
        config = Qwen2Config.from_pretrained(checkpoint)
        self.network, self.head = Qwen2Model(config), _head(config.hidden_size)
        for module, prefix in ((self.network, "model."), (self.head, "score.")):
            mine = {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}
            module.load_state_dict(mine)
        self.network.eval()
        self.template = PreTrainedTokenizerFast.from_pretrained(checkpoint)
        self.tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))

    def reward(self, problem: dict, steps: list[str], reward_of: str) -> np.float32:
        """The rewards of a reasoning's steps, taken together."""
        turns = [{"role": "user", "content": text.user_turn(problem)}]
        rendered = self.template.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        ids = self.tokenizer.encode(rendered, add_special_tokens=False).ids
        separator, ends = self.tokenizer.token_to_id(SEPARATOR), []
        for step in steps:
            for part in re.split(r"(?<=\n)(?=### Step(?![A-Za-z]))", step):
                if part.strip():
                    ids += [*self.tokenizer.encode(part.rstrip(), add_special_tokens=False).ids, separator]
                    ends.append(len(ids) - 1)
        with torch.no_grad():
            hidden = self.network(torch.tensor([ids]), use_cache=False).last_hidden_state[0]
            reward_t = torch.softmax(self.head(hidden[ends]), -1)[:, 1].numpy()
        together = {"last": lambda x: x[-1], "min": np.min, "mean": np.mean, "product": np.prod}
        return np.float32(together[reward_of](reward_t))
