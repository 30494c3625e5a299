"""Settings that make a prompt of a question: the same three for teachers, for a student and for its evaluation.

This module imports no library, so that settings are checked before anything is loaded.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cord_jax.errors import UserError
from cord_jax.files import read_object
from cord_jax.settings import refusal

QUESTION = "{question}"
FILE = "prompt.json"  # beside a student's generation_config.json

# Arguments that are the program's to give, or that are no template's.
_RESERVED = frozenset(
    "messages conversation tools documents add_generation_prompt continue_final_message tokenize padding truncation "
    "max_length return_tensors return_dict return_assistant_tokens_mask tokenizer_kwargs chat_template".split()
)
_IS_SCALAR = (str, int, float, bool)


@dataclasses.dataclass(frozen=True)
class PromptSettings:
    """The filling of a model's chat template.

    Attributes:
      system_prompt: the system turn; None leaves it to the template.
      user_prompt: the user turn, with `{question}` where the question goes, preceded by its context. Other braces are
        text.
      template_arguments: further variables of the template, (name, value) in the order of their names; a mapping is
        accepted. Templates are told `enable_thinking` true unless this says otherwise.
    """

    system_prompt: str | None = None
    user_prompt: str = QUESTION
    template_arguments: Mapping[str, Any] | tuple[tuple[str, Any], ...] = ()

    def __post_init__(self):
        """Raises: `UserError` for a value that is not what it must be."""
        if self.system_prompt is not None and not isinstance(self.system_prompt, str):
            raise UserError("system_prompt must be a text")
        if not isinstance(self.user_prompt, str) or QUESTION not in self.user_prompt:
            raise UserError(f"user_prompt must be a text with {QUESTION} where the question goes")
        arguments = dict(self.template_arguments)
        try:
            _check_arguments(arguments)
        except UserError as error:
            raise UserError(f"template_arguments: {error}") from None
        object.__setattr__(self, "template_arguments", tuple(sorted(arguments.items())))

    @property
    def arguments(self) -> dict[str, Any]:
        """The variables that templates get."""
        return {"enable_thinking": True} | dict(self.template_arguments)

    def user_turn(self, question: str, context: str | None = None) -> str:
        """The text of the user's turn: the question, after its context and a blank line, inside `user_prompt`."""
        return self.user_prompt.replace(QUESTION, f"{context}\n\n{question}" if context else question)

    def to_row(self) -> dict[str, Any]:
        """The JSON object of `prompt.json`."""
        return dataclasses.asdict(self) | {"template_arguments": dict(self.template_arguments)}


def check_user_prompt(text: str) -> None:
    """Raises: `UserError` if a flag's text is no user prompt."""
    if QUESTION not in text:
        raise refusal("user_prompt", text, f"a text with {QUESTION} where the question goes")


def parse_arguments(text: str) -> dict[str, Any]:
    """Reads template arguments from a flag's JSON object. Raises: `UserError`."""
    try:
        arguments = json.loads(text)
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise refusal(
            "template_arguments", text, 'a JSON object of names and values, as in {"thinking": true}'
        )
    try:
        _check_arguments(arguments)
    except UserError as error:
        raise refusal("template_arguments", text, f"arguments of a chat template: {error}") from None
    return arguments


def _check_arguments(arguments: Mapping[str, Any]) -> None:
    for name, value in arguments.items():
        if not isinstance(name, str) or not name.isidentifier() or name in _RESERVED:
            raise UserError(f"{ascii(name)[:40]} is no variable that a chat template can be given")
        if not isinstance(value, _IS_SCALAR):
            raise UserError(f"{name} must be a text, a number, true or false")


def read_prompt_file(model: str | Path) -> PromptSettings:
    """The settings that a checkpoint directory was trained with; the defaults if it has no `prompt.json`.

    Raises: `UserError` if the file is not what it must be.
    """
    path = Path(model) / FILE
    if not path.exists():
        return PromptSettings()
    row = read_object(path)
    try:
        return PromptSettings(**row)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (ValueError, TypeError) as error:
        names = ", ".join(field.name for field in dataclasses.fields(PromptSettings))
        raise UserError(f"{path}: must be a JSON object of {names} ({error})") from None


def choose(
    trained: PromptSettings,
    system_prompt: str | None,
    user_prompt: str | None,
    template_arguments: str | None,
) -> PromptSettings:
    """The settings that a model was trained with, with those that were asked for in their place."""
    return PromptSettings(
        trained.system_prompt if system_prompt is None else system_prompt,
        trained.user_prompt if user_prompt is None else user_prompt,
        trained.template_arguments
        if template_arguments is None
        else tuple(parse_arguments(template_arguments).items()),
    )
