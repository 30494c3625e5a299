"""The section `authors`: which teacher wins, and when."""

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes

from cord_jax import statistics
from cord_jax.report import drawing
from cord_jax.report.content import Chart, Section, Table, number, percent, with_error
from cord_jax.report.runs import Runs, SynthesisRun
from cord_jax.report.tallies import KEPT, SCORED, Tally
from cord_jax.statistics import Estimate

_PARTS = {"first_40": "first 40 %", "middle_40": "middle 40 %", "last_20": "last 20 %"}


def section(runs: Runs, tallies: Mapping[str, Tally]) -> Section | None:
    """For each run a chart of the shares by position and a table of the hit rates."""
    written = [run for run in runs.synthesis if any(trace.steps for trace in run.traces)]
    if not written:
        return None
    blocks = [_chart(run) for run in written]
    hits = [_hits(run, tallies[run.name]) for run in written if any(tallies[run.name].fates.values())]
    lead = "The winners' steps by their writers, at the beginning, in the middle and at the end of a trace."
    return Section("authors", "Who writes what", lead, [*blocks, *hits])


def shares(run: SynthesisRun) -> dict[str, dict[str, Estimate]]:
    """Teacher -> "all" and each of `statistics.POSITIONS` -> its share of the steps there, with its error over problems."""
    found: dict[str, dict[str, Estimate]] = {}
    for teacher in run.teachers:
        found[teacher] = {}
        for part in ("all", *statistics.POSITIONS):
            at = [
                [
                    s.teacher
                    for i, s in enumerate(t.steps)
                    if part in ("all", statistics.position(i, len(t.steps)))
                ]
                for t in run.traces
            ]
            found[teacher][part] = statistics.ratio([a.count(teacher) for a in at], [len(a) for a in at])
    return found


def _chart(run: SynthesisRun) -> Chart:
    found = shares(run)
    whole = max(len(trace.steps) for trace in run.traces) == 1
    parts = {"all": "whole traces"} if whole else {"all": "all steps", **_PARTS}

    def paint(axes: Axes) -> None:
        for i, (teacher, by_part) in enumerate(found.items()):
            places = [place + 0.09 * (i - (len(found) - 1) / 2) for place in range(len(parts))]
            style: dict[str, Any] = {
                "color": drawing.SERIES[i % 8],
                "marker": drawing.MARKERS[i % 8],
                "linestyle": "",
                "capsize": 2.5,
            }
            means = [100 * by_part[part].mean for part in parts]
            errors = [196 * by_part[part].standard_error for part in parts]
            axes.errorbar(places, means, errors, label=teacher, **style)
            axes.plot(places[1:], means[1:], color=drawing.SERIES[i % 8], linewidth=0.9, alpha=0.6)
        axes.set_xticks(range(len(parts)), list(parts.values()))
        axes.set_xlim(-0.5, len(parts) - 0.5)
        axes.set_ylim(bottom=0)
        axes.set_ylabel("% of the winners' steps")
        drawing.legend(axes)

    numbers = Table(
        "Shares of the winners' steps",
        ("teacher", *parts.values()),
        [(name, *(with_error(of[part], percents=True) for part in parts)) for name, of in found.items()],
    )
    label = f"{run.name}: share of the winners' steps by teacher and position"
    caption = "Share of the winners' steps that each teacher wrote, with 95 % intervals over problems."
    return Chart(run.name, drawing.draw(paint, label), caption, numbers)


def _hits(run: SynthesisRun, tally: Tally) -> Table:
    won = {teacher: 0 for teacher in tally.fates}
    for trace in run.traces:
        for step in trace.steps:
            won[step.teacher] = won.get(step.teacher, 0) + 1
    rows = []
    for teacher, fates in tally.fates.items():
        total = fates.total()
        kept = fates[KEPT] / total if total else None
        dropped = (total - fates[KEPT] - fates[SCORED]) / total if total else None
        rows.append(
            (
                teacher,
                number(total, 0),
                percent(dropped),
                percent(kept),
                percent(won[teacher] / total if total else None),
                number(won[teacher], 0),
            )
        )
    head = ("teacher", "proposals", "dropped", "kept by the selection", "in a winner", "steps of winners")
    return Table(f"Hit rates: {run.name}", head, rows)
