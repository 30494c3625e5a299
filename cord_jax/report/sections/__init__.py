"""The sections of the page, in their order; each file has one function that makes a section, or none if it has nothing to say."""

from collections.abc import Callable, Mapping

from cord_jax.report.content import Section
from cord_jax.report.runs import Runs
from cord_jax.report.sections import authors, costs, endings, scores, settings, students, traces
from cord_jax.report.tallies import Tally

_TELL: tuple[Callable[[Runs, Mapping[str, Tally]], Section | None], ...] = (
    traces.section,
    authors.section,
    scores.section,
    endings.section,
    costs.section,
    students.section,
    settings.section,
)


def sections(runs: Runs, tallies: Mapping[str, Tally]) -> list[Section]:
    """All sections that have something to say; `tallies` are by the name of the run of synthesis."""
    return [section for tell in _TELL if (section := tell(runs, tallies)) is not None]
