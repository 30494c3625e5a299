"""Tokenizers of real and of strange directories: what ends a turn, added tokens, ids, and files that are none."""

import json
import os
import shutil

import numpy as np
import pytest
from transformers import AutoTokenizer

from cord_jax.errors import UserError
from cord_jax.text.vocabulary import Vocabulary
from tests.reference.tiny import write_tokenizer


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return write_tokenizer(tmp_path_factory.mktemp("sound"), "threes")


@pytest.fixture
def directory(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "copy")


def edit(file, change):
    content = json.loads(file.read_text()) if file.exists() else {}
    change(content)
    file.write_text(json.dumps(content))


def test_the_token_that_the_template_ends_turns_with_is_an_eos(directory, caplog):
    stop = Vocabulary.load(directory).tokenizer.convert_tokens_to_ids("<|stop|>")
    end = Vocabulary.load(directory).tokenizer.convert_tokens_to_ids("<|end|>")
    assert not caplog.text
    edit(directory / "tokenizer_config.json", lambda c: c.update(eos_token="<|stop|>"))
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": stop}))
    assert Vocabulary.load(directory).eos_ids == {stop, end}
    assert "the chat template ends turns with <|end|>, which no file declares as EOS" in caplog.text
    # A template without such a token adds none, nor one that refuses the turns.
    for template in (
        "{{ messages[0].content }}",
        "{% for m in messages %}{{ m.content + '\\n' }}{% endfor %}",
        "{% if %}",
    ):
        edit(directory / "tokenizer_config.json", lambda c, t=template: c.update(chat_template=t))
        assert Vocabulary.load(directory).eos_ids == {stop}


def test_published_templates_end_turns_with_what_is_declared_or_added(shared_dir):
    for name, token in {
        "phi-3": "<|end|>",
        "phi-4": "<|im_end|>",
        "qwen2.5": "<|im_end|>",
        "llama-3.1": "<|eot_id|>",
        "deepseek-r1": "<｜end▁of▁sentence｜>",
    }.items():
        vocabulary = Vocabulary.load(shared_dir / "tokenizers" / name)
        assert vocabulary.tokenizer.convert_tokens_to_ids(token) in vocabulary.eos_ids


def test_an_eos_that_is_no_id_is_left_out(directory, caplog):
    expected = Vocabulary.load(directory).eos_ids
    (directory / "config.json").write_text(json.dumps({"eos_token_id": 10**6}))
    assert Vocabulary.load(directory).eos_ids == expected
    assert "eos_token_id 1000000 is no id of the tokenizer" in caplog.text


@pytest.mark.parametrize("value", ["2", 2.5, [[2]], {"a": 2}, True, -1, [None, "x"]])
def test_an_eos_that_cannot_be(directory, value):
    (directory / "config.json").write_text(json.dumps({"eos_token_id": value}))
    with pytest.raises(UserError, match="eos_token_id must be an id or a list of ids"):
        Vocabulary.load(directory)


TOKEN = {
    "content": "<<tool>>",
    "special": True,
    "lstrip": False,
    "rstrip": False,
    "normalized": False,
    "single_word": False,
}
PLACES = {
    "tokenizer.json": lambda i: lambda c: c["added_tokens"].append({"id": i, **TOKEN}),
    "tokenizer_config.json": lambda i: lambda c: c.update(added_tokens_decoder={str(i): TOKEN}),
    "added_tokens.json": lambda i: lambda c: c.update({"<<tool>>": i}),
}


@pytest.mark.parametrize("gap", [0, 7])
@pytest.mark.parametrize("name", PLACES)
def test_a_token_that_stands_in_one_file_only(directory, name, gap, caplog):
    declared = len(Vocabulary.load(directory).token_bytes) + gap
    edit(directory / name, PLACES[name](declared))
    vocabulary = Vocabulary.load(directory)
    (found,) = vocabulary.encode("<<tool>>")
    assert AutoTokenizer.from_pretrained(directory).encode("<<tool>>", add_special_tokens=False) == [found]
    assert vocabulary.text([found]) == "<<tool>>"
    told = f"{name}: declares '<<tool>>' as id {declared}; in the tokenizer it is {found}"
    assert (told in caplog.text) == (found != declared)


def test_ids_with_holes_and_beyond_reason(directory, caplog):
    sound = Vocabulary.load(directory)
    n = len(sound.token_bytes)
    edit(directory / "tokenizer.json", lambda c: c["model"]["vocab"].update(zz=n + 7))
    holed = Vocabulary.load(directory)  # the added tokens come behind as many ids as the vocabulary has
    assert "declares '<|system|>' as id" in caplog.text and "(and 4 more)" in caplog.text
    assert len(holed.token_bytes) == n + 8 and not any(holed.token_bytes[n + 1 : n + 7])
    mask = holed.defined(n + 20)  # without the holes and the padded rows
    assert mask.sum() == n + 1 and np.flatnonzero(mask)[-1] == n + 7
    with pytest.raises(UserError, match=f"the tokenizer has id {n + 7}, but the model has only {n} logits"):
        holed.defined(n)
    edit(directory / "tokenizer.json", lambda c: c["model"]["vocab"].update(zz=2**31))
    with pytest.raises(UserError, match="the tokenizer has id 2147483648; ids up to"):
        Vocabulary.load(directory)


@pytest.mark.parametrize(
    "name",
    [
        "tokenizer.json",
        "tokenizer_config.json",
        "added_tokens.json",
        "chat_template.jinja",
        "generation_config.json",
    ],
)
def test_what_is_no_file(directory, name):
    (directory / name).unlink(missing_ok=True)
    for make in (os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)):
        make(directory / name)
        with pytest.raises(UserError, match="is no file"):
            Vocabulary.load(directory)
        os.rmdir(directory / name) if (directory / name).is_dir() else os.unlink(directory / name)


@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 100_000, '{"added_tokens": 3}', "\xff"])
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "generation_config.json"])
def test_broken_files(directory, name, content):
    (directory / name).write_bytes(content.encode("latin-1"))
    if content.startswith('{"added') and name != "tokenizer.json":
        Vocabulary.load(directory)
        return
    with pytest.raises(UserError) as error:
        Vocabulary.load(directory)
    assert str(directory) in str(error.value) and "\n" not in str(error.value)


def test_models_that_think_in_other_marks_are_told_of(directory, caplog):
    edit(directory / "added_tokens.json", lambda c: c.update({"[THINK]": 400, "[/THINK]": 401}))
    Vocabulary.load(directory)
    assert "thinks between [THINK] and [/THINK]" in caplog.text
