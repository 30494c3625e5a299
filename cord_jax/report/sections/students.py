"""The section `students`: what was learnt, and how."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from cord_jax import statistics
from cord_jax.report import drawing
from cord_jax.report.content import NOTHING, Chart, Figure, Section, Table, number, percent, with_error
from cord_jax.report.runs import EvaluationRun, Runs, TrainingRun
from cord_jax.report.sections.traces import differences
from cord_jax.report.tallies import Tally

_TITLES = {
    "loss": ("loss", "nats a target token"),
    "held_out_loss": ("held-out loss", "nats a target token"),
    "learning_rate": ("learning rate", "learning rate"),
    "grad_norm": ("gradient norm", "norm of the gradient"),
}
_NO_CURVES = ("step", "tokens_per_second", "mfu")
_MOST_POINTS = 400


def section(runs: Runs, tallies: Mapping[str, Tally]) -> Section | None:
    """Evaluations with their differences, and the curves of training."""
    measured = [run for run in runs.evaluation if run.samples]
    trained = [run for run in runs.training if run.metrics]
    if not measured and not trained:
        return None
    blocks: list[Table | Chart] = []
    if measured:
        blocks.append(_table(measured))
    if len(measured) > 1:
        blocks.append(differences((("right samples", _right, True),), measured))
    if measured and max(map(_samples, measured)) > 1:
        blocks.append(_pass_at_k(measured))
    keys = dict.fromkeys(key for run in trained for row in run.metrics for key in row)
    charts = [
        _curve(trained, key)
        for key in dict.fromkeys([*_TITLES, *keys])
        if key in keys and key not in _NO_CURVES
    ]
    blocks += [chart for chart in charts if chart is not None]
    lead = "Answers sampled for problems; ± is the standard error over problems."
    if not measured:
        lead = "How training went."
    return Section("students", "Students", lead, blocks)


def figures(runs: Runs) -> list[Figure]:
    """pass@1 of each evaluation."""
    found = []
    for run in runs.evaluation:
        right = statistics.pass_at_1(run.correct)
        value, _, error = with_error(right, percents=True).removesuffix(" %").partition(" ± ")
        detail = f"{_samples(run)} samples of each" + (f", {run.state}" if run.state else "")
        value = value + " %" if value != NOTHING else value
        found.append(Figure(run.name, value, error, f"pass@1 on {right.count} problems", detail))
    return found


def _right(run: EvaluationRun) -> dict[str, float]:
    return {problem: float(np.mean(right)) for problem, right in run.correct.items()}


def _samples(run: EvaluationRun) -> int:
    return max(map(len, run.samples.values()), default=0)


def _table(runs: Sequence[EvaluationRun]) -> Table:
    rows = []
    for run in runs:
        samples = [row for rows in run.samples.values() for row in rows]
        summary, n = run.summary, run.settings["samples"]
        rows.append(
            (
                run.name,
                number(len(run.samples), 0),
                number(len(samples), 0),
                with_error(statistics.pass_at_1(run.correct), percents=True),
                percent(summary.get(f"pass@{2 ** (n.bit_length() - 1)}") if n > 1 else None),
                percent(summary.get(f"maj@{n}")),
                number(float(np.mean([row["tokens"] for row in samples])), 0),
                percent(float(np.mean([row["ended"] == "cap" for row in samples]))),
                percent(float(np.mean([row["predicted_answer"] is None for row in samples]))),
            )
        )
    k = "pass@k"
    head = (
        "run",
        "problems",
        "samples",
        "pass@1",
        k,
        "maj@n",
        "tokens",
        "cut off at the cap",
        "no answer stated",
    )
    return Table("Evaluations", head, rows, "k is the largest power of two among the n samples of a problem.")


def _pass_at_k(runs: Sequence[EvaluationRun]) -> Chart:
    curves: dict[str, list[tuple[int, statistics.Estimate]]] = {}
    for run in runs:
        fewest = min(map(len, run.samples.values()))
        ks = [2**i for i in range(fewest.bit_length())]
        curves[run.name] = [(k, statistics.pass_at_k(run.correct, k)) for k in ks]

    def paint(axes: Axes) -> None:
        for i, (name, points) in enumerate(curves.items()):
            axes.errorbar(
                [k for k, _ in points],
                [100 * chance.mean for _, chance in points],
                [196 * chance.standard_error for _, chance in points],
                color=drawing.SERIES[i % 8],
                marker=drawing.MARKERS[i % 8],
                linestyle=drawing.DASHES[i % 4],
                capsize=2,
                label=name,
            )
        axes.set_xscale("log", base=2)
        ticks = sorted({k for points in curves.values() for k, _ in points})
        axes.set_xticks(ticks, list(map(str, ticks)))
        axes.set_ylim(bottom=0)
        axes.set_xlabel("k")
        axes.set_ylabel("pass@k, %")
        drawing.legend(axes, ncols=2)

    ks = sorted({k for points in curves.values() for k, _ in points})
    cells = [
        (n, *(with_error(dict(p)[k], percents=True) if k in dict(p) else NOTHING for k in ks))
        for n, p in curves.items()
    ]
    numbers = Table("pass@k", ("run", *(f"k = {k}" for k in ks)), cells)
    caption = "Chance that one of k samples is right, with 95 % intervals over problems."
    return Chart("pass@k", drawing.draw(paint, "pass@k"), caption, numbers)


def _curve(runs: Sequence[TrainingRun], key: str) -> Chart | None:
    title, unit = _TITLES.get(key, (key.replace("_", " "),) * 2)
    curves = {
        run.name: [(row["step"], row[key]) for row in run.metrics if isinstance(row.get(key), (int, float))]
        for run in runs
    }
    curves = {name: points for name, points in curves.items() if points}
    if not curves:
        return None

    def paint(axes: Axes) -> None:
        for i, (name, points) in enumerate(curves.items()):
            stride = -(-len(points) // _MOST_POINTS)
            shown = points[::stride] + ([points[-1]] if (len(points) - 1) % stride else [])
            marker = drawing.MARKERS[i % 8] if len(shown) <= 30 else ""
            style: dict[str, Any] = {
                "color": drawing.SERIES[i % 8],
                "linestyle": drawing.DASHES[i % 4],
                "marker": marker,
            }
            axes.plot(*zip(*shown), label=name, **style)
        axes.set_xlabel("step")
        axes.set_ylabel(unit)
        if key == "grad_norm":
            axes.set_yscale("log")
        else:
            axes.ticklabel_format(axis="y", scilimits=(-3, 4))
        drawing.legend(axes, ncols=1 if max(map(len, curves)) > 24 else 2)

    rows = [
        (
            name,
            str(len(points)),
            str(points[-1][0]),
            f"{points[0][1]:.4g}",
            f"{points[-1][1]:.4g}",
            f"{min(value for _, value in points):.4g}",
        )
        for name, points in curves.items()
    ]
    numbers = Table(f"Training: {title}", ("run", "rows", "last step", "first", "last", "lowest"), rows)
    label = f"training: {title}"
    return Chart(label, drawing.draw(paint, label), f"From metrics.jsonl: {unit}, by step.", numbers)
