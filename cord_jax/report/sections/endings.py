"""The section `endings`: how traces and steps ended, and what was dropped."""

from collections import Counter
from collections.abc import Mapping

from cord_jax.report.content import Section, Table, number, percent
from cord_jax.report.runs import Runs
from cord_jax.report.tallies import KEPT, SCORED, Tally
from cord_jax.traces import STATUSES

_ENDED = {
    "marker": "next step's marker",
    "think_end": "</think>",
    "eos": "end of sequence",
    "cap": "step's cap",
    "budget": "trace's cap",
}


def section(runs: Runs, tallies: Mapping[str, Tally]) -> Section | None:
    """Counts of status by run, and of endings and dropped candidates by teacher."""
    if not any(run.traces for run in runs.synthesis):
        return None
    rows = []
    for run in runs.synthesis:
        counts = Counter(trace.status for trace in run.traces)
        unstated = sum(trace.predicted_answer is None for trace in run.traces)
        total = len(run.traces)
        rows.append((run.name, *(_count(counts[s], total) for s in STATUSES), _count(unstated, total)))
    head = ("run", *(status.replace("_", " ") for status in STATUSES), "no answer stated")
    blocks = [Table("Traces by the way they ended", head, rows)]
    for run in runs.synthesis:
        tally = tallies[run.name]
        if any(tally.fates.values()):
            blocks.append(_by_teacher(f"What ended the candidates: {run.name}", tally.endings, _ENDED, {}))
            blocks.append(
                _by_teacher(
                    f"What became of the candidates: {run.name}",
                    tally.fates,
                    {KEPT: KEPT, SCORED: SCORED},
                    {"": "dropped: "},
                )
            )
    lead = "Complete: the reasoning came to its end. Budget, max steps: it was cut off there. Stuck: no candidate was left."
    return Section("endings", "Endings", lead, blocks)


def _by_teacher(
    caption: str, counts: Mapping[str, Counter[str]], names: Mapping[str, str], prefix: Mapping[str, str]
) -> Table:
    """Teachers as rows, endings or fates as columns, the named ones first; those that never occur are left out."""
    found: Counter[str] = sum(counts.values(), Counter())
    keys = [key for key in names if found[key]] + sorted(key for key in found if key not in names)
    head = [names.get(key, prefix.get("", "") + key.replace("_", " ")) for key in keys]
    rows = [(teacher, *(_count(of[key], of.total()) for key in keys)) for teacher, of in counts.items()]
    return Table(caption, ("teacher", *head), rows)


def _count(count: int, total: int) -> str:
    return f"{number(count, 0)} ({percent(count / total, 0)})" if count and total else number(count, 0)
