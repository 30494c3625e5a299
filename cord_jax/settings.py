"""Settings: fields of a job's dataclass that carry their own help and limits.

    @configuration
    class SearchConfig:
        '''How to search.'''

        pool: Path | str = setting(help="TOML file of the pool")
        beam_width: int = setting(default=4, help="traces kept at every step", at_least=1)

        def __post_init__(self):
            check(self)

`check` refuses a value of another type or outside its limits with the one line that a wrong flag gives. `launch.flags_of`
makes the flags from the same fields, and `configuration` the docstring's list of attributes, so that nothing about a
setting is written twice. This module imports neither jax nor any library, so that flags are checked at once.
"""

import dataclasses
import math
import operator
import os
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cord_jax.errors import UserError

Config = typing.TypeVar("Config")

_KEY = "setting"
# Whole numbers end up in int32 arrays.
_LARGEST_INT = 2**31 - 1
_LONGEST_SHOWN = 60
_IS_ONE = {bool: "true or false", int: "a whole number", float: "a finite number", str: "a text"}


@dataclasses.dataclass(frozen=True)
class Setting:
    """All that is known of one setting besides its name, type and default.

    Attributes:
      help: its meaning and unit, a phrase without a full stop.
      choices: the allowed texts, with a phrase for each; or the texts alone.
      at_least, above, at_most, below: limits of a number.
      check: called with a value of the right type, raises `UserError` for a bad one (text with a syntax of its own).
      unset: the value that None stands for, or a function from the configuration to it. The annotation is that of the
        value: whoever works with a configuration works with the one that is `resolved`.
      changes_result: whether another value gives other results; a run is continued only under the same ones.
      flag: the flag's name, where it is not the field's.
      escapes: whether backslash and n in a flag's text stand for a new line.
    """

    help: str
    choices: Mapping[str, str] | Sequence[str] | None = None
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    check: Callable[[Any], object] | None = None
    unset: Any = None
    changes_result: bool = True
    flag: str | None = None
    escapes: bool = False

    @property
    def full_help(self) -> str:
        """The help, with the choices and their phrases."""
        if not isinstance(self.choices, Mapping):
            return self.help
        return f"{self.help}: " + "; ".join(f"{name}, {phrase}" for name, phrase in self.choices.items())


def setting(*, default: Any = dataclasses.MISSING, help: str, **limits: Any) -> Any:
    """A dataclass field that is a setting; without `default` it must be given. See `Setting` for the arguments."""
    return dataclasses.field(default=default, metadata={_KEY: Setting(help, **limits)})


@typing.dataclass_transform(frozen_default=True, field_specifiers=(setting,))
def configuration(cls: type[Config]) -> type[Config]:
    """Makes a frozen dataclass of a class whose fields are settings, and adds them to its docstring."""
    cls = dataclasses.dataclass(frozen=True)(cls)
    lines = [(cls.__doc__ or "").rstrip(), "", "    Attributes:"]
    for field in _fields(cls):
        lines.append(f"      {field.name}: {setting_of(field).full_help}.")
    cls.__doc__ = "\n".join(lines) + "\n    "
    return cls


def setting_of(field: dataclasses.Field) -> Setting:
    """The setting of a dataclass field."""
    return field.metadata[_KEY]


def flag_name(field: dataclasses.Field) -> str:
    """The name of a field's flag."""
    return setting_of(field).flag or field.name


def kinds(field: dataclasses.Field) -> tuple[Any, ...]:
    """The types that a field's annotation allows, None left out."""
    union = isinstance(field.type, types.UnionType)
    allowed = typing.get_args(field.type) if union else (field.type,)
    return tuple(kind for kind in allowed if kind is not types.NoneType)


def check(config: Any, *contradictions: Callable[[Any], None]) -> None:
    """Checks every setting of a configuration, then what they say together; to be called in `__post_init__`.

    Numbers become Python's own, paths `Path`s and sequences tuples.

    Args:
      contradictions: functions that raise `UserError` for values that exclude each other.

    Raises: `UserError` with one line that names the flag, its value and what it must be.
    """
    for field in _fields(config):
        value = _checked(field, getattr(config, field.name))
        object.__setattr__(config, field.name, value)
    for contradiction in contradictions:
        contradiction(config)


def resolved(config: Config) -> Config:
    """The configuration with a value for every setting that None was given for, where None stands for one.

    The result is not checked for contradictions again: it no longer tells what was given from what followed.
    """
    values = {field.name: getattr(config, field.name) for field in _fields(config)}
    for field in _fields(config):
        unset = setting_of(field).unset
        if values[field.name] is None and unset is not None:
            values[field.name] = unset(config) if callable(unset) else unset
    result = object.__new__(type(config))
    for name, value in values.items():
        object.__setattr__(result, name, value)
    return result


def recorded(config_class: type[Config], values: Mapping[str, Any]) -> Config:
    """The resolved configuration that a run has written down; what its values say together was checked when it was made.

    Args:
      values: by the names of fields; fields that are not there have their defaults.

    Raises: `UserError` for a value that the setting cannot have or that is missing, in a file that somebody has changed.
    """
    result = object.__new__(config_class)
    for field in _fields(config_class):
        value = values.get(field.name, field.default)
        if value is dataclasses.MISSING:
            raise UserError(
                f"config.json of the run: does not say --{flag_name(field)}; the file has been changed"
            )
        object.__setattr__(result, field.name, _checked(field, value))
    return resolved(result)


