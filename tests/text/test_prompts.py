"""Prompts: each family's own template, completed so that it opens the thinking once."""

import json

import pytest

from cord_jax.errors import UserError
from cord_jax.text import templates
from cord_jax.text.prompt_settings import PromptSettings, choose, parse_arguments, read_prompt_file
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
    prompt = render_prompt(vocabulary, PromptSettings(system_prompt), "How many?")
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
        ("</think>x", "</think>x<think>\n"),
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
        render_prompt(vocabulary, PromptSettings("Think."), "?")
    with pytest.raises(UserError, match="tokenizer_config.json: the chat template fails on a user turn"):
        render_prompt(with_template(tmp_path / "broken", "{% if %}"), None, "?")


HUNGRY = {
    "memory": "{{ 'a' * 10**10 }}",
    "digits": "{{ 10**(10**8) }}",
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% for k in range(9999) %}{% endfor %}{% endfor %}{% endfor %}",
    "output": "{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}",
    "nested": "{{ " + "(" * 5000 + ")" * 5000 + " }}",
}


@pytest.mark.parametrize("name", HUNGRY)
def test_a_template_that_asks_for_too_much(tmp_path, monkeypatch, name):
    """It ends in one line, and the next one is rendered."""
    monkeypatch.setattr(templates, "CPU_SECONDS", 1)
    templates._stop()
    with pytest.raises(UserError) as error:
        render_prompt(with_template(tmp_path / "hungry", HUNGRY[name]), None, "?")
    assert str(error.value).startswith(f"{tmp_path / 'hungry' / 'tokenizer_config.json'}: the chat template ")
    assert "\n" not in str(error.value)
    sound = with_template(tmp_path / "sound", "{{ messages[0].content }}")
    assert render_prompt(sound, None, "2?") == "2?<think>\n"
    templates._stop()


def test_one_process_renders_everything_and_is_replaced(tmp_path):
    vocabulary = with_template(tmp_path, "{{ messages[0].content }}|{{ eos_token }}")
    expected = vocabulary.tokenizer.apply_chat_template(
        [{"role": "user", "content": "\U0001f600 \u00e9"}], tokenize=False
    )
    assert render_prompt(vocabulary, None, "\U0001f600 \u00e9") == expected + "<think>\n"
    first = templates._worker.process
    assert render_prompt(vocabulary, None, "x" * 10**6).startswith("xxx")
    assert templates._worker.process is first
    first.kill()
    first.wait()
    assert render_prompt(vocabulary, None, "1?").startswith("1?|")
    assert templates._worker.process is not first


# How published templates of models with a switch end their generation prompt.
SWITCHES = {
    "qwen3": (
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
        "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
        "{% endif %}",
        "enable_thinking",
        "<|im_start|>assistant\n<think>\n",
    ),
    "deepseek-v3.1": (
        "{% if not thinking is defined %}{% set thinking = false %}{% endif %}"
        "{{ '<Assistant>' }}{% if thinking %}{{ '<think>' }}{% else %}{{ '</think>' }}{% endif %}",
        "thinking",
        "<Assistant><think>\n",
    ),
}


@pytest.mark.parametrize("name", SWITCHES)
def test_a_closed_thought_is_refused_and_the_switch_named(tmp_path, name):
    end, switch, opening = SWITCHES[name]
    vocabulary = with_template(tmp_path, "{{ messages[-1].content }}" + end)
    assert render_prompt(vocabulary, PromptSettings(template_arguments={switch: True}), "?") == "?" + opening
    with pytest.raises(UserError) as error:
        render_prompt(vocabulary, PromptSettings(template_arguments={switch: False}), "?")
    assert (
        f"closes the thought before the model can think (it ends in </think>); set {switch} to true"
        in str(error.value)
    )
    assert f"not {switch} = false" in str(error.value) and "\n" not in str(error.value)
    if switch == "enable_thinking":  # true unless it is said otherwise
        assert render_prompt(vocabulary, None, "?") == "?" + opening
    else:
        with pytest.raises(UserError, match="set thinking to true in template_arguments$"):
            render_prompt(vocabulary, None, "?")


def test_template_arguments_reach_the_template(tmp_path):
    template = (
        "{{ effort }}|{{ budget + 1 }}|{{ enable_thinking }}|{{ date_string }}|{{ messages[0].content }}"
    )
    vocabulary = with_template(tmp_path, template)
    settings = PromptSettings(template_arguments={"effort": "high", "budget": 2, "date_string": "today"})
    assert render_prompt(vocabulary, settings, "?") == "high|3|True|today|?<think>\n"


def test_user_prompt(load_real):
    settings = PromptSettings(user_prompt="Solve {x}:\n{question}\nAnswer in \\boxed{}. {{question}}")
    prompt = render_prompt(load_real("qwq-32b"), settings, "1 {question}?", "A {table}.")
    turn = "A {table}.\n\n1 {question}?"
    assert prompt == (
        f"<|im_start|>user\nSolve {{x}}:\n{turn}\nAnswer in \\boxed{{}}. {{{turn}}}<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n"
    )
    more = render_prompt(
        load_real("qwq-32b"), settings, "1 {question}?", "A {table}.", "\n\nMore: {question}"
    )
    assert more == prompt.replace("<|im_end|>", "\n\nMore: {question}<|im_end|>")


@pytest.mark.parametrize(
    "values, reason",
    [
        ({"user_prompt": "Solve it."}, "user_prompt must be a text with {question}"),
        ({"system_prompt": 1}, "system_prompt must be a text"),
        ({"template_arguments": {"messages": "x"}}, "'messages' is no variable"),
        ({"template_arguments": {"a b": "x"}}, "'a b' is no variable"),
        ({"template_arguments": {"a": [1]}}, "a must be a text, a number, true or false"),
    ],
)
def test_settings_that_cannot_be(values, reason):
    with pytest.raises(UserError) as error:
        PromptSettings(**values)
    assert reason in str(error.value)


def test_the_file_beside_a_model(tmp_path):
    assert read_prompt_file(tmp_path) == PromptSettings()
    settings = PromptSettings("Think.", "Q: {question}", {"b": 1, "a": True})
    (tmp_path / "prompt.json").write_text(json.dumps(settings.to_row()))
    assert read_prompt_file(tmp_path) == settings
    assert choose(settings, None, None, None) == settings
    assert choose(settings, "", "{question}", "{}") == PromptSettings("")
    for broken in ("[1]", "{", '{"user_prompt": "x"}', '{"unknown": 1}'):
        (tmp_path / "prompt.json").write_text(broken)
        with pytest.raises(UserError, match="prompt.json"):
            read_prompt_file(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": {}}', "true", "[" * 100_000])
def test_arguments_of_a_flag_that_cannot_be(text):
    with pytest.raises(UserError, match="--template_arguments="):
        parse_arguments(text)
