"""Prompts: each family's own template, completed so that it opens the thinking once."""

import json

import pytest

from cord_jax.errors import UserError
from cord_jax.text.prompts import render_prompt
from cord_jax.text.vocabulary import Vocabulary
from tests.reference import text as reference

from . import small

# What each template writes before the assistant's turn, and after the user's, by the published templates.
OPENINGS = {
    "qwen2.5": "<|im_end|>\n<|im_start|>assistant\n<think>\n",
    "qwq-32b": "<|im_end|>\n<|im_start|>assistant\n<think>\n",
    "deepseek-r1-distill-qwen": "<\uff5cAssistant\uff5c><think>\n",
    "deepseek-r1": "<\uff5cAssistant\uff5c><think>\n",
    "llama-3.1": "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n<think>\n",
    "phi-4": "<|im_end|><|im_start|>assistant<|im_sep|><think>\n",
    "phi-3": "<|end|>\n<|assistant|>\n<think>\n",
}


@pytest.mark.parametrize("name", OPENINGS)
@pytest.mark.parametrize("system_prompt", [None, "Think step by step.", ""])
def test_endings(load_real, name, system_prompt):
    vocabulary = load_real(name)
    prompt = render_prompt(vocabulary, system_prompt, "How many?")
    assert prompt.endswith("How many?" + OPENINGS[name])
    assert prompt.count("<think>") == 1
    assert ("Think step by step." in prompt) == bool(system_prompt)
    messages = [{"role": "user", "content": "How many?"}]
    if system_prompt is not None:
        messages.insert(0, {"role": "system", "content": system_prompt})
    rendered = vocabulary.tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, date_string="26 Jul 2024"
    )
    assert prompt == reference.open_thinking(rendered)


def test_what_templates_do_by_themselves(load_real):
    assert render_prompt(load_real("qwen2.5"), None, "?").startswith(
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
    )
    assert render_prompt(load_real("qwq-32b"), None, "?").startswith("<|im_start|>user\n?")
    assert "Today Date: 26 Jul 2024" in render_prompt(load_real("llama-3.1"), None, "?")


def test_context_and_a_blank_line_precede_the_question(load_real):
    prompt = render_prompt(load_real("qwq-32b"), None, "How many?", "A table.\n|a|")
    assert (
        prompt == "<|im_start|>user\nA table.\n|a|\n\nHow many?<|im_end|>\n<|im_start|>assistant\n<think>\n"
    )
    assert render_prompt(load_real("qwq-32b"), None, "?", "") == render_prompt(
        load_real("qwq-32b"), None, "?"
    )


def test_the_prompt_is_not_normalised(load_real):
    assert "e\u0301" in render_prompt(load_real("deepseek-r1"), None, "e\u0301?")


def test_special_tokens_are_the_templates_only(load_real):
    vocabulary = load_real("llama-3.1")
    ids = vocabulary.encode_prompt(render_prompt(vocabulary, None, "How many?"))
    assert ids.count(128000) == 1 and ids[0] == 128000
    phi = load_real("phi-3")
    ids = phi.encode_prompt(render_prompt(phi, None, "How many?"))
    assert ids[:2] == [32010, 1128]  # the turn, and " How": within a prompt the dummy prefix stays


def with_template(directory, template):
    return Vocabulary.load(
        small.save(directory, small.byte_level(), tokenizer_config={"chat_template": template})
    )


@pytest.mark.parametrize(
    "end, completed",
    [
        ("", "<think>\n"),
        ("\n", "\n<think>\n"),
        ("<think>", "<think>\n"),
        ("<think>\n", "<think>\n"),
        ("<think>\n\n", "<think>\n"),
        ("<think> \t\n", "<think>\n"),
        ("<think>x", "<think>x<think>\n"),
        ("</think>\n", "</think>\n<think>\n"),
        ("\n<think>", "\n<think>\n"),
    ],
)
def test_the_thinking_is_opened_once(tmp_path, end, completed):
    template = (
        "{{ messages[0].content }}|{% if add_generation_prompt %}{{ " + json.dumps(end) + " }}{% endif %}"
    )
    assert render_prompt(with_template(tmp_path, template), None, "?") == "?|" + completed


def test_dates_do_not_depend_on_the_day(tmp_path):
    template = (
        "\n{% macro today() %}{{ strftime_now('%-d %B %Y') }}{% endmacro %}"
        "{% if strftime_now is defined %}{{ strftime_now('%Y-%m-%d %H:%M') }}{% endif %}"
        "|{{ today() }}|{{ date_string }}"
    )
    prompt = render_prompt(with_template(tmp_path, template), None, "?")
    assert prompt == "\n2024-07-26 00:00|26 July 2024|26 Jul 2024<think>\n"


def test_templates_that_fail(tmp_path):
    with pytest.raises(UserError) as error:
        render_prompt(Vocabulary.load(small.save(tmp_path / "none", small.byte_level())), None, "?")
    assert str(error.value).startswith(f"{tmp_path / 'none'}: the tokenizer has no chat template")
    refuses = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role\n not supported') }}{% endif %}"
        "{{ messages[0].content }}"
    )
    vocabulary = with_template(tmp_path / "refuses", refuses)
    assert render_prompt(vocabulary, None, "?") == "?<think>\n"
    with pytest.raises(UserError, match="fails on a system turn and a user turn: System role not supported"):
        render_prompt(vocabulary, "Think.", "?")
    with pytest.raises(UserError, match="broken: the chat template fails on a user turn"):
        render_prompt(with_template(tmp_path / "broken", "{% if %}"), None, "?")
