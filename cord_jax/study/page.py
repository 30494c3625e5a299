"""The study's page: all tables and pictures of the results that are there, the leading comparison first."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from cord_jax.storage import write_atomically
from cord_jax.study import arms, comparisons, figures, tables
from cord_jax.study.arms import Writing
from cord_jax.study.comparisons import BySeed
from cord_jax.study.config import StudyConfig
from cord_jax.study.web_page import to_html

_SECTIONS: tuple[tuple[str, str, Callable[[Mapping[str, BySeed]], list[str]]], ...] = (
    ("Students", "students.png", tables.students),
    (
        "Students after CoRD against the others (one family of comparisons)",
        "",
        lambda results: tables.comparisons(tables.lead(results)),
    ),
    ("The paper's orderings", "", tables.orderings),
    ("Traces", "", tables.writings),
    ("Right traces against compute", "compute.png", tables.compute),
    ("The conditions, broken one by one", "precision.png", tables.conditions),
    ("What students learn from", "", tables.learning),
    ("A second round, with the student among the proposers", "", tables.second_round),
    ("Score against correctness", "", tables.score_and_correctness),
    ("Calibration: right ones among complete candidates", "calibration.png", tables.calibrations),
    ("Decoys", "", tables.decoys),
    ("Recorded trees without one teacher", "", tables.without),
    ("Who wrote what", "", tables.hit_rates),
    ("How alike the teachers are", "", tables.similarity),
)


def write_page(config: StudyConfig) -> Path:
    """Writes `page.html`, the same as `page.md` with its pictures, and `comparisons.json`; returns the path of `page.html`."""
    directory = Path(config.output_dir)
    directory.mkdir(parents=True, exist_ok=True)
    results = comparisons.read_results(config)
    drawn = figures.draw_all(results, directory)
    text = "\n".join(lines_of(config, results, drawn)) + "\n"
    rows = [dataclasses.asdict(comparison) for comparison in tables.lead(results)]
    content = json.dumps(rows, indent=1).replace("NaN", "null")
    write_atomically(directory / "comparisons.json", content + "\n")
    write_atomically(directory / "page.md", text)
    path = directory / "page.html"
    write_atomically(path, to_html(text, directory))
    return path


def lines_of(config: StudyConfig, results: Mapping[str, BySeed], drawn: list[str]) -> list[str]:
    """The page as Markdown."""
    cells = sum(len(of) for of in results.values())
    lines = [
        "# The study",
        "",
        f"{cells} cells (an arm and a seed) of {len(results)} arms, seeds {config.seed} to {config.all_seeds[-1]}. "
        f"{config.train_problems} puzzles a seed; students: {config.samples} answers to each of "
        f"{config.held_out_problems} held-out puzzles.",
        "Means ± standard error over seeds; differences ± half their 95 % interval over puzzles. Effect: the difference "
        "in standard deviations of the puzzles' differences. Corrected: the greater of the p values over puzzles "
        "(permutation) and over seeds (paired t), each after Holm's correction over the table; a decision needs "
        f"{comparisons.LEVEL} of both.",
    ]
    for title, picture, make in _SECTIONS:
        made = make(results)
        if len(made) > 2:
            lines += ["", f"## {title}", ""]
            if picture in drawn:
                lines += [f"![{title}]({picture})", ""]
            lines += made
    absent = [
        f"{arm.label} (there is no {arm.absent})"
        for arm in arms.WRITINGS
        if isinstance(arm, Writing) and arm.absent
    ]
    open_ = [arm.name for arm in arms.IN_ORDER if arm.name not in results]
    if absent:
        lines += ["", "## Left out", "", "; ".join(absent)]
    if open_:
        lines += ["", "## Without results", "", ", ".join(open_)]
    return lines
