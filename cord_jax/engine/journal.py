"""The journal of a run: the settled rounds of searches that are still under way.

A search that was cut off is not begun again: its problem is inserted anew, and the recorded rounds are replayed with the
scores that they had, which costs a prefill of the kept steps and no proposal and no scoring. When a problem has its
trace, its lines are of no use any more; a run that ends leaves an empty journal.
"""

import json
from collections.abc import Mapping, Sequence

from cord_jax.errors import UserError
from cord_jax.mesh import text_from_process_0
from cord_jax.run_directory import RunDirectory
from cord_jax.search.round_record import SettledRound

JOURNAL = "journal.jsonl"


class Journal:
    """`journal.jsonl` of an open run directory."""

    def __init__(self, run: RunDirectory):
        self._file = run.json_lines(JOURNAL)

    def read(self, unfinished: Mapping[str, int]) -> dict[int, list[SettledRound]]:
        """Reads the settled rounds, first first, of the problems that have no trace yet (id -> index); drops the rest."""
        rows = [
            row
            for row in self._file.read({"problem": str, "round": int, "candidates": list})
            if row["problem"] in unfinished
        ]
        self._file.rewrite(rows)
        steps: dict[int, list[SettledRound]] = {}
        for row in rows:
            of_problem = steps.setdefault(unfinished[row["problem"]], [])
            if row["round"] == len(of_problem) + 1:
                try:
                    of_problem.append(SettledRound.from_row(row))
                except (KeyError, TypeError, ValueError) as error:
                    raise UserError(
                        f"{self._file.path}: round {row['round']} of {row['problem']!r} is not as this version writes it "
                        f"({error}); remove the file: what it holds is searched again"
                    ) from None
        return steps

    def write(self, settled: Sequence[tuple[str, int, SettledRound]]) -> None:
        """Adds settled rounds: (problem id, round from 1, what was settled)."""
        self._file.append(*(step.to_row(problem, number) for problem, number, step in settled))

    def clear(self) -> None:
        """Empties the journal of a run that has ended."""
        self._file.rewrite([])


def agree_on(
    steps: Mapping[int, Sequence[SettledRound]], ids: Sequence[str]
) -> Mapping[int, Sequence[SettledRound]]:
    """Process 0's rounds, in all processes of a job."""
    text = text_from_process_0(lambda: to_text(steps, ids))
    return steps if text is None else from_text(text, ids)


def to_text(steps: Mapping[int, Sequence[SettledRound]], ids: Sequence[str]) -> str:
    """Recorded rounds as JSON, for the other processes of a job."""
    rows = [step.to_row(ids[i], n) for i, of_one in steps.items() for n, step in enumerate(of_one, start=1)]
    return json.dumps(rows)


def from_text(text: str, ids: Sequence[str]) -> dict[int, list[SettledRound]]:
    """The inverse of `to_text`."""
    index = {problem: i for i, problem in enumerate(ids)}
    steps: dict[int, list[SettledRound]] = {}
    for row in json.loads(text):
        steps.setdefault(index[row["problem"]], []).append(SettledRound.from_row(row))
    return steps
