"""Rounds as they are settled: the candidates' texts, how they ended, and what became of them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cord_jax.endings import ENDINGS
from cord_jax.traces import decimal

# What became of a candidate before it was scored. Absent: its place was not open, so there is none.
ABSENT, VALID, DROPPED = -1, 0, 1


@dataclasses.dataclass(frozen=True)
class CandidateText:
    """A candidate as text.

    Attributes:
      text: its canonical step.
      own_tokens: the step's tokens in its writer's vocabulary.
      dropped: why it is no candidate for selection; None if it is one.
    """

    text: str
    own_tokens: int
    dropped: str | None = None


@dataclasses.dataclass(frozen=True)
class SettledRound:
    """One settled round of one problem; lists in the order j = place * proposers + proposer.

    Attributes:
      texts: the candidates as text; None where the place was not open.
      score_j: float32, -inf if dropped.
      ended_j: indices into `endings.ENDINGS`; dropped_j: `VALID`, `DROPPED` or `ABSENT`.
      sampled_j: tokens that their writers sampled.
    """

    texts: Sequence[CandidateText | None]
    score_j: np.ndarray
    ended_j: np.ndarray
    dropped_j: np.ndarray
    sampled_j: np.ndarray

    def to_row(self, problem: str, number: int) -> dict[str, Any]:
        """A line of the journal, for round `number` from 1."""
        candidates = [
            None
            if text is None
            else {
                "text": text.text,
                "own_tokens": text.own_tokens,
                "score": decimal(self.score_j[j]) if np.isfinite(self.score_j[j]) else None,
                "ended": ENDINGS[self.ended_j[j]],
                "dropped": text.dropped,
                "sampled": int(self.sampled_j[j]),
            }
            for j, text in enumerate(self.texts)
        ]
        return {"problem": problem, "round": number, "candidates": candidates}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "SettledRound":
        """The inverse of `to_row`."""
        candidates = row["candidates"]

        def values(read, absent, dtype):
            return np.array([absent if c is None else read(c) for c in candidates], dtype)

        return cls(
            texts=[
                None if c is None else CandidateText(c["text"], c["own_tokens"], c["dropped"])
                for c in candidates
            ],
            score_j=values(lambda c: -np.inf if c["score"] is None else c["score"], -np.inf, np.float32),
            ended_j=values(lambda c: ENDINGS.index(c["ended"]), 0, np.int8),
            dropped_j=values(lambda c: VALID if c["dropped"] is None else DROPPED, ABSENT, np.int8),
            sampled_j=values(lambda c: c["sampled"], 0, np.int32),
        )
