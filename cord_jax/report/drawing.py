"""Charts as SVG for a page: their colours follow the page's, light or dark, and the same figure gives the same text."""

import html
import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Each stands for a variable of the page's style sheet, which alone knows what it looks like.
_VARIABLES = {
    "#0a0001": "--ink",
    "#0a0002": "--muted",
    "#0a0003": "--line",
    "#0a0004": "--right",
    "#0a0005": "--wrong",
    **{f"#0a01{i:02x}": f"--series-{i}" for i in range(8)},
}
INK, MUTED, LINE, RIGHT, WRONG, *SERIES = _VARIABLES
# Teachers and runs are told apart by these, too: colour alone is not enough. `assets/drawing.js` has the same shapes.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.5)), (0, (5, 1.5, 1.5, 1.5)))
HATCHES = ("", "////", "....", "xxxx")
_LONG_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_STYLE = {
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "hatch.linewidth": 0.6,
}


def draw(paint: Callable[[Axes], object], label: str, height: float = 2.6) -> str:
    """An `<svg>` element of what `paint` draws, which says `label` to those who cannot see it.

    Two drawings of one page have different labels.
    """
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever the user's own style is
        matplotlib.rcParams.update({**_STYLE, "svg.hashsalt": label})
        figure = Figure(figsize=(4.6, height), layout="constrained")
        axes = figure.subplots()
        figure.patch.set_alpha(0)
        axes.patch.set_alpha(0)
        paint(axes)
        file = io.StringIO()
        metadata: dict[str, Any] = {"Date": None, "Creator": None, "Format": None, "Type": None}
        FigureCanvasSVG(figure).print_svg(file, metadata=metadata)
    return _for_a_page(file.getvalue(), label)


def legend(axes: Axes, **where: Any) -> None:
    """A legend above the axes, so that it never covers a curve."""
    columns = min(4, len(axes.get_legend_handles_labels()[0]))
    place = {
        "loc": "lower left",
        "bbox_to_anchor": (-0.02, 1.0),
        "ncols": columns,
        "columnspacing": 1.2,
        "borderpad": 0.2,
        "handlelength": 2.2,
    }
    axes.legend(**place | where)


def draw_histogram(
    axes: Axes, groups: Sequence[tuple[str, str, Sequence[float]]], bins: int, limits: tuple[float, float]
) -> tuple[list[float], list[list[int]]]:
    """Overlaid histograms of (label, colour, values); returns the edges of the bins and the counts of each group."""
    edges: list[float] = []
    counts = []
    for i, (label, colour, values) in enumerate(groups):
        count, found, _ = axes.hist(
            values,
            bins=bins,
            range=limits,
            label=label,
            histtype="stepfilled",
            facecolor="none" if HATCHES[i] else (colour, 0.25),
            edgecolor=colour,
            hatch=HATCHES[i],
            linestyle=DASHES[i],
            linewidth=1.4,
        )
        edges = [float(edge) for edge in found]
        counts.append([int(n) for n in count])
    axes.set_ylabel("problems")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    return edges, counts


def _for_a_page(svg: str, label: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="[\w.]+_[0-9]+"', "", svg)  # not unique in the page, and nothing refers to them
    svg = re.sub(r"<[^>]+>", lambda tag: _LONG_NUMBER.sub(lambda n: f"{float(n[0]):.2f}", tag[0]), svg)
    svg = re.sub(r'"font: ([\d.]+px) [^;"]*', r'"font-size: \1', svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    view = re.search(r'viewBox="[^"]*"', svg)
    body = re.sub(r"^<svg[^>]*>", "", svg)
    body = re.sub(r">\s+<", "><", body).strip()
    head = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {view[0] if view else ""}'
    return f'{head} role="img" aria-label="{html.escape(label)}">{body}'
