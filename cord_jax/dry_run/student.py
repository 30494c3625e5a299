"""The training step, compiled for devices that need not be there, from a `config.json` alone."""

import dataclasses
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

import models
from cord_jax.dry_run.abstract import Compiled, compile_program
from cord_jax.student.batches import Batch
from cord_jax.student.config import StudentConfig
from cord_jax.student.step import Step, TrainState, batch_sharding


def row_shards(mesh: Mesh) -> int:
    """Devices that a batch's rows are spread over."""
    return math.prod(mesh.shape.get(axis, 1) for axis in ("data", "fsdp"))


def abstract_step(
    config: models.ModelConfig, settings: StudentConfig, mesh: Mesh
) -> tuple[Step, TrainState, Batch]:
    """The step of a run, its state and its batch, as shapes with shardings."""
    if settings.compute_dtype is None:
        dtype = models.execution_of(config, mesh).training_dtype
        settings = dataclasses.replace(settings, compute_dtype=dtype)
    step, state = Step.build(config, settings, mesh, total_steps=1000)
    rows = settings.batch_size // settings.accumulation
    ids = jax.ShapeDtypeStruct(
        (settings.accumulation, rows, settings.max_length), jnp.int32, sharding=batch_sharding(mesh)
    )
    return step, state, Batch(ids, ids, ids, ids)


def compile_student(config: models.ModelConfig, settings: StudentConfig, mesh: Mesh) -> Compiled:
    """Compiles one optimisation step; nothing is allocated."""
    step, state, batch = abstract_step(config, settings, mesh)
    return compile_program(lambda: step.lower_step(state, batch))


def cheaper(settings: StudentConfig, devices: int) -> Iterator[StudentConfig]:
    """The settings, and then others that take less memory, each costing more time than the one before.

    Meshes have `fsdp` as large as the batch allows and the rest on `model`. Accumulation follows where the
    batch has more rows than the devices that they are spread over.
    """
    fsdp = math.gcd(settings.batch_size, devices)
    while fsdp >= 1:
        mesh = f"fsdp:{fsdp},model:{devices // fsdp}"
        parts = [
            n
            for n in (1, 2, 4, 8, 16)
            if settings.batch_size % n == 0 and settings.batch_size // n % fsdp == 0
        ]
        for accumulation in parts[:1] if len(parts) == 1 else (parts[0], parts[-1]):
            for remat in ("none", "dots", "full"):
                yield dataclasses.replace(settings, mesh=mesh, accumulation=accumulation, remat=remat)
        yield dataclasses.replace(
            settings, mesh=mesh, accumulation=parts[-1], remat="full", loss_positions=256
        )
        fsdp = fsdp // 2 if fsdp > 1 else 0
