"""Saved states of a run, by orbax: written in the background, readable on another number of devices.

Beside each finished state lies a list of its files' checksums, so that bytes which a disk has changed are noticed.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from cord_jax.errors import UserError
from cord_jax.storage import storage_problem, write_atomically
from cord_jax.student.step import TrainState

CHECKSUMS = "checksums"
_ABSL = logging.getLogger("absl")  # orbax's
_UNFINISHED = ".orbax-checkpoint-tmp"


def has_states(directory: Path) -> bool:
    """Whether there is a saved state under a directory, which need not be there."""
    return directory.is_dir() and any(path.name.isdigit() for path in directory.iterdir())


class Checkpoints:
    """The saved states under a directory. As a context manager, it waits for the last save at its end."""

    def __init__(self, directory: Path, *, every: int, keep: int, log: Callable[[str], None]):
        """Opens the directory, and removes what a killed process left unfinished there.

        Args:
          directory: made if absent.
          every: `save` writes steps that this divides; 0: only those that are forced.
          keep: number of the latest states that are kept.
          log: is told of states that could not be saved although nothing needs them any more.
        """
        self._log, self._directory = log, directory.absolute()
        self._checksums = self._directory.with_name(CHECKSUMS)
        policies = [ocp.training.save_decision_policies.FixedIntervalPolicy(every)] if every else []
        self._checkpointer = ocp.training.Checkpointer(
            directory.absolute(),
            save_decision_policy=ocp.training.save_decision_policies.AnySavePolicy(policies),
            preservation_policy=ocp.training.preservation_policies.LatestN(keep),
            cleanup_tmp_directories=True,
        )

    def restore(self, state: TrainState) -> TrainState | None:
        """The latest saved state, laid over devices as `state` (arrays, or their shapes and shardings); None
        if none. Frozen weights are not saved: they stay those of `state`.

        Raises: `UserError` if it cannot be read or belongs to another architecture.
        """
        latest = self._checkpointer.latest
        if latest is None:
            return None
        self._check(latest.path)
        try:
            leaves = self._checkpointer.load(latest, _named(state))
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{latest.path}: the saved state cannot be read ({reason}); remove that directory to go on "
                "from the one before"
            ) from error
        restored = jax.tree.unflatten(
            jax.tree.structure(replace(state, frozen=None)), [leaves[name] for name in _named(state)]
        )
        return replace(restored, frozen=state.frozen)

    def save(self, step: int, state: TrainState, force: bool = False, needed: bool = True) -> None:
        """Saves `state` after `step` steps, if due or forced; when it returns, the arrays may be reused.

        Args:
          needed: whether the run could not go on without; else a full disk is only told.
        """
        latest = self._checkpointer.latest
        if latest is not None and latest.step == step:
            return
        if not force and not self._checkpointer.should_save(step):
            return
        try:
            self._seal()
            self._checkpointer.save_async(step, _named(state), force=True)
        except Exception as error:
            if needed or not self._excused(error):
                raise

    def _excused(self, error: Exception) -> bool:
        """Tells of a state that could not be saved; whether that is for want of a disk."""
        problem = storage_problem(error)
        if problem:
            self._log(f"the last state could not be saved ({problem}); the student is not affected")
        return problem is not None

    def _seal(self) -> None:
        """Writes the checksums of finished states that have none, and forgets those of states that are gone."""
        if jax.process_index() > 0:
            return
        finished = {path.name: path for path in self._directory.iterdir() if path.name.isdigit()}
        sealed = {path.stem for path in self._checksums.glob("*.json")} if self._checksums.exists() else set()
        self._checksums.mkdir(exist_ok=True)
        for name in finished.keys() - sealed:
            write_atomically(self._checksums / f"{name}.json", json.dumps(_checksums(finished[name])))
        for name in sealed - finished.keys():
            (self._checksums / f"{name}.json").unlink(missing_ok=True)

    def _check(self, state: Path) -> None:
        """Raises: `UserError` if the files of a saved state are not what they were."""
        file = self._checksums / f"{state.name}.json"
        if jax.process_index() > 0 or not file.exists():
            return
        wanted, found = json.loads(file.read_text(encoding="utf-8")), _checksums(Path(state))
        for name in sorted(wanted.keys() | found.keys()):
            if wanted.get(name) != found.get(name):
                raise UserError(
                    f"{state / name}: the saved state is damaged (its checksum is another); remove {state} to go on "
                    "from the one before"
                )

    def __enter__(self) -> "Checkpoints":
        _ABSL.addFilter(_is_no_storage_problem)
        return self

    def __exit__(self, kind, *exception) -> None:
        try:
            self._checkpointer.close()
            self._seal()
        except Exception as error:
            if kind is None and not self._excused(error):
                raise
        finally:
            if jax.process_index() == 0:  # nothing is being written any more
                for unfinished in self._directory.glob(f"*{_UNFINISHED}"):
                    shutil.rmtree(unfinished, ignore_errors=True)
            _ABSL.removeFilter(_is_no_storage_problem)


def _is_no_storage_problem(record: logging.LogRecord) -> bool:
    """Keeps what a disk answers from being logged by every thread of orbax; the trainer tells it once."""
    error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
    return error is None or storage_problem(error) is None


def _checksums(directory: Path) -> dict[str, str]:
    """SHA-256 of every file below a directory."""
    found = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            with open(path, "rb") as file:
                found[path.relative_to(directory).as_posix()] = hashlib.file_digest(
                    file, "sha256"
                ).hexdigest()
    return found


def _named(state: TrainState) -> dict[str, Any]:
    """Lists what is saved, each array under the path it has in the state: independent of the classes of the tree."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree.leaves_with_path(replace(state, frozen=None))
    }
