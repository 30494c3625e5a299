"""The page: reads the runs, has every section told, and writes one file."""

import base64
import contextlib
import hashlib
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import jinja2
from markupsafe import Markup

from cord_jax.errors import UserError
from cord_jax.report import viewers
from cord_jax.report.content import Chart
from cord_jax.report.runs import Runs, open_runs
from cord_jax.report.sections import sections, students, traces
from cord_jax.report.tallies import tally
from cord_jax.run_directory import add_to_log
from cord_jax.settings import show
from cord_jax.storage import write_atomically

REPORT = "report.html"
# A page that a browser opens at once and that can still be sent to somebody.
PAGE_BYTES = 28_000_000
_SCRIPTS = ("data.js", "list.js", "drawing.js", "trees.js", "samples.js")
_FIGURES = 8


def write_report(
    runs: Sequence[str | os.PathLike], output: str | os.PathLike, page_bytes: int = PAGE_BYTES
) -> Path:
    """Writes one HTML file about runs of synthesis, evaluation and training, which needs no other file.

    The same runs give the same bytes. Unfinished runs are shown as far as they have come; their files are not touched.

    Args:
      runs: run directories; one that is no run stands for those below it.
      output: the file, which is replaced if it exists.
      page_bytes: the size that trees and samples are cut to, if they are larger.

    Returns: the file.

    Raises: `UserError` for a directory that holds no run, a damaged file, or an output that cannot be written; nothing
      has been written then.
    """
    path = Path(output)
    if os.path.isdir(path):  # False, too, for a name that is too long or no name
        raise UserError(f"--output: {path} is a directory; name a file in it, such as {path / REPORT}")
    if not os.path.isdir(path.parent):
        raise UserError(f"--output: there is no directory {path.parent}; create it")
    if not runs:
        raise UserError("--runs: names no run; give the output directories of one or more")
    page = render(open_runs([Path(run) for run in runs]), page_bytes)
    try:
        write_atomically(path, page)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"--output: {show(str(path))} cannot be written ({reason}); choose another") from None
    return path


def try_report(runs: Sequence[str | os.PathLike], output: str | os.PathLike) -> str:
    """Writes the page of runs that have just ended, which have ended well whether or not it can be drawn.

    Returns: a line that says where it is, or why there is none; the latter also stands in the `log.txt` beside it.
    """
    try:
        return f"report: {write_report(runs, output)}"
    except Exception as error:
        message = " ".join(f"report: not written ({type(error).__name__}: {error})".split())
        with contextlib.suppress(OSError, UserError):
            add_to_log(Path(output).parent, message)
        return message


def render(runs: Runs, page_bytes: int = PAGE_BYTES) -> str:
    """The page as text."""
    tallies = {run.name: tally(run) for run in runs.synthesis}
    told = sections(runs, tallies)
    samples = viewers.pack_samples(runs.evaluation, page_bytes // (2 if runs.synthesis else 1))
    trees = viewers.pack_trees(runs.synthesis, page_bytes - (samples.size if samples else 0))
    script = "\n".join(_asset(name) for name in _SCRIPTS)
    script = f'"use strict";\n(() => {{\n{script}\n}})();\n'
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_asset),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["chart"] = lambda block: isinstance(block, Chart)
    environment.filters["svg"] = Markup  # drawn here, its texts escaped by matplotlib
    return environment.get_template("page.html.jinja").render(
        title=_title(runs),
        figures=[
            ("Traces", traces.figures(runs)[:_FIGURES]),
            ("Students", students.figures(runs)[:_FIGURES]),
        ],
        unfinished=[(run.name, run.state) for run in runs if run.state],
        sections=told,
        trees=trees,
        samples=samples,
        style=Markup(_asset("style.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
    )


def _title(runs: Runs) -> str:
    names = [run.name for run in runs]
    return " · ".join(names) if len(names) <= 3 else f"{names[0]} and {len(names) - 1} more runs"


def _asset(name: str) -> str:
    return (resources.files("cord_jax.report") / "assets" / name).read_text(encoding="utf-8")
