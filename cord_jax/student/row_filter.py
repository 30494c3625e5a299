"""Conditions for the rows of a file that a student learns from. Imports no library, so that a bad condition is told at once."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cord_jax.errors import UserError
from cord_jax.settings import show


@dataclass(frozen=True)
class RowFilter:
    """Conditions that a row must meet.

    Attributes:
      correct: its answer was right.
      score: its score is at least this.
    """

    correct: bool = False
    score: float = -math.inf

    @classmethod
    def parse(cls, text: str) -> "RowFilter":
        """Reads `all`, or conditions joined by commas: `correct`, `score>=NUMBER`. Raises: `UserError`."""
        correct, score = False, -math.inf
        if text.strip() == "all":
            return cls()
        for condition in (part.strip() for part in text.split(",")):
            found = re.fullmatch(r"score\s*>=\s*(\S+)", condition)
            if condition == "correct":
                correct = True
            elif found and _is_number(found[1]):
                score = float(found[1])
            else:
                raise UserError(
                    f"--filter={show(text)}: {show(condition)!r} is no condition; give all, correct, score>=NUMBER, "
                    "or the last two joined by a comma"
                )
        return cls(correct, score)

    def passes(self, row: Mapping[str, Any]) -> bool:
        """Whether a row meets them; null meets none.

        Raises: KeyError with the name of a field that is needed and absent; ValueError with the reason if it is of
          another type, such as "false" in quotes.
        """
        if self.correct:
            if not isinstance(row["correct"], bool | None):
                raise ValueError(f"correct must be true or false, and is {row['correct']!r:.40}")
            if not row["correct"]:
                return False
        if self.score == -math.inf:
            return True
        score = row["score"]
        if isinstance(score, bool) or not isinstance(score, int | float | None):
            raise ValueError(f"score must be a number, and is {score!r:.40}")
        return score is not None and score >= self.score


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
