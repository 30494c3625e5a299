"""Rows of JSON with the types that a dataclass gives its fields, before one is made of them."""

import functools
import typing
from collections.abc import Mapping, Sequence
from typing import Any

_PLAIN = {str, int, float, bool, type(None)}
_LARGEST = 2**31 - 1
_LARGEST_FLOAT = 3.4028235e38  # float32's, as which scores are computed: sums of such do not overflow


@functools.cache
def _kinds(record: type) -> dict[str, tuple[type, ...]]:
    """The types that the fields of a dataclass may have; only of fields of plain types."""
    hints = typing.get_type_hints(record)
    kinds = {name: typing.get_args(hint) or (hint,) for name, hint in hints.items()}
    return {name: held for name, held in kinds.items() if _PLAIN.issuperset(held)}


def checked(record: type, row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row. Whole numbers are counts or places, of 0 to 2**31 - 1, and do for fractions, which are in float32's range.

    Raises: `TypeError` for a field whose value is not of the type of the dataclass's.
    """
    for name, kinds in _kinds(record).items():
        if name in row and not _fits(row[name], kinds):
            raise TypeError(f'field "{name}" is of another type or out of range')
    return row


def _fits(value: Any, kinds: tuple[type, ...]) -> bool:
    if type(value) is float:
        return float in kinds and abs(value) <= _LARGEST_FLOAT
    if type(value) is not int:
        return type(value) in kinds
    return 0 <= value <= _LARGEST if int in kinds else float in kinds and abs(value) <= _LARGEST


def is_of(value: Any, kind: Any) -> bool:
    """Whether a value of JSON is of a type, or of one of a union or tuple of types.

    True and false are no numbers, nor is what lies beyond float32's range.
    """
    kinds = kind if isinstance(kind, tuple) else typing.get_args(kind) or (kind,)
    if isinstance(value, int | float) and not abs(value) <= _LARGEST_FLOAT:
        return False
    return isinstance(value, kind) and (not isinstance(value, bool) or bool in kinds)


def objects(value: Any) -> Sequence[Mapping[str, Any]]:
    """A list of objects. Raises: `TypeError` for anything else."""
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise TypeError("expected a list of objects")
    return value


def named_objects(value: Any) -> Mapping[str, Mapping[str, Any]]:
    """An object of objects. Raises: `TypeError` for anything else."""
    if not isinstance(value, Mapping) or not all(isinstance(item, Mapping) for item in value.values()):
        raise TypeError("expected an object of objects")
    return value
