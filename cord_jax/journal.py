"""The journal of a run: the settled steps of searches that are still under way.

A search that was cut off is not begun again: its problem is inserted anew, and the recorded steps are
replayed with the scores that they had, which costs a prefill of the kept steps and no proposal and no
scoring. When a problem has its trace, its lines are of no use any more; a run that ends leaves an empty
journal.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cord_jax.exchange import ABSENT, DROPPED, ENDED, ReadStep
from cord_jax.run_directory import RunDirectory
from cord_jax.traces import decimal

JOURNAL = "journal.jsonl"


@dataclasses.dataclass(frozen=True)
class SettledStep:
    """One settled round of one problem; lists in the order j = beam * proposers + proposer.

    Attributes:
      texts: the candidates as text; None where the beam was not open.
      score_j: float32, -inf if dropped.
      ended_j, dropped_j: indices into `exchange.ENDED` and `exchange.DROPPED`, or `exchange.ABSENT`.
      sampled_j: tokens that their writers sampled.
    """

    texts: Sequence[ReadStep | None]
    score_j: np.ndarray
    ended_j: np.ndarray
    dropped_j: np.ndarray
    sampled_j: np.ndarray

    def to_row(self, problem: str, step: int) -> dict[str, Any]:
        """A line of the journal."""
        candidates = [
            None
            if text is None
            else {
                "text": text.text,
                "own_tokens": text.own_tokens,
                "score": decimal(self.score_j[j]) if np.isfinite(self.score_j[j]) else None,
                "ended": ENDED[self.ended_j[j]],
                "dropped": DROPPED[self.dropped_j[j]],
                "sampled": int(self.sampled_j[j]),
            }
            for j, text in enumerate(self.texts)
        ]
        return {"problem": problem, "step": step, "candidates": candidates}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "SettledStep":
        """The inverse of `to_row`."""
        candidates = row["candidates"]

        def values(read, absent, dtype):
            return np.array([absent if c is None else read(c) for c in candidates], dtype)

        return cls(
            texts=[None if c is None else ReadStep(c["text"], c["own_tokens"]) for c in candidates],
            score_j=values(lambda c: -np.inf if c["score"] is None else c["score"], -np.inf, np.float32),
            ended_j=values(lambda c: ENDED.index(c["ended"]), 0, np.int8),
            dropped_j=values(lambda c: DROPPED.index(c["dropped"]), ABSENT, np.int8),
            sampled_j=values(lambda c: c["sampled"], 0, np.int32),
        )


class Journal:
    """`journal.jsonl` of an open run directory."""

    def __init__(self, run: RunDirectory):
        self._file = run.json_lines(JOURNAL)

    def read(self, unfinished: Mapping[str, int]) -> dict[int, list[SettledStep]]:
        """The settled steps, first first, of the problems that have no trace yet (id -> index); drops the
        rest.
        """
        rows = [row for row in self._file.read() if row["problem"] in unfinished]
        self._file.rewrite(rows)
        steps: dict[int, list[SettledStep]] = {}
        for row in rows:
            of_problem = steps.setdefault(unfinished[row["problem"]], [])
            if row["step"] == len(of_problem) + 1:
                of_problem.append(SettledStep.from_row(row))
        return steps

    def write(self, settled: Sequence[tuple[str, int, SettledStep]]) -> None:
        """Adds settled steps: (problem id, step from 1, what was settled)."""
        self._file.append(*(step.to_row(problem, number) for problem, number, step in settled))

    def clear(self) -> None:
        """Empties the journal of a run that has ended."""
        self._file.rewrite([])


def to_text(steps: Mapping[int, Sequence[SettledStep]], ids: Sequence[str]) -> str:
    """Recorded steps as JSON, for the other processes of a job."""
    rows = [step.to_row(ids[i], n) for i, of_one in steps.items() for n, step in enumerate(of_one, start=1)]
    return json.dumps(rows)


def from_text(text: str, ids: Sequence[str]) -> dict[int, list[SettledStep]]:
    """The inverse of `to_text`."""
    index = {problem: i for i, problem in enumerate(ids)}
    steps: dict[int, list[SettledStep]] = {}
    for row in json.loads(text):
        steps.setdefault(index[row["problem"]], []).append(SettledStep.from_row(row))
    return steps
