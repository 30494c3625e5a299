"""Files of JSON lines that a run writes: whole lines only, rows that are there once."""

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cord_jax import files, storage
from cord_jax.errors import UserError
from cord_jax.typed_rows import is_of

_LOGGER = logging.getLogger(__name__)


class JsonLines:
    """A file of one JSON object a line that only grows, and whose lines are always complete.

    Opening it for the first time after a crash cuts off a torn last line. `append` returns when its rows are
    on the disk. Text is UTF-8, floats are finite, keys keep their order.
    """

    def __init__(self, path: Path):
        """Opens (or prepares to create) `path`; cuts off what follows the last newline."""
        self.path = Path(path)
        if self.path.exists():
            _cut_torn_line(self.path)

    def read(self, needs: Mapping[str, Any] = {}, once: Sequence[str] = ()) -> list[dict[str, Any]]:
        """All rows, in the order they were written; arguments and errors as of `read_lines`."""
        return list(read_lines(self.path, needs, once)) if self.path.exists() else []

    def append(self, *rows: Mapping[str, Any]) -> None:
        """Writes `rows` behind the others and waits for the disk. Rows of one call go out in one write."""
        if not rows:
            return
        content = _encode_lines(rows)
        with storage.stored(self.path), storage.open_to_write(self.path, os.O_APPEND) as file:
            storage.append(file, content)

    def rewrite(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Replaces the whole file atomically, to drop rows of something that never finished."""
        storage.write_atomically(self.path, _encode_lines(rows))


def read_lines(
    path: Path, needs: Mapping[str, Any] = {}, once: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
    """The rows of a file that a run writes, one after another; a last line without its end is passed over.

    Args:
      needs: fields that every row must have, with their types; those that may be null need not be there.
      once: of them, those that tell rows apart. A row that stands there a second time is passed over, which is told at
        the end.

    Raises: `UserError` that names a line which is not a JSON object, or lacks a field.
    """
    seen: set[tuple] = set()
    doubled = 0
    for number, line in files.read_lines(path):
        if not line.endswith(b"\n"):
            break
        try:
            row = files.parse_row(line)
        except ValueError as error:
            raise _damaged(path, number, str(error)) from None
        for name, kind in needs.items():
            if not is_of(row.get(name), kind):
                raise _damaged(path, number, f'field "{name}" is missing or of another type')
        if once:
            key = tuple(row[field] for field in once)
            if key in seen:
                doubled += 1
                continue
            seen.add(key)
        yield row
    if doubled:
        _LOGGER.warning("%s: %d rows stand there twice; one of each counts", path, doubled)


def _cut_torn_line(path: Path) -> None:
    with storage.open_to_write(path) as file:
        end = file.seek(0, os.SEEK_END)
        position = end
        while position > 0:
            start = max(0, position - 2**16)
            file.seek(start)
            newline = file.read(position - start).rfind(b"\n")
            if newline >= 0:
                position = start + newline + 1
                break
            position = start
        if position < end:
            file.truncate(position)
            os.fsync(file.fileno())


def _damaged(path: Path, number: int, reason: str) -> UserError:
    return UserError(
        f"{path}, line {number}: damaged ({reason}); remove that line or start a new output directory"
    )


def _encode_lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n" for row in rows)
