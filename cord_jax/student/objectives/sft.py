"""Supervised fine-tuning: the mean negative log-likelihood of all target tokens, weighted where a batch has weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from cord_jax.student.batches import Batch
from cord_jax.student.config import StudentConfig
from cord_jax.student.data import Texts, rows_to_learn
from cord_jax.student.objectives import Objective
from cord_jax.text.prompt_settings import PromptSettings
from cord_jax.text.vocabulary import Vocabulary


@dataclass(frozen=True)
class Likelihood(Objective):
    """Every target token counts alike, whichever row it is of."""

    unit: ClassVar[str] = "nats per target token"

    turns: str = "last"

    def texts(self, row: Mapping[str, Any], vocabulary: Vocabulary, prompt: PromptSettings) -> list[Texts]:
        """Reads a trace, a conversation or a raw pair."""
        return rows_to_learn(row, vocabulary, prompt, self.turns)

    def count(self, batch: Batch) -> jax.Array:
        """Counts the target tokens, or adds up their weights."""
        if batch.weights is not None:
            return jnp.maximum(jnp.sum(batch.weights), 1).astype(jnp.float32)
        return jnp.maximum(jnp.sum(batch.labels >= 0), 1).astype(jnp.float32)

    def total(self, losses_bt: jax.Array, batch_bt: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Adds up the losses of all places."""
        if batch_bt.weights is not None:
            losses_bt = losses_bt * batch_bt.weights
        return jnp.sum(losses_bt), {}


def objective(config: StudentConfig) -> Likelihood:
    """The objective of a training."""
    return Likelihood(config.turns)
