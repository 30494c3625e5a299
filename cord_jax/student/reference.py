"""Log-probabilities of targets under the student as it was before the first step, computed once and kept in a file."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import jax
import numpy as np
import safetensors
import safetensors.numpy
from jax.sharding import NamedSharding, PartitionSpec

from cord_jax.errors import UserError
from cord_jax.mesh import from_process_0
from cord_jax.run_directory import RunDirectory
from cord_jax.storage import write_atomically
from cord_jax.student.data import Example
from cord_jax.student.forward import batches, place
from cord_jax.student.job import Job
from cord_jax.student.objectives.dpo import target_log_probabilities
from cord_jax.student.step import Step, TrainState, batch_sharding

FILE = "reference.safetensors"


@dataclass(frozen=True)
class Reference:
    """The log-probability of every target, float32 [examples] and [held-out examples]; None without a reference."""

    examples: np.ndarray | None = None
    held_out: np.ndarray | None = None

    @classmethod
    def read(cls, job: Job, run: RunDirectory | None) -> Self | None:
        """Those that the run directory holds; None if it holds none yet.

        Raises: `UserError` if the file cannot be read or is of other examples.
        """
        found = cls(*(np.full(len(rows), np.nan, np.float32) for rows in (job.examples, job.held_out)))
        if run and (run.path / FILE).exists():
            found = cls._read_file(job, run)
        found = cls(*map(from_process_0, (found.examples, found.held_out)))
        return None if np.isnan(found.examples).any() else found

    @classmethod
    def _read_file(cls, job: Job, run: RunDirectory) -> Self:
        path = run.path / FILE
        try:
            with safetensors.safe_open(path, "numpy") as file:
                digest = (file.metadata() or {}).get("tokens")
                found = cls(file.get_tensor("examples"), file.get_tensor("held_out"))
        except (OSError, safetensors.SafetensorError) as error:
            raise UserError(
                f"{path}: cannot be read ({error}); remove it, and it is computed again"
            ) from None
        if digest != _digest(job):
            raise UserError(
                f"{path}: holds log-probabilities of other tokens than those of the rows; remove it, and it is "
                "computed again"
            )
        return found

    @classmethod
    def compute(cls, step: Step, state: TrainState, job: Job, run: RunDirectory | None) -> Self:
        """Those under the weights of `state`, which are then kept in the run directory.

        Raises: `UserError` that names a row whose log-probability is not finite.
        """
        found = cls(*(_log_probabilities(step, state, rows) for rows in (job.examples, job.held_out)))
        for values, rows in ((found.examples, job.examples), (found.held_out, job.held_out)):
            if not np.isfinite(values).all():
                row = rows[int(np.argmin(np.isfinite(values)))].id
                raise UserError(
                    f"{step.config.student}: the log-probability of row {row} is not finite; the weights or "
                    f"--compute_dtype={step.config.compute_dtype} are not fit to start from"
                )
        if run:
            arrays = {"examples": found.examples, "held_out": found.held_out}
            content = safetensors.numpy.save(arrays, metadata={"tokens": _digest(job)})
            write_atomically(run.path / FILE, content)
        return found


def _log_probabilities(step: Step, state: TrainState, examples: Sequence[Example]) -> np.ndarray:
    """float32 [examples]."""
    everywhere = NamedSharding(step.mesh, PartitionSpec())
    found = np.zeros(len(examples), np.float32)
    program = jax.jit(
        lambda params, frozen, batch, most: target_log_probabilities(
            step.losses(params, frozen, batch), batch.segments, most
        ),
        static_argnums=3,
        out_shardings=everywhere,
    )
    if examples:
        for windows, batch in batches(examples, step.config, step.objective.examples):
            placed = place(batch, batch_sharding(step.mesh, leading=False))
            most = int(batch.segments.max())
            values_bx = np.asarray(program(state.params, state.frozen, placed, most))
            for window, values_x in zip(windows, values_bx):
                found[list(window)] = values_x[: len(window)]
    return found


def _digest(job: Job) -> str:
    digest = hashlib.sha256()
    for example in [*job.examples, *job.held_out]:
        digest.update(np.asarray([len(example.tokens), example.prompt_length], np.int64).tobytes())
        digest.update(example.tokens.tobytes())
    return digest.hexdigest()
