"""How sure a number is: means with standard errors, paired comparisons; and who wrote which part of traces.

Problems are the unit: the samples of one problem are not independent, so standard errors are over problems,
and two systems are compared on the same problems.
"""

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

POSITIONS = ("first_40", "middle_40", "last_20")
_EXACT_UP_TO = 16
_BLOCK = 1024


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over problems.

    Attributes:
      mean: in the unit of the values; nan over no problems.
      standard_error: of the mean (sample standard deviation / sqrt(count)); nan over fewer than two problems.
      count: the number of problems.
    """

    mean: float
    standard_error: float
    count: int


@dataclasses.dataclass(frozen=True)
class PairedDifference:
    """How much better one system is than another on the same problems.

    Attributes:
      difference: mean of first - second over problems.
      standard_error: of that mean; nan over fewer than two problems.
      p_value: two-sided; the chance of a mean at least as far from 0 if the two were interchangeable.
      count: the number of problems.
    """

    difference: float
    standard_error: float
    p_value: float
    count: int


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and standard error of one value per problem."""
    array = np.asarray(values, np.float64)
    mean = float(array.mean()) if array.size else math.nan
    return Estimate(mean, _standard_error(array), array.size)


def pass_at_1(correct: Mapping[str, Sequence[bool]]) -> Estimate:
    """The chance that one sample is right (paper: mean of 16 samples), over problems.

    Args:
      correct: problem id -> whether each of its samples is right; every problem has one sample or more.
    """
    return estimate([float(np.mean(samples)) for samples in correct.values()])


def paired_difference(
    first: Sequence[float], second: Sequence[float], *, flips: int = 100_000, seed: int = 0
) -> PairedDifference:
    """Compares two systems by one value per problem each, with a sign-flip (permutation) test.

    Under the hypothesis that the two are interchangeable each problem's difference could as well have had the
    other sign. Up to 16 problems that differ all sign patterns are tried and the p value is exact; above,
    `flips` random patterns are drawn from `seed`, and the observed one counts as one of them.

    Raises: `ValueError` if the two do not hold one value for each of the same problems (by their number).
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} values are compared with {len(second)}; give one of each per problem")
    differences = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    if not differences.size:
        return PairedDifference(math.nan, math.nan, math.nan, 0)
    return PairedDifference(
        float(differences.mean()),
        _standard_error(differences),
        _sign_flip_p_value(differences[differences != 0], flips, seed),
        differences.size,
    )


def position(index: int, count: int) -> str:
    """The part of a trace, one of `POSITIONS`, that holds the middle of step `index` (from 0) of `count`.

    The paper speaks of the first 40 % and the last 20 % of the steps.
    """
    middle = (index + 0.5) / count
    return POSITIONS[0] if middle < 0.4 else POSITIONS[1] if middle < 0.8 else POSITIONS[2]


def shares(authors: Sequence[Sequence[str]], teachers: Sequence[str]) -> dict[str, dict[str, float]]:
    """Each teacher's share of all steps and of those at each position.

    Args:
      authors: for each trace, the teacher of each of its steps.
      teachers: the names to report, also of those that wrote nothing.

    Returns: {"all" and each of `POSITIONS`: {teacher: share from 0 to 1}}; the shares of a position that no
    step falls on are all 0.
    """
    counts = {part: Counter() for part in ("all", *POSITIONS)}
    for trace in authors:
        for index, teacher in enumerate(trace):
            counts["all"][teacher] += 1
            counts[position(index, len(trace))][teacher] += 1
    return {
        part: {teacher: count[teacher] / max(1, count.total()) for teacher in teachers}
        for part, count in counts.items()
    }


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / math.sqrt(values.size)) if values.size > 1 else math.nan


def _sign_flip_p_value(differences: np.ndarray, flips: int, seed: int) -> float:
    """Two-sided p value of the sum of nonzero differences."""
    # Sums of the same numbers in another order differ by rounding; what is that close counts as equal.
    observed = abs(differences.sum()) * (1 - 1e-12) - 1e-12
    if differences.size <= _EXACT_UP_TO:
        signs = np.array(list(itertools.product((-1.0, 1.0), repeat=differences.size)))
        return float(np.mean(np.abs(signs @ differences) >= observed))
    generator = np.random.default_rng(seed)
    extreme = 0
    for start in range(0, flips, _BLOCK):
        signs = generator.integers(0, 2, (min(_BLOCK, flips - start), differences.size)) * 2.0 - 1.0
        extreme += int(np.count_nonzero(np.abs(signs @ differences) >= observed))
    return (extreme + 1) / (flips + 1)
