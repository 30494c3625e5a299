"""The objectives: what is learnt of a row.

An objective is one file and one line of `names.OBJECTIVES`. The file has a function `objective`, which makes it of a
training's settings.
"""

import abc
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax

from cord_jax import settings
from cord_jax.student.batches import Batch
from cord_jax.student.config import StudentConfig
from cord_jax.student.data import Texts
from cord_jax.text.prompt_settings import PromptSettings
from cord_jax.text.vocabulary import Vocabulary


@dataclass(frozen=True)
class Objective(abc.ABC):
    """What a step minimises: the sum of something over the rows of a batch, divided by their count.

    Attributes:
      examples: of one row; they share a window, one behind the other.
      has_reference: whether it compares with the student as it was before the first step (`Batch.references`).
      unit: of the loss, in words.
    """

    examples: ClassVar[int] = 1
    has_reference: ClassVar[bool] = False
    unit: ClassVar[str]

    @abc.abstractmethod
    def texts(
        self, row: Mapping[str, Any], vocabulary: Vocabulary, prompt: PromptSettings
    ) -> Sequence[Texts]:
        """The texts of a row, each with `examples` targets.

        Raises: ValueError with the reason why it is no row to learn from.
        """

    @abc.abstractmethod
    def count(self, batch: Batch) -> jax.Array:
        """The number that sums over a batch (with or without its leading axis) are divided by, float32 and at least 1."""

    @abc.abstractmethod
    def total(self, losses_bt: jax.Array, batch_bt: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The sum that is minimised, and sums of other figures by their names in metrics.jsonl.

        Args:
          losses_bt: negative log-likelihood of every label, float32 [b, t], 0 where there is none.
        """


def objective_of(config: StudentConfig) -> Objective:
    """The objective of a training."""
    module = importlib.import_module(f"{__name__}.{config.objective}")
    return module.objective(settings.resolved(config))
