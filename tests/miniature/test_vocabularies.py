"""The vocabularies, through transformers and through the project's own reader."""

import itertools
import json

import pytest
from transformers import AutoTokenizer

from cord_jax.miniature import world
from cord_jax.miniature.vocabularies import VOCABULARIES, save_vocabulary, train_vocabulary
from cord_jax.text.prompt_settings import PromptSettings
from cord_jax.text.prompts import render_prompt
from cord_jax.text.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    root = tmp_path_factory.mktemp("vocabularies")
    for name in VOCABULARIES:
        (root / name).mkdir()
        save_vocabulary(name, train_vocabulary(name, 1), root / name)
    return {name: root / name for name in VOCABULARIES}


def test_they_differ(directories):
    vocabularies = [Vocabulary.load(directory) for directory in directories.values()]
    assert len({v.fingerprint for v in vocabularies}) == 3
    for a, b in itertools.combinations(vocabularies, 2):
        same = set(a.tokenizer.get_vocab().items()) & set(b.tokenizer.get_vocab().items())
        assert len(same) < 0.75 * len(a.tokenizer.get_vocab())  # the single bytes are alike


@pytest.mark.parametrize(("name", "think_end"), [("sums", True), ("products", False), ("shares", False)])
def test_numbers_and_tags(directories, name, think_end):
    vocabulary = Vocabulary.load(directories[name])
    for number in range(1, 100):
        assert [vocabulary.text([i]) for i in vocabulary.encode(f" {number}")] == [f" {number}"]
    assert (len(vocabulary.encode("</think>")) == 1) is think_end


@pytest.mark.parametrize("name", VOCABULARIES)
def test_any_text_survives(directories, name):
    vocabulary = Vocabulary.load(directories[name])
    theirs = AutoTokenizer.from_pretrained(directories[name])
    for text in ("### Step 12. A 1,234 = \\frac{1}{2}\r\n\t ü 中文 😀 <think>\n</think>\n\n", " 7  8\n\n\n9"):
        assert theirs.decode(theirs.encode(text, add_special_tokens=False)) == text
        assert vocabulary.text(vocabulary.encode(text)) == text


@pytest.mark.parametrize("name", VOCABULARIES)
def test_prompts_and_ends(directories, name):
    vocabulary = Vocabulary.load(directories[name])
    longest = max((p.question for p in world.draw_puzzles(0, 300, "train")), key=len)
    prompt = render_prompt(vocabulary, None, longest)
    assert prompt.endswith("<think>\n") and prompt.count("<think>") == 1
    assert len(vocabulary.encode_prompt(prompt)) < 200
    spec = VOCABULARIES[name]
    assert vocabulary.eos_ids == {vocabulary.tokenizer.convert_tokens_to_ids(token) for token in spec.eos}
    turns = render_prompt(vocabulary, PromptSettings("Be brief."), "Hi there")
    assert turns.index("Be brief.") < turns.index("Hi there") < turns.index("<think>")
    assert json.loads((directories[name] / "tokenizer_config.json").read_text())["eos_token"] == spec.eos[0]
