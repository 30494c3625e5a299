"""A model's prompt: its own chat template, completed so that it opens the thinking (docs/method.md, section 3.2)."""

import datetime
import json
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from cord_jax.errors import UserError
from cord_jax.problems import Problem
from cord_jax.text import templates
from cord_jax.text.prompt_settings import PromptSettings
from cord_jax.text.vocabulary import Vocabulary

THINK_START = "<think>"
THINK_END = "</think>"

# Some templates write today's date into the system turn. It is fixed to the day that Llama 3.1's template
# names when it is given none, so that a trace does not depend on the day it is made.
TEMPLATE_DATE = datetime.datetime(2024, 7, 26)


def _fixed_clock() -> str:
    """A Jinja macro in place of the clock `strftime_now`: a template can be handed data, but no functions."""
    replaced = "".join(
        f"|replace('%{directive}', '{TEMPLATE_DATE.strftime('%' + directive)}')"
        for directive in ("a", "A", "b", "B", "-d", "d", "-m", "m", "y", "Y", "j", "H", "I", "M", "S", "p")
    )
    # The empty expression keeps a newline with which the template may begin: after a tag it would be dropped.
    return "{% macro strftime_now(format) %}{{ format" + replaced + " }}{% endmacro %}{{ '' }}"


def render_prompt(
    vocabulary: Vocabulary,
    settings: PromptSettings | None,
    question: str,
    context: str | None = None,
    more: str = "",
) -> str:
    """The text that a model is prompted with; it ends in `<think>` and one newline.

    It carries the special tokens that the template writes, so it is encoded without adding any
    (`Vocabulary.encode_prompt`), and it is not normalised.

    Args:
      vocabulary: of the model whose chat template is used.
      settings: how the template is filled in; None is the default of everything.
      question, context: of the user turn (`PromptSettings.user_turn`).
      more: what follows them in the user turn.

    Raises:
      UserError: the tokenizer has no chat template, or the template refuses these turns or closes the thought.
    """
    settings = settings or PromptSettings()
    messages = (
        [] if settings.system_prompt is None else [{"role": "system", "content": settings.system_prompt}]
    )
    messages.append({"role": "user", "content": settings.user_turn(question, context) + more})
    rendered = render_messages(vocabulary, messages, settings.arguments)
    return open_thinking(rendered, vocabulary, settings.arguments)


def encode_prompts(
    vocabulary: Vocabulary,
    settings: PromptSettings | None,
    problems: Sequence[Problem],
    more: Mapping[str, str] = MappingProxyType({}),
) -> list[list[int]]:
    """Each problem's prompt (`render_prompt`) as token ids.

    Args:
      more: what follows the question in the user turn, by problem id.
    """
    rendered = [
        render_prompt(vocabulary, settings, problem.question, problem.context, more.get(problem.id, ""))
        for problem in problems
    ]
    return [vocabulary.encode_prompt(text) for text in rendered]


def render_messages(
    vocabulary: Vocabulary, messages: Sequence[Mapping[str, str]], arguments: Mapping[str, Any]
) -> str:
    """The model's chat template over turns of `role` and `content`, up to where the assistant begins to write.

    Args:
      arguments: further variables of the template (`PromptSettings.arguments`).

    Raises:
      UserError: the tokenizer has no chat template, or the template refuses these turns.
    """
    tokenizer = vocabulary.tokenizer
    if not tokenizer.chat_template:
        raise UserError(
            f"{vocabulary.directory}: the tokenizer has no chat template; "
            "add chat_template.jinja, or chat_template to tokenizer_config.json"
        )
    if isinstance(tokenizer.chat_template, dict) and "default" not in tokenizer.chat_template:
        raise UserError(
            f"{vocabulary.directory}: has chat templates for {', '.join(sorted(tokenizer.chat_template))}, and none is the "
            "default; put the one for plain turns into chat_template.jinja"
        )
    date = {"date_string": TEMPLATE_DATE.strftime("%d %b %Y")}
    try:
        template = tokenizer.get_chat_template()
        return templates.render(
            _fixed_clock() + template if "strftime_now" in template else template,
            messages,
            {**tokenizer.special_tokens_map, **date, **arguments},
        )
    except (templates.TemplateError, ValueError, TypeError) as error:
        turns = " and ".join(
            f"a {role} turn" for role in dict.fromkeys(message["role"] for message in messages)
        )
        hint = "; leave out system_prompt, or put it into user_prompt" if "system" in turns else ""
        raise UserError(
            f"{templates.file_of(vocabulary.directory)}: the chat template fails on {turns}: "
            f"{' '.join(str(error).split())}{hint}"
        ) from None


def open_thinking(rendered: str, vocabulary: Vocabulary, arguments: Mapping[str, Any]) -> str:
    """A rendered template, completed so that it ends in `<think>` and one newline exactly once.

    Raises: `UserError` that names the template's switch if it ends in a closed thought: this template was told not to
      think.
    """
    opened = rendered.rstrip()
    if opened.endswith(THINK_END):
        raise UserError(
            f"{vocabulary.directory}: the chat template closes the thought before the model can think (it ends in "
            f"{THINK_END}); {_how_to_think(vocabulary.tokenizer.get_chat_template(), arguments)}"
        )
    return opened + "\n" if opened.endswith(THINK_START) else rendered + THINK_START + "\n"


def _how_to_think(template: str, arguments: Mapping[str, Any]) -> str:
    """The advice to set the template's switch, by the variables that it tests and whose name speaks of thinking."""
    code = " ".join(re.findall(r"\{[%{]((?:(?![%}]\}|\{[%{]).)*)[%}]\}", template, re.DOTALL))
    code = re.sub(r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"", " ", code)
    names = [name for name in dict.fromkeys(re.findall(r"(?<![.\w])[a-z_]*think[a-z_]*", code))]
    unset = [name for name in names if arguments.get(name) is not True] or names or ["enable_thinking"]
    given = ", ".join(f"{name} = {json.dumps(arguments[name])}" for name in unset if name in arguments)
    return f"set {' or '.join(unset)} to true in template_arguments" + (f", not {given}" if given else "")
