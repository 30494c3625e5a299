"""What the benchmarks share: a table on the screen, and the same numbers as JSON."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from absl import flags

from cord_jax.errors import UserError


def run(
    measure: Callable[[flags.FlagValues, Path], dict],
    table: Callable[[dict], str],
    values: flags.FlagValues,
) -> None:
    """Measures in a directory that is removed afterwards, prints the table, and writes `--output` if asked."""
    with tempfile.TemporaryDirectory() as scratch:
        result = measure(values, Path(scratch))
    print(table(result))
    save(result, values)


def numbers(values: flags.FlagValues, name: str) -> list[int]:
    """The value of a flag that is a list of positive numbers, as in "1,8"; empty for none.

    Raises: `UserError` if it is something else.
    """
    items = [item.strip() for item in values[name].value.split(",") if values[name].value]
    if not all(item.isascii() and item.isdigit() and int(item) > 0 for item in items):
        raise UserError(
            f"--{name}={values[name].value}: give positive numbers, as in --{name}={values[name].default}"
        )
    return [int(item) for item in items]


def save(result: dict, values: flags.FlagValues) -> None:
    """Writes `--output`, if asked; a benchmark of several parts does so after each."""
    if values.output:
        Path(values.output).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
