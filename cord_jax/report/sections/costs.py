"""The section `costs`: tokens, seconds and lengths."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from cord_jax import statistics
from cord_jax.report import drawing
from cord_jax.report.content import Chart, Section, Table, number, with_error
from cord_jax.report.runs import Runs, SynthesisRun
from cord_jax.report.sections.scores import histogram_table
from cord_jax.report.tallies import Tally

_KINDS = {
    "proposed": "proposed",
    "scored": "scored",
    "committed": "committed",
}


def section(runs: Runs, tallies: Mapping[str, Tally]) -> Section | None:
    """For each run tokens by teacher and the lengths of its traces; seconds of all."""
    written = [run for run in runs.synthesis if run.traces]
    if not written:
        return None
    charts = [*map(_tokens, written), *map(_lengths, written)]
    lead = "Where tokens and seconds went, a problem, and how long the traces are."
    return Section("costs", "Cost and length", lead, [*charts, _seconds(written)])


def _tokens(run: SynthesisRun) -> Chart:
    means = {
        teacher: {
            kind: statistics.estimate(
                [getattr(t.usage[teacher], kind) for t in run.traces if teacher in t.usage]
            )
            for kind in _KINDS
        }
        for teacher in run.teachers
    }

    def paint(axes: Axes) -> None:
        for i, (kind, label) in enumerate(_KINDS.items()):
            places = np.arange(len(means)) + 0.27 * (i - 1)
            values = [of[kind].mean for of in means.values()]
            bars = axes.barh(
                places,
                values,
                height=0.25,
                label=label,
                facecolor="none" if drawing.HATCHES[i] else (drawing.SERIES[4], 0.35),
                edgecolor=drawing.SERIES[(4, 3, 0)[i]],
                hatch=drawing.HATCHES[i],
            )
            axes.bar_label(bars, [number(value, 0) for value in values], padding=3, fontsize=7.5)
        axes.set_yticks(range(len(means)), list(means))
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.grid(axis="y", visible=False)
        axes.grid(axis="x")
        axes.set_xlabel("tokens a problem")
        drawing.legend(axes, handlelength=1.4)

    numbers = Table(
        "Tokens a problem",
        ("teacher", *_KINDS.values()),
        [(teacher, *(with_error(of[kind]) for kind in _KINDS)) for teacher, of in means.items()],
    )
    label = f"{run.name}: tokens a problem"
    caption = (
        "Proposed: sampled by the teacher, discarded tails included. Scored: read by the meta-prover for the teacher's "
        "candidates. Committed: the teacher's own steps in the winner."
    )
    return Chart(label, drawing.draw(paint, label, 1.3 + 0.55 * len(means)), caption, numbers)


def _lengths(run: SynthesisRun) -> Chart:
    labels = (
        ("right", drawing.RIGHT, True),
        ("wrong", drawing.WRONG, False),
        ("answer unknown", drawing.INK, None),
    )
    groups = []
    for label, colour, correct in labels:
        values = [sum(s.tokens for s in t.steps) for t in run.traces if t.correct is correct]
        if values:
            groups.append((label, colour, values))
    longest = max((value for _, _, values in groups for value in values), default=0)
    counted: list = []

    def paint(axes: Axes) -> None:
        counted.extend(drawing.draw_histogram(axes, groups, bins=16, limits=(0, max(1, longest))))
        axes.set_xlabel("tokens of the reasoning")
        drawing.legend(axes)

    label = f"{run.name}: length of the traces"
    svg = drawing.draw(paint, label)
    caption = "The winners' reasoning, in the meta-prover's tokens."
    return Chart(label, svg, caption, histogram_table("Traces by their length", groups, *counted))


def _seconds(runs: Sequence[SynthesisRun]) -> Table:
    rows = []
    for run in runs:
        seconds = [trace.seconds for trace in run.traces]
        total = run.summary.get("seconds")
        rows.append(
            (
                run.name,
                with_error(statistics.estimate(seconds)),
                number(float(np.median(seconds))),
                number(float(np.quantile(seconds, 0.9))),
                number(max(seconds)),
                number(total),
                number(len(seconds) / total * 60 if total and not run.state else None),
                str(run.summary.get("device", "")),
            )
        )
    head = ("run", "mean", "median", "90 % below", "longest", "whole run", "problems a minute", "device")
    note = "Seconds from a problem's place on the device to its response; several are searched at a time."
    return Table("Seconds a problem", head, rows, note)
