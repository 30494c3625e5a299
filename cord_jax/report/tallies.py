"""Counts over the candidates of a run's searches, taken in one pass over `tree.jsonl`."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

from cord_jax.report.runs import SynthesisRun
from cord_jax.traces import summarize_trees

KEPT, SCORED = "kept", "scored, not kept"


@dataclasses.dataclass(frozen=True)
class Tally:
    """Counts over all candidates of a run.

    Attributes:
      fates: teacher -> how many of its candidates were `KEPT`, only `SCORED`, or dropped, by the reason.
      endings: teacher -> how many of its candidates were ended by what.
      tree_search: figure of `summarize_trees` -> its value for each problem; empty unless the decoding is mcts.
    """

    fates: Mapping[str, Counter[str]]
    endings: Mapping[str, Counter[str]]
    tree_search: Mapping[str, Sequence[float]]


def tally(run: SynthesisRun) -> Tally:
    """Counts the candidates of a run's finished problems."""
    fates: dict[str, Counter[str]] = {teacher: Counter() for teacher in run.teachers}
    endings: dict[str, Counter[str]] = {teacher: Counter() for teacher in run.teachers}
    tree_search: dict[str, list[float]] = {}
    for _, candidates in run.trees():
        for candidate in candidates:
            fate = candidate.dropped or (KEPT if candidate.kept else SCORED)
            fates.setdefault(candidate.teacher, Counter())[fate] += 1
            endings.setdefault(candidate.teacher, Counter())[candidate.ended] += 1
        if candidates and run.settings.get("decoding") == "mcts":
            for name, value in summarize_trees(candidates, run.settings["max_steps"]).items():
                tree_search.setdefault(name, []).append(value or 0.0)
    return Tally(fates, endings, tree_search)
