"""Loading the tokenizer of a checkpoint directory, and telling what its files say that does not come true."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from cord_jax.errors import UserError
from cord_jax.files import read_object

# Tables have a place for every id up to the greatest; the largest vocabularies have some 260,000.
MOST_IDS = 1 << 22
_LOG = logging.getLogger(__name__)


def load_tokenizer(directory: Path) -> PreTrainedTokenizerFast:
    """The tokenizer that `tokenizer.json` defines, from local files and without remote code.

    `AutoTokenizer` would build some families anew by its own rules, which gives other ids where a checkpoint departs from
    its family (a missing normalizer, say). Tokens that stand in `added_tokens.json` or `tokenizer_config.json` alone are
    added, as transformers does; one that gets another id than a file declares is logged.

    Raises: `UserError` if there is no tokenizer.json, or a file cannot be read.
    """
    if not (directory / "tokenizer.json").exists():
        raise UserError(
            f"{directory}: no tokenizer.json; write one with "
            "AutoTokenizer.from_pretrained(dir).save_pretrained(dir)"
        )
    for file in directory.iterdir():
        if file.suffix in (".json", ".jinja", ".model", ".txt") and file.exists() and not file.is_file():
            raise UserError(f"{file}: is no file; remove it, or put the tokenizer's file in its place")
    definition = read_object(directory / "tokenizer.json")
    _refuse_large_ids(definition, directory)  # the library would count up to them
    declared = list(_declared_ids(definition, directory))
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(str(directory), local_files_only=True)
    except BaseException as error:  # The reader of tokenizer.json raises bare Exceptions, and panics.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{directory}: the tokenizer cannot be loaded: {reason}") from error
    known = tokenizer.get_vocab()
    other: dict[str, list[tuple[Any, Any]]] = {}
    for name, token, declared_id in declared:
        if known.get(token) != declared_id:
            other.setdefault(name, []).append((token, declared_id))
    for name, ((token, declared_id), *more) in other.items():
        _LOG.warning(
            "%s: declares %r as id %s; in the tokenizer it is %s%s",
            directory / name,
            token,
            declared_id,
            known.get(token),
            f" (and {len(more)} more)" if more else "",
        )
    if "[THINK]" in known and "<think>" not in known:
        _LOG.warning(
            "%s: thinks between [THINK] and [/THINK]; here its thoughts are opened by <think>, which is text to it",
            directory,
        )
    return tokenizer


def _refuse_large_ids(definition: dict[str, Any], directory: Path) -> None:
    model = definition.get("model")
    ids = model.get("vocab") if isinstance(model, dict) else None
    numbers = [i for i in ids.values() if isinstance(i, int)] if isinstance(ids, dict) else []
    if max(numbers, default=0) >= MOST_IDS:
        raise UserError(
            f"{directory}: the tokenizer has id {max(numbers)}; ids up to {MOST_IDS - 1} are supported"
        )


def _declared_ids(definition: dict[str, Any], directory: Path) -> Iterator[tuple[str, Any, Any]]:
    """(file, token, id) of every added token that a file declares; what is no such declaration is left to transformers."""
    for row in _list(definition.get("added_tokens")):
        if isinstance(row, dict):
            yield "tokenizer.json", str(row.get("content")), row.get("id")
    if (directory / "tokenizer_config.json").exists():
        rows = read_object(directory / "tokenizer_config.json").get("added_tokens_decoder")
        for number, row in rows.items() if isinstance(rows, dict) else ():
            if isinstance(row, dict) and number.isdecimal():
                yield "tokenizer_config.json", str(row.get("content")), int(number)
    if (directory / "added_tokens.json").exists():
        for token, number in read_object(directory / "added_tokens.json").items():
            yield "added_tokens.json", token, number


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
