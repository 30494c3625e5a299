"""The text of a process reward model against the model card of Qwen2.5-Math-PRM, with the real vocabulary."""

import json
import shutil

import pytest
from tokenizers import Tokenizer

import models
from cord_jax.problems import Problem
from cord_jax.text.reward_text import RewardText
from cord_jax.text.vocabulary import Vocabulary

SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."
QUESTION = "Sue lives in a fun neighborhood. How many more pink plastic flamingos were out than white ones?"
STEPS = [
    "### Step 1. On the first day there were 18 pink flamingos.\n\n",
    "### Step 2. They took back $\\frac{1}{3}$ of them: 18 - 6 = 12.\n\n",
    "### Step 3: So there are 12 more.\n\n",
]


@pytest.fixture(scope="module")
def published(shared_dir, tmp_path_factory):
    """The published config.json beside the Qwen2.5 vocabulary, to which the separator was added as the last token."""
    directory = tmp_path_factory.mktemp("prm")
    shutil.copyfile(shared_dir / "configs" / "qwen2.5-math-prm-7b.json", directory / "config.json")
    shutil.copyfile(
        shared_dir / "tokenizers" / "qwen2.5" / "tokenizer_config.json", directory / "tokenizer_config.json"
    )
    tokenizer = Tokenizer.from_file(str(shared_dir / "tokenizers" / "qwen2.5" / "tokenizer.json"))
    tokenizer.add_special_tokens(["<extra_0>"])
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory


def test_prompt_and_separators_are_those_of_the_model_card(published):
    """The card renders system, question and the steps with `<extra_0>` behind each as one conversation, and encodes that."""
    reward_text = RewardText(Vocabulary.load(published))
    (prompt,) = reward_text.encode_prompts(SYSTEM, [Problem("a", QUESTION, "1")])
    steps = [ids for of_one in reward_text.encode_pieces(STEPS, "prompt") for ids in of_one]
    tokenizer = Tokenizer.from_file(str(published / "tokenizer.json"))
    answer = "".join(step.rstrip() + "<extra_0>" for step in STEPS)
    turns = [("system", SYSTEM), ("user", QUESTION)]
    card = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)
    card += f"<|im_start|>assistant\n{answer}"
    assert prompt + steps == tokenizer.encode(card, add_special_tokens=False).ids
    (whole,) = reward_text.encode_pieces(["".join(STEPS)], "whole")
    assert whole == steps
    separator = tokenizer.token_to_id("<extra_0>")
    assert [i for i in steps if i == separator] == [separator] * 3 and steps[-1] == separator


def test_the_published_configuration_is_a_reward_model_as_wide_as_the_vocabulary(published):
    config = models.read_config(published)
    assert config.head == "process_reward" and config.num_layers == 28
    assert json.loads((published / "config.json").read_text())["vocab_size"] == config.vocab_size
    assert Vocabulary.load(published).defined(config.vocab_size).sum() == 151666