def deciding(config: Any) -> dict[str, Any]:
    """The settings that decide results, resolved: a run is continued only under the same."""
    return _part(config, True)


def free(config: Any) -> dict[str, Any]:
    """The settings that may change when a run is continued, but for the directory it lies in; lists held in memory
    are told by their length.
    """
    return {n: _in_words(value) for n, value in _part(config, False).items() if n != "output_dir"}


def show(value: Any) -> str:
    """A value as one short line of text, for a message."""
    try:
        text = (
            value if isinstance(value, str) else os.fspath(value) if isinstance(value, Path) else repr(value)
        )
    except Exception:  # a number of more digits than Python writes, or an object with a broken repr
        text = f"<{type(value).__name__}>"
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 3] + "..."


def refusal(name: str, value: Any, wanted: str) -> UserError:
    """The error for a setting: `--name=value: must be ...`."""
    return UserError(f"--{name}={show(value)}: must be {wanted}")


def _fields(config: Any) -> tuple[dataclasses.Field, ...]:
    return dataclasses.fields(config)


def _checked(field: dataclasses.Field, value: Any) -> Any:
    """The value in its normal form. Raises: `UserError`."""
    facts, name, allowed = setting_of(field), flag_name(field), kinds(field)
    if value is None and (facts.unset is not None or types.NoneType in typing.get_args(field.type)):
        return None
    if Path in allowed:
        if isinstance(value, (str, os.PathLike)):
            return _path(name, value)
        for kind in allowed:
            if kind not in (Path, str) and (held := _held(kind, value)) is not None:
                return held
        raise refusal(name, value, "a path" + "".join(f", or {_describe(k)}" for k in allowed[2:]))
    (kind,) = allowed
    converted = _scalar(kind, value)
    if converted is None:
        raise refusal(name, value, _IS_ONE[kind])
    if kind is str and facts.choices is not None and converted not in facts.choices:
        raise refusal(name, value, "one of " + ", ".join(facts.choices))
    if kind in (int, float):
        _check_limits(name, converted, facts)
    if facts.check is not None:
        facts.check(converted)
    return converted


def _scalar(kind: type, value: Any) -> Any:
    """The value as Python's own type; None if it is of another kind."""
    if kind is bool:
        return value if isinstance(value, bool) else None
    if kind is str:
        return value if isinstance(value, str) and _is_text(value) else None
    if kind is float:
        return number_of(value)
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def number_of(value: Any) -> float | None:
    """A finite number as Python's own; None for anything else, also for a whole number that is too large."""
    if isinstance(value, (bool, str, bytes)):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _is_text(value: str) -> bool:
    """Whether it can be written as UTF-8: no half of a surrogate pair."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_limits(name: str, value: float, facts: Setting) -> None:
    limits = [
        (facts.at_least, "at least", operator.ge),
        (facts.above, "above", operator.gt),
        (facts.at_most, "at most", operator.le),
        (facts.below, "below", operator.lt),
    ]
    given = [(limit, words, holds) for limit, words, holds in limits if limit is not None]
    if not all(holds(value, limit) for limit, _, holds in given):
        raise refusal(name, value, " and ".join(f"{words} {limit:g}" for limit, words, _ in given))
    if isinstance(value, int) and abs(value) > _LARGEST_INT:
        raise refusal(name, value, f"at most {_LARGEST_INT}" if value > 0 else f"at least {-_LARGEST_INT}")


# What file systems take; what is longer fails wherever it is first looked for.
_LONGEST_NAME, _LONGEST_PATH = 255, 4095


def _path(name: str, value: str | os.PathLike) -> Path:
    text = os.fspath(value)
    if not isinstance(text, str) or not text or "\0" in text or not _is_text(text):
        raise refusal(name, value, "a path")
    # A setting may name several directories, joined by commas.
    names, paths = re.split("[/,]", text), text.split(",")
    if max(map(_bytes, names)) > _LONGEST_NAME or max(map(_bytes, paths)) > _LONGEST_PATH:
        raise refusal(
            name, value, f"a path of names of at most {_LONGEST_NAME} bytes, {_LONGEST_PATH} together"
        )
    return Path(text)


def _bytes(text: str) -> int:
    return len(os.fsencode(text))


def _held(kind: Any, value: Any) -> Any:
    """The value, if it is one of `kind`, a class or a sequence of one; else None."""
    if typing.get_origin(kind) is None:
        return value if isinstance(value, kind) else None
    (element,) = typing.get_args(kind)
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)) or not value:
        return None
    element = typing.get_origin(element) or element
    return tuple(value) if all(isinstance(item, element) for item in value) else None


def _describe(kind: Any) -> str:
    if typing.get_origin(kind) is None:
        return f"a {kind.__name__}"
    (element,) = typing.get_args(kind)
    return f"a list of at least one {(typing.get_origin(element) or element).__name__}"


def _part(config: Any, changes_result: bool) -> dict[str, Any]:
    whole = resolved(config)
    return {
        field.name: getattr(whole, field.name)
        for field in _fields(config)
        if setting_of(field).changes_result is changes_result
    }


def _in_words(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return f"{len(value)} in memory"
    return "in memory" if dataclasses.is_dataclass(value) else value
