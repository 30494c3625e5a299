"""The parts that a page is made of: sections with tables and charts, all of them text that is not yet HTML."""

import dataclasses
import math
from collections.abc import Sequence

from cord_jax.statistics import Estimate

NOTHING = "–"


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of text under a head; columns but the first are numbers.

    Attributes:
      caption: a phrase above it.
      head: a title for each column.
      rows: as many cells each.
      note: a sentence below it, or nothing.
      folded: whether it is shown only when it is asked for.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    folded: bool = False


@dataclasses.dataclass(frozen=True)
class Chart:
    """A drawing with a caption and the numbers in it.

    Attributes:
      title: a phrase above it.
      svg: the drawing, as `drawing.draw` gives it.
      caption: sentences that say how it is read.
      numbers: what is drawn, as a table.
    """

    title: str
    svg: str
    caption: str
    numbers: Table


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page with a heading.

    Attributes:
      key: the part's address within the page.
      title: its heading.
      lead: what it tells, in a sentence or two.
      blocks: its tables and charts.
    """

    key: str
    title: str
    lead: str
    blocks: Sequence[Table | Chart]


@dataclasses.dataclass(frozen=True)
class Figure:
    """A number at the top of the page.

    Attributes:
      name: the run's.
      value, error: the number and its standard error, in words.
      unit: the number's meaning.
      detail: how the run was made, and how far it has come.
    """

    name: str
    value: str
    error: str
    unit: str
    detail: str


def percent(value: float | None, digits: int = 1) -> str:
    """0.25 -> "25.0 %"; a dash for no number."""
    return NOTHING if value is None or math.isnan(value) else f"{100 * value:.{digits}f} %"


def number(value: float | None, digits: int = 1) -> str:
    """A number with its thousands set apart; a dash for no number."""
    return NOTHING if value is None or math.isnan(value) else f"{value:,.{digits}f}".replace(",", "\u202f")


def with_error(estimate: Estimate, digits: int = 1, percents: bool = False) -> str:
    """A mean ± its standard error."""
    scale, unit = (100, " %") if percents else (1, "")
    if math.isnan(estimate.mean):
        return NOTHING
    shown = number(scale * estimate.mean, digits)
    if not math.isnan(estimate.standard_error):
        shown += f" ± {number(scale * estimate.standard_error, digits)}"
    return shown + unit
