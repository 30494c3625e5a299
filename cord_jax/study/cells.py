"""The results of the study: a small JSON file for each arm and seed, and the locks by which processes share the work.

A cell is written in one move when it is finished and never changed. It says what it is the result of; one of another
definition (an arm, a size or a member has changed) is refused. Nothing else is needed to continue a study or to show it.
"""

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cord_jax.errors import UserError
from cord_jax.storage import write_atomically

Definition = Mapping[str, Any]


def cell_path(directory: Path, arm: str, seed: int) -> Path:
    """The file of a cell."""
    return directory / "cells" / f"{arm}.seed_{seed}.json"


def rows_path(arm: str, directory: Path, seed: int) -> Path:
    """The file of an arm's traces, which students learn from."""
    return directory / "rows" / f"{arm}.seed_{seed}.jsonl.gz"


def read_cell(directory: Path, arm: str, seed: int, definition: Definition) -> dict[str, Any] | None:
    """The results of a cell; None if it is not there.

    Raises: `UserError` if it cannot be read, or is the result of another definition.
    """
    path = cell_path(directory, arm, seed)
    try:
        cell = json.loads(path.read_text(encoding="utf-8"))
        held, results = cell["definition"], cell["results"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: is no result of a study ({error}); remove it") from None
    wanted = json.loads(json.dumps(definition))
    if held != wanted:
        names = [name for name in {**wanted, **held} if held.get(name) != wanted.get(name)]
        raise UserError(
            f"{path}: holds another arm or study of that name ({', '.join(names)} differ); remove it, or choose another "
            "output directory"
        )
    return results


def write_cell(
    directory: Path, arm: str, seed: int, definition: Definition, results: Mapping[str, Any]
) -> None:
    """Writes a finished cell, in one move."""
    path = cell_path(directory, arm, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    cell = {"arm": arm, "seed": seed, "definition": definition, "results": results}
    write_atomically(path, json.dumps(cell, separators=(",", ":")) + "\n")


@contextmanager
def claimed(directory: Path, task: str, *, wait: bool = False) -> Iterator[bool]:
    """Yields whether this process, and no other one, may do a task now; a process that dies lets go of it.

    Args:
        wait: for the process that has it, instead of giving up.
    """
    path = directory / f"{task}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
