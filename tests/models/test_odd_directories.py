"""Directories that people have: read as transformers reads them, or refused in one line; nothing odd passes in silence."""

import logging
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

import models
from cord_jax.errors import UserError
from cord_jax.text.prompt_settings import PromptSettings
from cord_jax.text.prompts import render_prompt
from cord_jax.text.vocabulary import Vocabulary
from tests.models.odd_directories import CASES, write_sound

# The line that a directory is refused with.
REFUSED = {
    "dtype auto": "field 'dtype' must be one of",
    "no architectures and no model_type": "names neither architectures nor model_type; supported are",
    "architecture of a body": "architecture 'LlamaModel' is not supported",
    "architecture of a classifier": "architecture 'LlamaForSequenceClassification' is not supported",
    "remote code": r"'FancyForCausalLM' is not supported.*code that comes with a checkpoint \(auto_map\) is never run",
    "multimodal Qwen": "architecture 'Qwen2_5_VLForConditionalGeneration' is not supported",
    "no vocab_size": r"has shape \[360, 16\], config.json needs \[32000, 16\]",
    "gelu": "hidden_act 'gelu' is not supported",
    "awq": "quantised by 'awq'",
    "gptq": "quantised by 'gptq'",
    "fp8": "quantised by 'fp8'",
    "quantised by nobody": r"weights quantised \(quantization_config\) are not supported",
    "compression_config": "quantised by 'compressed-tensors'",
    "mlx": r"weights quantised \(quantization\) are not supported",
    "float8 tensors": "has dtype F8_E4M3; .*quantised weights are not read: use the original",
    "int8 tensors": "has dtype I8; .*quantised weights are not read: use the original",
    "a buffer of ints": "'model.position_ids' has dtype I64; supported are",
    "consolidated only": "makers' own format: take the release for transformers",
    "pickle only": "holds only pickled weights",
    "a variant only": "if model.fp16.safetensors is the whole model, name it model.safetensors",
    "shards without index": "shards without their index: get model.safetensors.index.json",
    "a shard missing": "model-00002-of-00002.safetensors: missing shard; model.safetensors.index.json places 10 tensors",
    "empty file of weights": "not a complete safetensors file",
    "no tensors": "needs more than 2 tensors, the weights have 1",
    "without the prefix model.": "tensor 'model.embed_tokens.weight' .* is missing",
    "prefix of a wrapper": "tensor 'model.embed_tokens.weight' .* is missing",
    "not tied, without a head": "'lm_head.weight' .* is missing; .*set tie_word_embeddings true",
    "a head's bias": "'lm_head.bias' .* was not expected",
    "embedding wider than config": r"the tokenizer has id 349, but the model has only 300 logits",
    "embedding narrower than config": r"has shape \[360, 16\], config.json needs \[400, 16\]",
    "vocabulary wider than the embedding": "the tokenizer has id 349, but the model has only 340 logits",
    "adapter only": "holds an adapter of .meta-llama/Llama-3.1-8B.: merge the two with PEFT",
    "gguf in a directory": "make one of the GGUF file: python -m launch.gguf_to_hf --gguf=.*model_q4.gguf",
    "cache": "there is one below: give .*/snapshots/0123abc",
    "cache with a hole": "there is one below: give .*/snapshots/0123abc",
    "snapshot with a hole": "model.safetensors: a link to a file that is not there; finish the download",
    "a level below": "there is one below: give .*/checkpoint-500",
    "nothing but a README": "no such file; expected a Hugging Face checkpoint directory",
    "no tokenizer.json, tokenizer.model": "no tokenizer.json; write one with AutoTokenizer.*sentencepiece",
    "no tokenizer.json, tekken.json": "no tokenizer.json; tekken.json is its makers' own format",
    "no tokenizer.json, vocab.json": "no tokenizer.json; write one with AutoTokenizer",
    "eos nowhere": "no token ends a turn; write eos_token_id into generation_config.json",
    "templates by name, no default": "has chat templates for rag, tool_use, and none is the default",
    "no template": "the tokenizer has no chat template; add chat_template.jinja",
    "empty template": "the tokenizer has no chat template; add chat_template.jinja",
    "template writes half a pair": "cannot encode a text: it holds half of a surrogate pair",
}
# What the log says of one that is read.
_ENDS = "the chat template ends turns with .* which no file declares as EOS"
TOLD = {
    "tied, with another head": "lm_head.weight is not the embedding, although config.json ties them: it is used",
    "adapter beside a model": "an adapter of .meta-llama/Llama-3.1-8B., which is not applied",
    "no tokenizer_config.json": _ENDS,
    "eos in generation_config.json only": _ENDS,
    "eos that is no token": _ENDS,
    "pad token beyond the embedding": r"the embedding has no row for '\[PAD\]': read as text",
    "template of parts": _ENDS,
    "template without the user": "the chat template leaves out what the user says",
    "[THINK]": r"thinks between \[THINK\] and \[/THINK\]; here its thoughts are opened by <think>",
}  # fmt: skip
# What transformers refuses, or reads by another class.
_NOT_THEIRS = {"torch_dtype spelled out", "BOM and CRLF", "adapter beside a model", "chat_template.json", "template of parts",
               "multimodal Mistral", "multimodal Mistral of transformers 5"}  # fmt: skip


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return write_sound(tmp_path_factory.mktemp("sound"))


