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
        """Whether a row meets them. Raises: KeyError with the name of a field that is needed and absent."""
        if self.correct and not row["correct"]:
            return False
        return self.score == -math.inf or (row["score"] is not None and row["score"] >= self.score)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
