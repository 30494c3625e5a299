"""Reading files that others wrote: regular files only, JSON without surprises, fields with types and ranges.

Every function raises `ValueError` with the reason alone, or `CheckpointError` where it knows the file.
"""

import dataclasses
import json
import math
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from models.errors import CheckpointError

# Bytes of the largest file that is read whole: vocabularies take a few tens of MB.
LARGEST_FILE = 1 << 30
_LONGEST_SHOWN = 60
_LARGEST_INT = 2**31 - 1


def open_regular(path: str | Path) -> IO[bytes]:
    """Opens a file for reading in binary; a pipe, a device or a directory is refused instead of waited for.

    Raises:
      ValueError: the reason why it cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise ValueError(f"is {_kind(mode)}, not a file")
    return os.fdopen(descriptor, "rb")


def read_regular(path: str | Path) -> bytes:
    """The content of a regular file of at most `LARGEST_FILE` bytes. Raises: `ValueError` with the reason."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > LARGEST_FILE:
            raise ValueError(f"has {size} bytes; at most {LARGEST_FILE} are read")
        try:
            return file.read()
        except OSError as error:
            raise ValueError(f"cannot be read ({error.strerror})") from None


def decode_json(data: bytes) -> Any:
    """The value of a JSON text in UTF-8, a byte order mark before it allowed. Raises: `ValueError` with the reason."""
    try:
        return json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        if not data.strip():
            raise ValueError("is empty") from None
        raise ValueError(f"not JSON ({error.msg} at line {error.lineno}, column {error.colno})") from None
    except ValueError:  # a number of more digits than Python reads
        raise ValueError("holds a number of thousands of digits") from None
    except RecursionError:
        raise ValueError("not JSON that can be read: nested too deeply") from None


def read_json_object(path: str | Path) -> dict[str, Any]:
    """The object of a JSON file.

    Raises:
      CheckpointError: one line with the file and the reason.
    """
    try:
        value = decode_json(read_regular(path))
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {show(value)}")
    return value


def show(value: Any) -> str:
    """A JSON value as one short line."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        text = type(value).__name__
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 3] + "..."


@dataclasses.dataclass(frozen=True)
class Fields:
    """An object of a JSON file, whose fields are read with types and ranges.

    An absent field or null is the default; without one it is an error. All methods raise `CheckpointError` with one
    line: the object, the field, what was expected and what was found.

    Attributes:
      where: the object, as messages name it.
      values: the parsed object.
      defaults: values of absent fields, where a call names none.
    """

    where: str
    values: Mapping[str, Any]
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if not isinstance(self.values, Mapping):
            raise CheckpointError(f"{self.where}: expected an object, found {show(self.values)}")

    def with_defaults(self, defaults: Mapping[str, Any]) -> "Fields":
        """The same object with values for absent fields."""
        return dataclasses.replace(self, defaults=defaults)

    def has(self, name: str) -> bool:
        """Whether the field is given and not null."""
        return self.values.get(name) is not None

    def integer(
        self, name: str, default: int | None = None, at_least: int = 1, at_most: int = _LARGEST_INT
    ) -> int:
        """A whole number; one that is written as 8.0 counts."""
        value = self._value(name, default, f"a whole number of {at_least} to {at_most}")
        return self._integer(name, value, at_least, at_most)

    def number(
        self, name: str, default: float | None = None, above: float = 0.0, at_most: float = 1e30
    ) -> float:
        """A finite number."""
        expected = f"a number above {above:g} and at most {at_most:g}"
        value = self._value(name, default, expected)
        if not _is_number(value) or not above < value <= at_most:
            raise self._wrong(name, expected, value)
        return float(value)

    def boolean(self, name: str, default: bool = False) -> bool:
        """True or false; numbers and texts are neither."""
        value = self._value(name, default, "true or false")
        if not isinstance(value, bool):
            raise self._wrong(name, "true or false", value)
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """A text."""
        value = self._value(name, default, "a text")
        if not isinstance(value, str):
            raise self._wrong(name, "a text", value)
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts; empty where the field is absent."""
        value = self._list(name, "a list of texts")
        if not all(isinstance(item, str) for item in value):
            raise self._wrong(name, "a list of texts", value)
        return tuple(value)

    def integers(self, name: str, at_least: int = 0, at_most: int = _LARGEST_INT) -> tuple[int, ...]:
        """A list of whole numbers; empty where the field is absent."""
        value = self._list(name, "a list of whole numbers")
        return tuple(self._integer(name, item, at_least, at_most) for item in value)

    def numbers(self, name: str) -> tuple[float, ...]:
        """A list of finite numbers above 0; empty where the field is absent."""
        value = self._list(name, "a list of numbers above 0")
        if not all(_is_number(item) and 0 < item < 1e30 for item in value):
            raise self._wrong(name, "a list of numbers above 0", value)
        return tuple(map(float, value))

    def section(self, name: str) -> "Fields":
        """An object within the object; an empty one where the field is absent."""
        value = self.values.get(name)
        return Fields(f"{self.where}: {name}", {} if value is None else value)

    def _value(self, name: str, default: Any, expected: str) -> Any:
        value = self.values.get(name)
        if value is None:
            value = self.defaults.get(name) if default is None else default
        if value is None:
            raise CheckpointError(f"{self.where}: field {name!r} is missing; it must be {expected}")
        return value

    def _integer(self, name: str, value: Any, at_least: int, at_most: int) -> int:
        whole = _is_number(value) and value == math.floor(value)
        if not whole or not at_least <= value <= at_most:
            raise self._wrong(name, f"a whole number of {at_least} to {at_most}", value)
        return int(value)

    def _list(self, name: str, expected: str) -> Sequence[Any]:
        value = self.values.get(name)
        if value is not None and not isinstance(value, (list, tuple)):
            raise self._wrong(name, expected, value)
        return () if value is None else value

    def _wrong(self, name: str, expected: str, value: Any) -> CheckpointError:
        return CheckpointError(f"{self.where}: field {name!r} must be {expected}, found {show(value)}")


def _is_number(value: Any) -> bool:
    """Whether it is a finite number; true and false are none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return isinstance(value, int) or math.isfinite(value)


def _kind(mode: int) -> str:
    """The kind of a directory entry, in words."""
    kinds = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a pipe (FIFO)", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")
