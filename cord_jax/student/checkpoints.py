"""Saved states of a run, by orbax: written in the background, readable on another number of devices."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from cord_jax.errors import UserError
from cord_jax.student.step import TrainState


class Checkpoints:
    """The saved states under a directory. As a context manager, it waits for the last save at its end."""

    def __init__(self, directory: Path, *, every: int, keep: int):
        """Opens the directory, and removes what a killed process left unfinished there.

        Args:
          directory: made if absent.
          every: `save` writes steps that this divides; 0: only those that are forced.
          keep: number of the latest states that are kept.
        """
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

    def save(self, step: int, state: TrainState, force: bool = False) -> None:
        """Saves `state` after `step` steps, if due or forced; when it returns, the arrays may be reused."""
        latest = self._checkpointer.latest
        if latest is not None and latest.step == step:
            return
        if force or self._checkpointer.should_save(step):
            self._checkpointer.save_async(step, _named(state), force=True)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception) -> None:
        self._checkpointer.close()


def _named(state: TrainState) -> dict[str, Any]:
    """Lists what is saved, each array under the path it has in the state: independent of the classes of the tree."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree.leaves_with_path(replace(state, frozen=None))
    }
