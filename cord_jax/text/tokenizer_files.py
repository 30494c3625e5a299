"""Loading the tokenizer of a checkpoint directory, and telling what its files say that does not come true."""

import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from cord_jax.errors import UserError
from cord_jax.files import read_object

# Tables have a place for every id up to the greatest; the largest vocabularies have some 260,000.
MOST_IDS = 1 << 22
THINK_START = "<think>"
# Tokens like [THINK], </seed:think>, <|begin_of_thought|>.
_MARK = re.compile(r"[^\w\s].*(?:think|thought).*[^\w\s]", re.IGNORECASE)
_LOG = logging.getLogger(__name__)


def load_tokenizer(directory: Path) -> PreTrainedTokenizerFast:
    """The tokenizer that `tokenizer.json` defines, from local files and without remote code.

    A chat template that stands in chat_template.json alone, where processors of multimodal models keep theirs, is taken.

    `AutoTokenizer` would build some families anew by its own rules, which gives other ids where a checkpoint departs from
    its family (a missing normalizer, say). Tokens that stand in `added_tokens.json` or `tokenizer_config.json` alone are
    added, as transformers does; one that gets another id than a file declares is logged.

    Raises: `UserError` if there is no tokenizer.json, or a file cannot be read.
    """
    if not os.path.exists(directory / "tokenizer.json"):
        raise UserError(f"{directory}: no tokenizer.json; {_how_to_get_one(directory)}")
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
    added = sorted((token.content for token in tokenizer.added_tokens_decoder.values()), key=len)
    _tell_of_other_marks(directory, [token for token in added if _MARK.fullmatch(token)])
    if not tokenizer.chat_template and (directory / "chat_template.json").exists():
        template = read_object(directory / "chat_template.json").get("chat_template")
        if not isinstance(template, str):
            raise UserError(f"{directory / 'chat_template.json'}: chat_template must be a text")
        tokenizer.chat_template = template
    return tokenizer


def _how_to_get_one(directory: Path) -> str:
    from models.checkpoint.remedies import no_checkpoint  # only now: it brings jax

    if not os.path.exists(directory / "config.json"):
        return f"expected a Hugging Face checkpoint directory{no_checkpoint(directory)}"
    if os.path.exists(directory / "tekken.json"):
        return "tekken.json is its makers' own format: take tokenizer.json from a release for transformers"
    needs = " (it needs the package sentencepiece)" if os.path.exists(directory / "tokenizer.model") else ""
    return f"write one with AutoTokenizer.from_pretrained(dir).save_pretrained(dir){needs}"


def _tell_of_other_marks(directory: Path, marks: Sequence[str]) -> None:
    """Logs that a model has tokens for its thoughts, but not those of the method (docs/method.md, sections 3.2 and 3.3)."""
    if marks and THINK_START not in marks:
        _LOG.warning(
            "%s: thinks between %s; here its thoughts are opened by <think> and end with </think>, which are text to it, "
            "and its own marks, where it writes them, stay in the trace and end nothing (docs/teachers.md)",
            directory,
            " and ".join(marks[:4]),
        )


def rows_of(directory: Path) -> int:
    """Rows of the embedding, as config.json declares them; `MOST_IDS` where it does not say."""
    if not (directory / "config.json").exists():
        return MOST_IDS
    config = read_object(directory / "config.json")
    inside = config.get("text_config")
    declared = config.get("vocab_size", inside.get("vocab_size") if isinstance(inside, dict) else None)
    whole = isinstance(declared, int) and not isinstance(declared, bool)
    return min(declared, MOST_IDS) if whole and declared > 0 else MOST_IDS


def without_rows(definition: dict[str, Any], rows: int, directory: Path) -> bool:
    """Takes added tokens that the embedding has no row for out of a tokenizer.json, in place; returns whether there were.

    They are such as `[PAD]`, which a file names and nobody ever trained; texts that spell one out are read as text.
    """
    kept = [token for token in definition["added_tokens"] if token["id"] < rows]
    beyond = [token["content"] for token in definition["added_tokens"] if token["id"] >= rows]
    if beyond:
        _LOG.warning(
            "%s: the embedding has no row for %s: read as text", directory, ", ".join(map(repr, beyond[:8]))
        )
        definition["added_tokens"] = kept
    return bool(beyond)


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
