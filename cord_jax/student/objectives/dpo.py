"""Direct preference optimization (arXiv 2305.18290), on pairs of texts that continue the same prompt.

With log p of a target, the sum over its tokens given what stands before them, and log p_ref, the same under the student
as it was before the first step, a text's reward is beta (log p - log p_ref), and the loss of a pair -log sigmoid(reward of
chosen - reward of rejected); it is log 2 before the first step.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from cord_jax.student.batches import Batch
from cord_jax.student.config import StudentConfig
from cord_jax.student.data import Texts, eos_follows, need_text
from cord_jax.student.objectives import Objective
from cord_jax.text.prompt_settings import PromptSettings
from cord_jax.text.prompts import render_prompt
from cord_jax.text.vocabulary import Vocabulary


@dataclass(frozen=True)
class Preference(Objective):
    """Every pair counts alike. Examples 2 i and 2 i + 1 are its chosen and its rejected text."""

    examples: ClassVar[int] = 2
    has_reference: ClassVar[bool] = True
    unit: ClassVar[str] = "nats per pair"

    beta: float

    def texts(self, row: Mapping[str, Any], vocabulary: Vocabulary, prompt: PromptSettings) -> list[Texts]:
        """Reads a row of `launch.preferences`, or one of `prompt`, `chosen` and `rejected`, taken literally.

        The former's prompt is that of the student's own template, with the reasoning so far behind it.
        """
        if "chosen" not in row or "rejected" not in row:
            raise ValueError(
                "is no pair to learn from: give chosen and rejected, with question and reasoning or with prompt, as "
                "launch.preferences writes them"
            )
        need_text(row, "chosen", "rejected")
        for name in ("chosen", "rejected"):
            if not row[name]:
                raise ValueError(f"{name} is empty")
        if row["chosen"] == row["rejected"]:
            raise ValueError("chosen and rejected are the same text")
        margin = row.get("margin", 0.0)
        if isinstance(margin, bool) or not isinstance(margin, (int, float)) or not math.isfinite(margin):
            raise ValueError(f"margin must be a finite number, and is {margin!r:.40}")
        targets, eos = (row["chosen"], row["rejected"]), eos_follows(row)
        if "question" in row or "reasoning" in row:
            need_text(row, "question", "reasoning")
            opening = render_prompt(vocabulary, prompt, row["question"])
            return [Texts(opening, targets, eos, row["reasoning"], goes_on=not eos)]
        need_text(row, "prompt")
        return [Texts(row["prompt"], targets, eos, goes_on=not eos)]

    def count(self, batch: Batch) -> jax.Array:
        """Counts the pairs."""
        return jnp.maximum(jnp.sum(_pairs(batch.segments)), 1).astype(jnp.float32)

    def total(self, losses_bt: jax.Array, batch_bt: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Adds up the losses of all pairs, and their rewards; `reward_accuracy` counts the margins above zero."""
        segments, references_bx = batch_bt.segments, batch_bt.references
        rewards_bx = self.beta * (
            target_log_probabilities(losses_bt, segments, references_bx.shape[1]) - references_bx
        )
        chosen_bx, rejected_bx = rewards_bx[:, 0::2], rewards_bx[:, 1::2]
        margins_bx = chosen_bx - rejected_bx
        is_pair_bx = jnp.arange(margins_bx.shape[1]) < _pairs(segments)[:, None]

        def over_pairs(values_bx):
            return jnp.sum(jnp.where(is_pair_bx, values_bx, 0))

        return over_pairs(-jax.nn.log_sigmoid(margins_bx)), {
            "chosen_reward": over_pairs(chosen_bx),
            "rejected_reward": over_pairs(rejected_bx),
            "reward_margin": over_pairs(margins_bx),
            "reward_accuracy": over_pairs((margins_bx > 0).astype(jnp.float32)),
        }


def target_log_probabilities(losses_bt: jax.Array, segments_bt: jax.Array, examples: int) -> jax.Array:
    """The log-probability of the target of each segment 1, 2, ... of a row, float32 [b, examples]; 0 where there is none."""
    # Sums of selected places rather than a scatter: these are added up in the same order every time.
    is_segment_bxt = segments_bt[:, None, :] == jnp.arange(1, examples + 1)[:, None]
    return -jnp.sum(jnp.where(is_segment_bxt, losses_bt[:, None, :], 0), axis=-1)


def _pairs(segments: jax.Array) -> jax.Array:
    """The number of pairs in each window."""
    return jnp.max(segments, axis=-1) // 2


def objective(config: StudentConfig) -> Preference:
    """The objective of a training."""
    return Preference(config.beta)
