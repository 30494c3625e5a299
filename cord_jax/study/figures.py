"""The study's pictures, as PNGs of some 30 KB."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cord_jax.study import arms, tables
from cord_jax.study.arms import NOISE
from cord_jax.study.comparisons import BySeed, mean_of

_OURS, _THEIRS, _OTHER = "#0b3c6f", "#b5651d", "#888888"


def draw_all(results: Mapping[str, BySeed], directory: Path) -> list[str]:
    """Draws what there are results for; returns the names of the files."""
    drawn = []
    for name, draw in (
        ("students.png", _students),
        ("compute.png", _compute),
        ("precision.png", _precision),
        ("calibration.png", _calibration),
    ):
        if (figure := draw(results)) is not None:
            figure.savefig(directory / name)
            drawn.append(name)
    return drawn


def _figure(height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, height), dpi=110, layout="constrained")
    return figure, figure.subplots()


def _students(results: Mapping[str, BySeed]) -> Any:
    """pass@1 of each student, with its interval over seeds."""
    rows = [(arm, mean_of(results[arm.name], "pass@1")) for arm in arms.LEARNERS if arm.name in results]
    known = [(arm, estimate) for arm, estimate in rows if estimate is not None]
    if not known:
        return None
    known.sort(key=lambda row: row[1].mean)
    figure, axes = _figure(0.8 + 0.22 * len(known))
    for place, (arm, estimate) in enumerate(known):
        colour = (
            _OURS
            if arm.traces in ("cord", "cord_filtered", "second_cord")
            else _OTHER
            if arm.traces is None
            else _THEIRS
        )
        error = 0.0 if np.isnan(estimate.standard_error) else 1.96 * estimate.standard_error
        axes.errorbar(estimate.mean, place, xerr=error, fmt="o", color=colour, markersize=4)
    axes.set_yticks(range(len(known)), [arm.label for arm, _ in known], fontsize=7)
    axes.set_xlabel("pass@1 on held-out puzzles")
    axes.grid(alpha=0.3)
    return figure


def _compute(results: Mapping[str, BySeed]) -> Any:
    """Right traces against tokens processed."""
    points = tables.compute_points(results)
    if not points:
        return None
    figure, axes = _figure(3.2)
    beams = [p for p in points if p[0] in ("greedy", "beam_2", "cord", "beam_8")]
    wholes = [p for p in points if p[0].startswith("curation")]
    for label, of, colour in (("CoRD, beams of 1, 2, 4, 8", beams, _OURS), ("curation", wholes, _THEIRS)):
        axes.plot([p[1] for p in of], [p[2] for p in of], marker="o", markersize=4, color=colour, label=label)
    for name, tokens, right in points:
        if name == "mcts":
            axes.plot(tokens, right, marker="s", color=_OTHER, linestyle="", label="tree search")
    axes.set_xscale("log")
    axes.set_xlabel("tokens processed for a puzzle")
    axes.set_ylabel("right traces")
    axes.set_ylim(0, 1.03)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def _precision(results: Mapping[str, BySeed]) -> Any:
    """CoRD's advantage against how often the meta-prover keeps a right step."""
    names = ["", *(f"noise_{noise}" for noise in NOISE), "one_sided"]
    points = [(name, *tables.advantage(results, name)) for name in names]
    known = [(name, c, kept) for name, c, kept, _ in points if c is not None]
    if len(known) < 2:
        return None
    figure, axes = _figure(3.2)
    for name, c, kept in known:
        colour = _THEIRS if name == "one_sided" else _OURS
        axes.errorbar(kept, c.difference, yerr=c.interval, fmt="o", color=colour, markersize=4)
        label = "as it is" if not name else name.replace("noise_", "noise ").replace("_", "-")
        axes.annotate(label, (kept, c.difference), fontsize=7, xytext=(4, 4), textcoords="offset points")
    axes.axhline(0, color="black", linewidth=0.6)
    axes.set_xlabel("rounds in which a right step that was proposed is kept")
    axes.set_ylabel("right traces, CoRD - curation")
    axes.grid(alpha=0.3)
    return figure


def _calibration(results: Mapping[str, BySeed]) -> Any:
    """The share of right ones among complete candidates of a score."""
    names = [name for name in ("cord", "curation_x2") if name in results]
    if not names:
        return None
    figure, axes = _figure(3.2)
    for name, colour in zip(names, (_OURS, _THEIRS)):
        found = [
            ((i + 0.5) / 10, right / of)
            for i, (right, of) in enumerate(tables.calibration(results, name))
            if of
        ]
        label = f"{arms.BY_NAME[name].label}, complete candidates"
        axes.plot(*zip(*found), marker="o", markersize=4, color=colour, label=label)
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.6)
    axes.set_xlabel("score")
    axes.set_ylabel("right")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure
