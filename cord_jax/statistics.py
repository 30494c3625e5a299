"""Means with standard errors and paired comparisons, which say how sure a number is; shares of traces by writer.

Problems are the unit: the samples of one problem are not independent, so standard errors are over problems,
and two systems are compared on the same problems.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import scipy

POSITIONS = ("first_40", "middle_40", "last_20")
_BATCH = 1024


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
    """The lead of one system over another on the same problems.

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


def pass_at_k(correct: Mapping[str, Sequence[bool]], k: int) -> Estimate:
    """The chance that one of k samples of a problem is right, without bias, and its standard error over problems.

    Of n samples, c of them right: 1 - C(n - c, k) / C(n, k) (Chen et al. 2021, section 2.1). Equals `pass_at_1` for 1.

    Args:
      correct: problem id -> whether each of its samples is right; every problem has k samples or more.
    """
    values = [
        1 - math.comb(len(samples) - sum(samples), k) / math.comb(len(samples), k)
        for samples in correct.values()
    ]
    return estimate(values)


def paired_difference(
    first: Sequence[float], second: Sequence[float], *, flips: int = 100_000, seed: int = 0
) -> PairedDifference:
    """Compares two systems by one value per problem each, with a permutation test.

    Under the hypothesis that the two are interchangeable each problem's difference could as well have had the
    other sign. Where there are no more than `flips` patterns of signs (16 problems by default) all are tried and the
    p value is exact; else as many are drawn from `seed`, and the observed one counts as one of them.

    Raises: `ValueError` if the two do not hold one value for each of the same problems (by their number).
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} values are compared with {len(second)}; give one of each per problem")
    if not len(first):
        return PairedDifference(math.nan, math.nan, math.nan, 0)
    differences = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    p_value = 1.0
    if differences.size > 1:
        p_value = scipy.stats.permutation_test(
            (differences, np.zeros_like(differences)),
            lambda a, b, axis: np.mean(a - b, axis=axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=flips,
            batch=_BATCH,
            rng=np.random.default_rng(seed),
        ).pvalue
    return PairedDifference(
        float(differences.mean()), _standard_error(differences), float(p_value), differences.size
    )


def ratio(parts: Sequence[float], wholes: Sequence[float]) -> Estimate:
    """A share of the total, sum(parts) / sum(wholes) over problems, with its standard error over problems.

    The error is that of a ratio estimator (Cochran, Sampling Techniques, section 2.11): problems with more steps weigh more,
    and the steps of one problem are not independent. With equal wholes it is that of `estimate`.

    Args:
      parts, wholes: of each problem; those whose whole is 0 do not count.
    """
    part, whole = np.asarray(parts, np.float64), np.asarray(wholes, np.float64)
    part, whole = part[whole > 0], whole[whole > 0]
    if not whole.size:
        return Estimate(math.nan, math.nan, 0)
    share = float(part.sum() / whole.sum())
    return Estimate(share, _standard_error((part - share * whole) / whole.mean()), whole.size)


def holm(p_values: Sequence[float]) -> list[float]:
    """P values corrected for their number (Holm 1979): of those at most 0.05 one is wrong in at most 5 % of families.

    The least is multiplied by their number n, the next by n - 1 and so on; none becomes less than one before it, nor more
    than 1.
    """
    order = np.argsort(p_values, kind="stable")
    corrected = np.maximum.accumulate(np.asarray(p_values, np.float64)[order] * np.arange(order.size, 0, -1))
    values = np.empty(order.size)
    values[order] = np.minimum(corrected, 1.0)
    return values.tolist()


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
    counts: dict[str, Counter[str]] = {part: Counter() for part in ("all", *POSITIONS)}
    for trace in authors:
        for index, teacher in enumerate(trace):
            counts["all"][teacher] += 1
            counts[position(index, len(trace))][teacher] += 1
    return {
        part: {teacher: count[teacher] / max(1, count.total()) for teacher in teachers}
        for part, count in counts.items()
    }


def _standard_error(values: np.ndarray) -> float:
    return float(scipy.stats.sem(values)) if values.size > 1 else math.nan