@pytest.fixture
def directory(request, sound, tmp_path):
    copy = shutil.copytree(sound, tmp_path / "copy")
    found = CASES[request.param](copy)
    return found if isinstance(found, Path) and found.is_dir() else copy


def read(directory):
    """Everything that a teacher's directory is read for: (prompt's ids, model)."""
    config, vocabulary = models.read_config(directory), Vocabulary.load(directory)
    vocabulary.defined(config.vocab_size)
    ids = vocabulary.encode_prompt(render_prompt(vocabulary, None, "So 2?"))
    return ids, models.load(directory, dtype="float32", stacked=False)


@pytest.mark.parametrize("name, directory", [(name, name) for name in REFUSED], indirect=["directory"])
def test_refused_in_one_line(name, directory):
    with pytest.raises((UserError, models.CheckpointError), match=REFUSED[name]) as error:
        read(directory)
    assert "\n" not in str(error.value) and str(directory) in str(error.value)


# Read at every run; the others, which nothing here was written for, where the slow tests run.
QUICK = {*TOLD, *_NOT_THEIRS, "sound", "torch_dtype", "rope_parameters and rope_scaling", "snapshot", "shards",
         "tokenizer adds a bos", "templates by name", "tied, without a head"}  # fmt: skip
READ = [pytest.param(n, n, marks=() if n in QUICK else pytest.mark.slow) for n in CASES if n not in REFUSED]


@pytest.mark.parametrize("name, directory", READ, indirect=["directory"])
def test_read_as_transformers_reads_it(name, directory, caplog):
    with caplog.at_level(logging.WARNING):
        ids, model = read(directory)
    told = "\n".join(
        record.getMessage() for record in caplog.records if record.name.startswith(("cord_jax", "models"))
    )
    assert re.search(TOLD[name], told) if name in TOLD else not told
    if name in _NOT_THEIRS:
        return
    theirs = transformers.AutoTokenizer.from_pretrained(directory)
    prompt = theirs.apply_chat_template(
        [{"role": "user", "content": "So 2?"}], add_generation_prompt=True, tokenize=False
    )
    assert ids == theirs.encode(prompt + "<think>\n", add_special_tokens=False)
    tokens = (ids + [1] * 48)[:48]  # one length for all, compiled once
    network = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    with torch.no_grad():
        expected = network(torch.tensor([tokens])).logits[0].numpy()
    found = np.asarray(model(np.array([tokens], np.int32)))[0]
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("directory", ["template of parts", "chat_template.json"], indirect=True)
def test_templates_that_transformers_keeps_with_a_processor(directory):
    assert "<|user|>So 2?" in render_prompt(Vocabulary.load(directory), None, "So 2?")


@pytest.mark.parametrize("directory", ["template refuses the system turn"], indirect=True)
def test_a_system_turn_that_the_template_refuses(directory):
    with pytest.raises(
        UserError, match="System role not supported; leave out system_prompt, or put it into user_prompt"
    ):
        render_prompt(Vocabulary.load(directory), PromptSettings("Be brief."), "So 2?")


@pytest.mark.parametrize(
    "directory", ["token in special_tokens_map.json", "token in added_tokens.json"], indirect=True
)
def test_tokens_of_one_file(directory):
    (found,) = Vocabulary.load(directory).encode("<tool>")
    assert [found] == transformers.AutoTokenizer.from_pretrained(directory).encode(
        "<tool>", add_special_tokens=False
    )


@pytest.mark.parametrize("directory", ["pad token beyond the embedding"], indirect=True)
def test_a_token_without_a_row_is_text(directory):
    vocabulary = Vocabulary.load(directory)
    ids = vocabulary.encode("a[PAD]b")
    assert max(ids) < models.read_config(directory).vocab_size and vocabulary.text(ids) == "a[PAD]b"


def test_a_file_in_place_of_a_directory(tmp_path):
    for name, remedy in {
        "m.gguf": "launch.gguf_to_hf --gguf=",
        "model.safetensors": "give the directory that it lies in",
    }.items():
        (tmp_path / name).write_bytes(b"GGUF")
        for load in (models.read_config, Vocabulary.load):
            with pytest.raises((UserError, models.CheckpointError), match=remedy):
                load(tmp_path / name)
