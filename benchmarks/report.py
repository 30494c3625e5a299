"""What the benchmarks share: a table on the screen, and the same numbers as JSON."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from absl import flags


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


def save(result: dict, values: flags.FlagValues) -> None:
    """Writes `--output`, if asked; a benchmark of several parts does so after each."""
    if values.output:
        Path(values.output).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
