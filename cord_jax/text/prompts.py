"""A model's prompt: its own chat template, completed so that it opens the thinking (design, section 3.2)."""

import datetime
from collections.abc import Mapping, Sequence

from cord_jax.errors import UserError
from cord_jax.problems import Problem
from cord_jax.text.vocabulary import Vocabulary

THINK_START = "<think>"

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
    vocabulary: Vocabulary, system_prompt: str | None, question: str, context: str | None = None
) -> str:
    """The text that a model is prompted with; it ends in `<think>` and one newline.

    It carries the special tokens that the template writes, so it is encoded without adding any
    (`Vocabulary.encode_prompt`), and it is not normalised.

    Args:
      vocabulary: of the model whose chat template is used.
      system_prompt: the system turn; None leaves it to the template.
      question: the user turn.
      context: text that precedes the question in the user turn, followed by a blank line.

    Raises:
      UserError: the tokenizer has no chat template, or the template refuses these turns.
    """
    messages = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
    messages.append({"role": "user", "content": f"{context}\n\n{question}" if context else question})
    return open_thinking(render_messages(vocabulary, messages))


def encode_prompts(
    vocabulary: Vocabulary, system_prompt: str | None, problems: Sequence[Problem]
) -> list[list[int]]:
    """Each problem's prompt (`render_prompt`) as token ids."""
    return [
        vocabulary.encode_prompt(render_prompt(vocabulary, system_prompt, problem.question, problem.context))
        for problem in problems
    ]


def render_messages(vocabulary: Vocabulary, messages: Sequence[Mapping[str, str]]) -> str:
    """The model's chat template over turns of `role` and `content`, up to where the assistant begins to
    write.

    Raises:
      UserError: the tokenizer has no chat template, or the template refuses these turns.
    """
    tokenizer = vocabulary.tokenizer
    if not tokenizer.chat_template:
        raise UserError(
            f"{vocabulary.directory}: the tokenizer has no chat template; "
            "add chat_template.jinja, or chat_template to tokenizer_config.json"
        )
    try:
        template = tokenizer.get_chat_template()
        return tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            chat_template=_fixed_clock() + template if "strftime_now" in template else template,
            tokenize=False,
            add_generation_prompt=True,
            date_string=TEMPLATE_DATE.strftime("%d %b %Y"),
        )
    except Exception as error:  # A template is a program of the checkpoint's author: it may raise anything.
        reason = " ".join(str(error).split()) or type(error).__name__
        turns = " and ".join(
            f"a {role} turn" for role in dict.fromkeys(message["role"] for message in messages)
        )
        raise UserError(f"{vocabulary.directory}: the chat template fails on {turns}: {reason}") from error


def open_thinking(rendered: str) -> str:
    """A rendered template, completed so that it ends in `<think>` and one newline exactly once."""
    opened = rendered.rstrip()
    return opened + "\n" if opened.endswith(THINK_START) else rendered + THINK_START + "\n"
