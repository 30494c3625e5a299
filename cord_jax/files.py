"""Reading files: rows of JSON lines and JSON objects, the same for problems, training rows and what a run has written.

A file that cannot be used is refused in one line that names the file, the line and the reason. Beyond what JSON asks,
every row must be one that can be written again: so no NaN, no number beyond those of a computer, no half of a surrogate
pair, no name twice in an object, no nesting deeper than 100.
"""

import gzip
import json
import math
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cord_jax.errors import UserError

# Bytes of the longest line.
LONGEST_LINE = 1 << 28
DEEPEST = 100
_HINT = "give a file of one JSON object a line, plain or .gz"
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_OPENING = re.compile(rb"[\[{]")


class _BadValueError(ValueError):
    """A value that JSON allows and a row may not hold."""


def read_rows(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a file of JSON lines, plain or .gz, with the numbers of their lines from 1; blank lines are passed over.

    Raises: `UserError` with file, line and reason.
    """
    for number, line in read_lines(path):
        try:
            row = parse_row(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: {error}") from None
        yield number, row


def read_lines(path: str | Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file, plain or .gz, that are not blank, with their numbers from 1; a byte order mark is left out.

    Raises: `UserError` if the file cannot be read, is no regular file, or has a line longer than `LONGEST_LINE`.
    """
    from models.files import open_regular  # only now: it brings jax, which flags are checked without

    try:
        with open_regular(path) as file:
            opened = gzip.open(file) if Path(path).suffix == ".gz" else file
            number = 0
            while line := opened.readline(LONGEST_LINE):
                number += 1
                if len(line) == LONGEST_LINE:
                    raise ValueError(f"line {number} has {LONGEST_LINE} bytes or more")
                if number == 1 and line.startswith(b"\x1f\x8b"):
                    raise ValueError("is compressed by gzip; give it a name that ends in .gz")
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if line.strip():
                    yield number, line
    except (EOFError, zlib.error, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{path}: cannot be read ({reason}); {_HINT}") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}; {_HINT}") from None


def parse_row(line: bytes) -> dict[str, Any]:
    """The JSON object of one line. Raises: `ValueError` with the reason why there is none."""
    try:
        text = line.decode()
        row = json.loads(
            text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite_float
        )
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}; save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}; write one object a line") from None
    except _BadValueError:
        raise
    except ValueError:  # of Python, for a number of more digits than it reads
        raise ValueError("holds a whole number of thousands of digits") from None
    except RecursionError:
        raise ValueError("not JSON that can be read: nested too deeply") from None
    if not isinstance(row, dict):
        raise ValueError('not a JSON object; write one a line, as in {"id": ...}')
    if len(_OPENING.findall(line)) > DEEPEST and _depth(row) > DEEPEST:
        raise ValueError(f"not JSON that can be read: nested too deeply, beyond {DEEPEST}")
    if _SURROGATE.search(line):
        _refuse_surrogates(row)
    return row


def read_object(path: str | Path) -> dict[str, Any]:
    """The object of a JSON file. Raises: `UserError` with file and reason."""
    from models.errors import CheckpointError
    from models.files import read_json_object

    try:
        return read_json_object(path)
    except CheckpointError as error:
        raise UserError(str(error)) from None


def read_text(path: str | Path) -> str:
    """The content of a small text file in UTF-8. Raises: `UserError` with file and reason."""
    from models.files import read_regular

    try:
        return read_regular(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, whose names all differ."""
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _BadValueError(f'field "{twice[:40]}" stands twice in one object')
    return value


def _no_constant(text: str) -> Any:
    raise _BadValueError(f"holds {text}, which is not JSON; write null")


def _finite_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise _BadValueError(f"holds {text[:40]}, a number that is too large")
    return value


def _depth(value: Any) -> int:
    """How deeply lists and objects are nested."""
    depth, layer = 0, [value]
    while layer:
        depth += 1
        inner = [v for item in layer for v in (item.values() if isinstance(item, dict) else item)]
        layer = [v for v in inner if isinstance(v, (dict, list))]
    return depth


def _refuse_surrogates(row: dict[str, Any]) -> None:
    for name, value in row.items():
        try:
            json.dumps([name, value], ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError(
                f'field "{ascii(name)[1:-1][:40]}" has half of a surrogate pair (\\ud800-\\udfff), which is no text'
            ) from None
