"""The quickstart's picture: right answers against the number of steps."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cord_jax.miniature.report import GROUPS, LENGTHS, NAMES, range_name

_COLOURS = {
    "curation": "#b5651d",
    "cord": "#4a7fb5",
    "cord_filtered": "#0b3c6f",
    "student_base": "#888888",
    "student_curation": "#b5651d",
    "student_cord": "#4a7fb5",
    "student_cord_filtered": "#0b3c6f",
}
_TEACHERS = {"sums": "-", "products": "--", "shares": ":"}


def draw(summary: Mapping[str, Any], path: Path) -> None:
    """Two panels, teachers and traces, and students; a PNG of about 40 KB."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 3.2), dpi=110, layout="constrained")
    panels = figure.subplots(1, 2, sharex=True)
    teachers, traces, students = GROUPS
    for axes, title, names in zip(panels, ("traces", "students"), ((*teachers, *traces), students)):
        for name in names:
            by_steps = summary["accuracy_by_steps"][name]
            style = {"color": _COLOURS.get(name, "#888888"), "linestyle": _TEACHERS.get(name, "-")}
            if name.endswith("cord"):  # it often lies under the line with the filter
                style |= {"linewidth": 5, "alpha": 0.5}
            values = [by_steps[range_name(*bounds)] for bounds in LENGTHS]
            axes.plot(range(len(LENGTHS)), values, marker="o", markersize=4, label=NAMES[name], **style)
        axes.set_title(title, fontsize=10)
        axes.set_ylim(0, 1.02)
        axes.grid(alpha=0.3)
        axes.set_xlabel("steps that the puzzle takes")
        axes.legend(fontsize=7, loc="upper right" if axes is panels[1] else "center right")
    panels[0].set_xticks(range(len(LENGTHS)), [range_name(*bounds).replace("-", "–") for bounds in LENGTHS])
    panels[0].set_ylabel("right answers")
    figure.savefig(path)
