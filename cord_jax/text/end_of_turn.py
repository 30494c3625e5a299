"""The ids that end a turn: those that a checkpoint's files declare, and the one that its chat template writes."""

import logging
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from cord_jax.errors import UserError
from cord_jax.files import read_object
from cord_jax.settings import show
from cord_jax.text import templates
from cord_jax.text.tokenizer_files import MOST_IDS

_LOG = logging.getLogger(__name__)
# Texts that no template has, to find the turns by.
_QUESTION, _ANSWER = "QUESTION81", "ANSWER92"


def ids_that_end_a_turn(
    directory: Path, tokenizer: PreTrainedTokenizerFast, rows: int = MOST_IDS
) -> frozenset[int]:
    """The ids of generation_config.json, of config.json and the tokenizer's own, and what the template ends a turn with.

    Some checkpoints declare one token and are trained to end their turns with another; the latter is added, and the log
    says so. Declared ids that the tokenizer or, of `rows`, the embedding does not have are left out, which the log says,
    too.

    Raises: `UserError` if no id is left, or what is declared is no id.
    """
    defined = {i for i in tokenizer.get_vocab().values() if i < rows}
    declared = _declared(directory, tokenizer)
    if unknown := declared - defined:
        _LOG.warning(
            "%s: eos_token_id %s is no id of the tokenizer", directory, ", ".join(map(str, sorted(unknown)))
        )
    written = _written(directory, tokenizer)
    if written is not None and written not in defined:
        written = None
    if written is not None and written not in declared:
        _LOG.warning(
            "%s: the chat template ends turns with %s, which no file declares as EOS; texts end with it, too",
            directory,
            tokenizer.convert_ids_to_tokens(written),
        )
    ids = (declared & defined) | ({written} - {None})
    if not ids:
        raise UserError(f"{directory}: no token ends a turn; write eos_token_id into generation_config.json")
    return frozenset(ids)


def _declared(directory: Path, tokenizer: PreTrainedTokenizerFast) -> set[int]:
    values = [tokenizer.eos_token_id]
    for name in ("generation_config.json", "config.json"):
        if (directory / name).exists():
            value = read_object(directory / name).get("eos_token_id")
            values += value if isinstance(value, list) else [value]
    given = [value for value in values if value is not None]
    if not all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in given):
        raise UserError(
            f"{directory}: eos_token_id must be an id or a list of ids, not {show(sorted(map(str, given)))}"
        )
    return set(given)


def _written(directory: Path, tokenizer: PreTrainedTokenizerFast) -> int | None:
    """The special token that follows an answer in the chat template; None if there is no template, or no such token."""
    turns = [("user", _QUESTION), ("assistant", _ANSWER), ("user", _QUESTION)]
    messages = [{"role": role, "content": content} for role, content in turns]
    if not tokenizer.chat_template:
        return None
    try:
        text = templates.render(tokenizer.get_chat_template(), messages, tokenizer.special_tokens_map)
    except templates.TooMuchError as error:
        raise UserError(
            f"{templates.file_of(directory)}: the chat template cannot be rendered: {error}"
        ) from None
    except (templates.TemplateError, ValueError, TypeError):
        return None  # told when the template is needed
    if _QUESTION not in text:
        _LOG.warning("%s: the chat template leaves out what the user says", templates.file_of(directory))
    rest = text.rpartition(_ANSWER)[2].lstrip() if _ANSWER in text else ""
    special = {i: t.content for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    found = [i for i, content in special.items() if content and rest.startswith(content)]
    return max(found, key=lambda i: len(special[i]), default=None)
