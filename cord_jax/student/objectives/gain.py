"""Supervised fine-tuning on traces, each step weighted by what the score has gained with it.

The gain of a step is the rise of the log of the score over the step before, and 0 where the score falls. The score before
the first step is not recorded: that step's tokens weigh one, which is the mean. The tokens of the later steps are weighted
in proportion to their steps' gains, their mean being one, too, so that a row counts as much as in `sft`; a row whose score
never rises is learnt as in `sft`. `</think>`, the response and EOS weigh one.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from cord_jax.student.config import StudentConfig
from cord_jax.student.data import Texts
from cord_jax.student.objectives.sft import Likelihood
from cord_jax.student.weights import Part
from cord_jax.text.prompt_settings import PromptSettings
from cord_jax.text.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class WeightedLikelihood(Likelihood):
    """The mean of the target tokens' negative log-likelihoods, weighted."""

    def texts(self, row: Mapping[str, Any], vocabulary: Vocabulary, prompt: PromptSettings) -> list[Texts]:
        """Reads a trace with the texts and scores of its steps, as `launch.synthesize` writes it."""
        if not isinstance(row.get("steps"), list) or not isinstance(row.get("reasoning"), str):
            raise ValueError(
                "has no steps that --objective=gain could weigh: give traces as launch.synthesize writes them, or "
                "leave --objective out"
            )
        parts = weigh_steps(row)
        return [dataclasses.replace(text, parts=parts) for text in super().texts(row, vocabulary, prompt)]


def weigh_steps(row: Mapping[str, Any]) -> tuple[Part, ...]:
    """The steps of a trace with their gains.

    Raises: ValueError with the reason if they are not its reasoning, or their scores are no probabilities.
    """
    texts, scores = [], []
    for number, step in enumerate(row["steps"], start=1):
        if not isinstance(step, Mapping) or not isinstance(step.get("text"), str):
            raise ValueError(f"step {number} has no text")
        score = step.get("score")
        if isinstance(score, bool) or not isinstance(score, (int, float)) or not 0 < score <= 1:
            raise ValueError(
                f"step {number} has the score {score!r:.40}, and --objective=gain needs probabilities above 0, as of "
                "--selector=predictive_perplexity"
            )
        texts.append(step["text"])
        scores.append(math.log(score))
    if "".join(texts) != row["reasoning"]:
        raise ValueError("its steps joined are not its reasoning")
    gains = [None, *(max(0.0, after - before) for before, after in zip(scores, scores[1:]))]
    return tuple(Part(text, gain) for text, gain in zip(texts, gains))


def objective(config: StudentConfig) -> WeightedLikelihood:
    """The objective of a training."""
    return WeightedLikelihood()
