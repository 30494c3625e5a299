"""Flags made from the settings of a job's dataclass (`cord_jax.settings`), and the dataclass made from the flags."""

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

from absl import flags

from cord_jax import settings
from launch import common

Config = TypeVar("Config")


class _Number(flags.ArgumentParser):
    """Reads a number; what it may be is checked where the dataclass is made."""

    def __init__(self, kind: type):
        super().__init__()
        self.kind, self.words = kind, "a whole number" if kind is int else "a number"

    def parse(self, argument: Any) -> Any:
        """Raises: `ValueError` for text that is no number."""
        try:
            return self.kind(argument)
        except ValueError:
            raise ValueError(f"must be {self.words}") from None


def define(
    config_class: type, flag_values: flags.FlagValues, only: Sequence[str] | None = None, note: str = ""
) -> None:
    """Defines a flag for every setting of a configuration, in the order of its fields.

    Args:
      only: names of the fields to define flags for; None means all.
      note: stands before each help.
    """
    for field in _fields(config_class, only):
        _define(field, flag_values, note)


def values_of(
    config_class: type, flag_values: flags.FlagValues, only: Sequence[str] | None = None
) -> dict[str, Any]:
    """Field name -> value of its flag; None if it was not given and has a meaning of its own then."""
    values = {}
    for field in _fields(config_class, only):
        flag, facts = flag_values[settings.flag_name(field)], settings.setting_of(field)
        value = flag.value if flag.present or facts.unset is None else None
        values[field.name] = value.replace(r"\n", "\n") if facts.escapes and value is not None else value
    return values


def config_of(config_class: type[Config], flag_values: flags.FlagValues) -> Config:
    """The configuration that the flags describe. Raises: `UserError` for one that cannot be."""
    return config_class(**values_of(config_class, flag_values))


def _fields(config_class: type, only: Sequence[str] | None) -> list[dataclasses.Field]:
    return [field for field in dataclasses.fields(config_class) if only is None or field.name in only]


def _define(field: dataclasses.Field, flag_values: flags.FlagValues, note: str) -> None:
    name, facts, kinds = settings.flag_name(field), settings.setting_of(field), settings.kinds(field)
    text = note + facts.full_help
    if facts.choices is not None:
        text = f"<{'|'.join(facts.choices)}>: {text}"
    if field.default is dataclasses.MISSING:
        common.define_required(name, text, flag_values)
        return
    default = facts.unset if field.default is None and not callable(facts.unset) else field.default
    if bool in kinds:
        flags.DEFINE_bool(name, default, text, flag_values=flag_values)
    elif int in kinds or float in kinds:
        parser, serializer = _Number(kinds[0]), flags.ArgumentSerializer()
        flags.DEFINE(parser, name, default, text, flag_values=flag_values, serializer=serializer)
    else:
        default = default.replace("\n", r"\n") if facts.escapes and default is not None else default
        flags.DEFINE_string(name, default, text, flag_values=flag_values)
