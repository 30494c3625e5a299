"""Inputs that a run of the trainer reads before it touches a device, so that mistakes are told before anything is compiled."""

import dataclasses
import math
from functools import partial
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

import models
from cord_jax.errors import UserError
from cord_jax.student.batches import Plan, plan
from cord_jax.student.config import StudentConfig
from cord_jax.student.data import Example, read_examples
from cord_jax.student.objectives import objective_of
from cord_jax.text.vocabulary import Vocabulary
from models.checkpoint.load_save import companions_of


@dataclasses.dataclass(frozen=True)
class Job:
    """The student's configuration and vocabulary, its rows as tokens, and which of them each step learns from.

    `together` successive examples are one row.
    """

    model_config: models.ModelConfig
    vocabulary: Vocabulary
    examples: list[Example]
    held_out: list[Example]
    together: int
    plan: Plan
    summary: str


def resolve(config: StudentConfig, mesh: Mesh) -> StudentConfig:
    """With the compute dtype decided; checks that the batch divides over the devices."""
    parts = math.prod(mesh.shape.get(axis, 1) for axis in ("data", "fsdp"))
    if config.batch_size // config.accumulation % parts:
        raise UserError(
            f"--batch_size={config.batch_size} in {config.accumulation} parts does not divide over the "
            f"{parts} devices of --mesh={config.mesh}; give a multiple of {parts * config.accumulation}"
        )
    if config.compute_dtype is None:
        dtype = models.execution_of(models.read_config(config.student), mesh).training_dtype
        config = dataclasses.replace(config, compute_dtype=dtype)
    return config


def prepare(config: StudentConfig) -> Job:
    """Reads everything but the weights, so that what is wrong is told before anything is compiled."""
    model_config = models.read_config(config.student)
    if model_config.head != "language_model":
        raise UserError(
            f"{config.student}: is a reward model and cannot write; give a language model as --student"
        )
    companions_of(config.student)  # what the export copies is refused now, not after the training
    vocabulary = Vocabulary.load(config.student)
    objective = objective_of(config)
    read = partial(
        read_examples,
        vocabulary=vocabulary,
        read_row=objective.texts,
        max_length=config.max_length,
        overlong=config.overlong,
        prompt=config.prompt,
    )
    examples, counts = read(config.traces, row_filter=config.row_filter)
    held_out, summary = [], f"{_named(config.traces)}: {counts}"
    if config.held_out is not None:
        held_out, held_counts = read(config.held_out)
        summary += f"; {_named(config.held_out)}: {held_counts}"
    largest = max(int(example.tokens.max()) for example in examples + held_out)
    if largest >= model_config.vocab_size:
        raise UserError(
            f"{config.student}: the tokenizer gives id {largest}, and the model has "
            f"{model_config.vocab_size} "
            "embeddings; the directory mixes two models"
        )
    lengths = [len(example.tokens) for example in examples]
    if max(lengths) > model_config.max_position_embeddings:
        raise UserError(
            f"--max_length={config.max_length}: a row has {max(lengths)} tokens, and the student takes "
            f"{model_config.max_position_embeddings}; lower it"
        )
    steps = plan(
        lengths,
        epochs=config.epochs,
        batch_size=config.batch_size,
        max_length=config.max_length,
        pack=config.pack,
        seed=config.seed,
        max_steps=config.max_steps,
        together=objective.examples,
    )
    tokens = sum(lengths)
    room = sum(length * config.batch_size for length in steps.lengths[: steps.epoch_ends[0]])
    summary += (
        f"; {tokens} tokens in {steps.epoch_ends[0]} steps of the first epoch, {steps.steps} steps in all, "
        f"windows up to {max(steps.lengths)} tokens, {min(tokens / room, 1):.0%} full"
    )
    return Job(model_config, vocabulary, examples, held_out, objective.examples, steps, summary)


def _named(source: Any) -> str:
    return str(source) if isinstance(source, Path) else "the rows given"
