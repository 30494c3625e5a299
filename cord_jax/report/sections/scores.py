"""The section `scores`: does the score know what is right?"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from scipy import stats

from cord_jax import statistics
from cord_jax.report import drawing
from cord_jax.report.content import NOTHING, Chart, Section, Table, number, percent, with_error
from cord_jax.report.runs import Runs, SynthesisRun
from cord_jax.report.tallies import Tally
from cord_jax.traces import Trace

_BINS = 10
# The mean at a step where fewer problems have one says nothing.
_FEWEST = 3


def section(runs: Runs, tallies: Mapping[str, Tally]) -> Section | None:
    """For each run: score against step, right and wrong; how often a score is right; decoys."""
    written = [run for run in runs.synthesis if any(trace.steps for trace in run.traces)]
    if not written:
        return None
    stepwise = [run for run in written if max(len(trace.steps) for trace in run.traces) > 1]
    charts = [*map(_by_step, stepwise), *map(_calibration, written), *map(_decoys, written)]
    table = Table(
        "How well scores tell right traces from wrong ones",
        ("run", "right", "wrong", "score of right", "score of wrong", "right above wrong"),
        [_separation(run) for run in written],
        "Right above wrong: how often a right trace has a higher predictive perplexity than a wrong one, "
        "50 % being chance.",
    )
    lead = "Where right and wrong traces part, and how far a score can be trusted."
    return Section("scores", "Scores", lead, [*(chart for chart in charts if chart is not None), table])


def _split(run: SynthesisRun) -> list[tuple[str, str, list[Trace]]]:
    """(label, colour, traces) of the right and the wrong ones, or of all where nobody knows the answers."""
    right = [trace for trace in run.traces if trace.correct is True]
    wrong = [trace for trace in run.traces if trace.correct is False]
    known = [("right", drawing.RIGHT, right), ("wrong", drawing.WRONG, wrong)]
    return [group for group in known if group[2]] or [("all", drawing.INK, list(run.traces))]


def _by_step(run: SynthesisRun) -> Chart:
    groups = []
    for label, colour, traces in _split(run):
        longest = max((len(trace.steps) for trace in traces), default=0)
        at = [[t.steps[i].score for t in traces if len(t.steps) > i] for i in range(longest)]
        estimates = [statistics.estimate([s for s in scores if s is not None]) for scores in at]
        shown = [e for e in estimates if e.count >= min(_FEWEST, len(traces))]
        groups.append((label, colour, shown))

    def paint(axes: Axes) -> None:
        for i, (label, colour, found) in enumerate(groups):
            steps = np.arange(1, len(found) + 1)
            means = np.array([e.mean for e in found])
            errors = 1.96 * np.nan_to_num([e.standard_error for e in found])
            marker = "o" if label != "wrong" else "x"
            axes.plot(steps, means, color=colour, marker=marker, linestyle=drawing.DASHES[i], label=label)
            axes.fill_between(steps, means - errors, means + errors, color=colour, alpha=0.15, linewidth=0)
        if all(e.mean <= 1 for _, _, found in groups for e in found):
            axes.set_ylim(0, 1.02)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("step")
        axes.set_ylabel("score of the winner")
        drawing.legend(axes)

    longest = max(len(found) for _, _, found in groups)
    cells = [
        [
            str(i + 1),
            *(f"{with_error(f[i], 3)} ({f[i].count})" if i < len(f) else NOTHING for _, _, f in groups),
        ]
        for i in range(longest)
    ]
    numbers = Table("Mean score by step (problems)", ("step", *(label for label, _, _ in groups)), cells)
    caption = "Score of the winning trace up to each step: mean over problems with its 95 % interval."
    label = f"{run.name}: score against step"
    return Chart(label, drawing.draw(paint, label), caption, numbers)


def _known(run: SynthesisRun) -> tuple[list[float], list[bool]]:
    """Predictive perplexity and correctness of the traces that have both."""
    pairs = [
        (t.predictive_perplexity, t.correct)
        for t in run.traces
        if t.predictive_perplexity is not None and t.correct is not None
    ]
    return [score for score, _ in pairs], [right for _, right in pairs]


def _calibration(run: SynthesisRun) -> Chart | None:
    scores, right = _known(run)
    if not scores:
        return None
    bins: list[list[bool]] = [[] for _ in range(_BINS)]
    for score, is_right in zip(scores, right):
        bins[min(_BINS - 1, int(score * _BINS))].append(is_right)
    rows = []
    for i, inside in enumerate(bins):
        if inside:
            share = sum(inside) / len(inside)
            interval = stats.binomtest(sum(inside), len(inside)).proportion_ci(method="wilson")
            rows.append((i, len(inside), share, float(interval.low), float(interval.high)))

    def paint(axes: Axes) -> None:
        axes.plot([0, 100], [0, 100], color=drawing.MUTED, linewidth=0.8, linestyle=drawing.DASHES[2])
        places = [100 * (i + 0.5) / _BINS for i, *_ in rows]
        shares = [100 * share for _, _, share, _, _ in rows]
        below = [100 * max(0.0, share - low) for _, _, share, low, _ in rows]
        above = [100 * max(0.0, high - share) for _, _, share, _, high in rows]
        axes.errorbar(
            places, shares, (below, above), color=drawing.SERIES[4], marker="o", linestyle="", capsize=2.5
        )
        for place, (_, count, *_) in zip(places, rows):
            axes.annotate(str(count), (place, 107), ha="center", fontsize=7, color=drawing.MUTED)
        axes.set_xlim(0, 100)
        axes.set_ylim(-3, 115)
        axes.set_yticks(range(0, 101, 25))
        axes.set_xticks(range(0, 101, 20), [f"{n / 100:.1f}" for n in range(0, 101, 20)])
        axes.set_xlabel("predictive perplexity of the winner")
        axes.set_ylabel("% right")

    numbers = Table(
        "Right traces by their score",
        ("score", "traces", "right", "95 % interval"),
        [
            (
                f"{i / _BINS:.1f} to {(i + 1) / _BINS:.1f}",
                str(n),
                percent(share),
                f"{percent(low)} to {percent(high)}",
            )
            for i, n, share, low, high in rows
        ],
    )
    label = f"{run.name}: right traces against score"
    caption = (
        "Share of right traces among those of a score, with 95 % intervals (Wilson) and the number of traces above. "
        "The dotted line is where a score would be a probability."
    )
    return Chart(label, drawing.draw(paint, label), caption, numbers)


def _decoys(run: SynthesisRun) -> Chart | None:
    leads: dict[str, list[float]] = {}
    for label, _, traces in _split(run):
        leads[label] = [
            t.predictive_perplexity - max(t.decoy_scores)
            for t in traces
            if t.decoy_scores and t.predictive_perplexity is not None
        ]
    groups = [(label, colour, leads[label]) for label, colour, _ in _split(run) if leads[label]]
    if not groups:
        return None
    counted: list[Any] = []

    def paint(axes: Axes) -> None:
        counted.extend(drawing.draw_histogram(axes, groups, bins=20, limits=(-1, 1)))
        axes.axvline(0, color=drawing.MUTED, linewidth=0.8)
        axes.set_xlabel("score of the answer − score of the best decoy")
        drawing.legend(axes)

    label = f"{run.name}: the answer against decoys"
    svg = drawing.draw(paint, label)
    everything = [lead for _, _, values in groups for lead in values]
    caption = (
        f"How much higher the right answer scores than the best wrong one, after the winner's reasoning. In "
        f"{percent(sum(lead <= 0 for lead in everything) / len(everything))} of the traces a decoy scores at least as high: "
        "such a trace says nothing about its answer."
    )
    return Chart(
        label,
        svg,
        caption,
        histogram_table("Traces by that difference", groups, counted[0], counted[1], digits=1),
    )


def histogram_table(
    caption: str,
    groups: Sequence[tuple[str, str, object]],
    edges: Sequence[float],
    counts: Sequence[Sequence[int]],
    digits: int = 0,
) -> Table:
    """The bins of `drawing.draw_histogram` that hold something, as a table."""
    rows = [
        (f"{number(edges[i], digits)} to {number(edges[i + 1], digits)}", *(str(of[i]) for of in counts))
        for i in range(len(edges) - 1)
        if any(of[i] for of in counts)
    ]
    return Table(caption, ("from, to", *(label for label, _, _ in groups)), rows)


def _separation(run: SynthesisRun) -> tuple[str, ...]:
    scores, right = _known(run)
    of_right = [score for score, is_right in zip(scores, right) if is_right]
    of_wrong = [score for score, is_right in zip(scores, right) if not is_right]
    above = math.nan
    if of_right and of_wrong:
        above = stats.mannwhitneyu(of_right, of_wrong).statistic / (len(of_right) * len(of_wrong))
    return (
        run.name,
        str(len(of_right)),
        str(len(of_wrong)),
        with_error(statistics.estimate(of_right), 3),
        with_error(statistics.estimate(of_wrong), 3),
        percent(above),
    )
