"""Results of all arms, and two of them compared: paired over puzzles and over seeds, corrected for how many are compared.

Students of all seeds solve the same puzzles, so a puzzle's value is the mean over seeds. Traces of two arms are of the same
puzzles, others in each seed, so all puzzles of all seeds are values. `over_puzzles` asks whether the difference would hold
for other puzzles with these very runs, `over_seeds` whether it would for other runs; a decision asks for both.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from cord_jax import statistics
from cord_jax.study import arms, cells
from cord_jax.study.arms import Learner
from cord_jax.study.config import StudyConfig
from cord_jax.study.definitions import definition_of

LEVEL = 0.05
HOLDS, OPPOSITE, OPEN = "holds", "the opposite holds", "not decided"

BySeed = Mapping[int, Mapping[str, Any]]


def read_results(config: StudyConfig) -> dict[str, BySeed]:
    """Arm -> seed -> results, of all cells that are there.

    Raises: `UserError` if a cell is of another study.
    """
    found: dict[str, BySeed] = {}
    for arm in arms.IN_ORDER:
        definition = definition_of(arm, config)
        of_arm = {
            seed: cells.read_cell(Path(config.output_dir), arm.name, seed, definition)
            for seed in config.all_seeds
        }
        if present := {seed: results for seed, results in of_arm.items() if results is not None}:
            found[arm.name] = present
    return found


def values_of(results: Mapping[str, Any], measure: str) -> list[float] | None:
    """One value for each puzzle, or None: `pass@1` of students; `right`, `implied`, `predictive_perplexity` of traces."""
    if measure == "pass@1":
        correct = results.get("correct")
        return None if correct is None else [n / results["samples"] for n in correct]
    return results.get(measure)


def mean_of(results: BySeed, measure: str) -> statistics.Estimate | None:
    """The mean over seeds; None if there is no value. Its error is that over seeds, or over puzzles of a single seed."""
    lists = [values for of in results.values() if (values := values_of(of, measure))]
    if not lists:
        return None
    return statistics.estimate([float(np.mean(of)) for of in lists] if len(lists) > 1 else lists[0])


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How much more of a measure one arm has than another.

    Attributes:
        measure, first, second: the measure and the names of the arms.
        difference: of the means; interval: half the width of its 95 % interval over puzzles; seeds_interval: the same
            over seeds (t distribution), nan with one seed.
        effect: the difference in units of the standard deviation of the puzzles' differences; nan if all are equal.
        over_puzzles, over_seeds: two-sided p values, of a permutation test over puzzles and a paired t-test over seeds.
        seeds, puzzles: their numbers.
        corrected: the greater of the two p values after Holm's correction in its family, see `correct`.
    """

    measure: str
    first: str
    second: str
    difference: float
    interval: float
    seeds_interval: float
    effect: float
    over_puzzles: float
    over_seeds: float
    seeds: int
    puzzles: int
    corrected: float = math.nan

    @property
    def decision(self) -> str:
        """Whether the first has more: `HOLDS`, `OPPOSITE` or `OPEN`."""
        if not self.corrected <= LEVEL:
            return OPEN
        return HOLDS if self.difference > 0 else OPPOSITE


def compare(all_results: Mapping[str, BySeed], measure: str, first: str, second: str) -> Comparison | None:
    """Compares two arms on the seeds and puzzles that both have; None if there is nothing to compare."""
    pairs = []
    for seed in sorted(set(all_results.get(first, {})) & set(all_results.get(second, {}))):
        of_both = [values_of(all_results[name][seed], measure) for name in (first, second)]
        if None not in of_both:
            count = min(len(of or ()) for of in of_both)
            pairs.append([np.asarray(of, np.float64)[:count] for of in of_both])
    if not pairs:
        return None
    if isinstance(arms.BY_NAME.get(first), Learner):
        ours, theirs = (np.mean([pair[side] for pair in pairs], axis=0) for side in (0, 1))
    else:
        ours, theirs = (np.concatenate([pair[side] for pair in pairs]) for side in (0, 1))
    paired = statistics.paired_difference(ours, theirs, flips=20_000)
    spread = float(np.std(ours - theirs, ddof=1)) if len(ours) > 1 else 0.0
    means = np.array([[of.mean() for of in pair] for pair in pairs])
    by_seed = means[:, 0] - means[:, 1]
    over_seeds, seeds_interval = _over_seeds(by_seed)
    return Comparison(
        measure,
        first,
        second,
        paired.difference,
        1.96 * paired.standard_error,
        seeds_interval,
        paired.difference / spread if spread > 0 else math.nan,
        paired.p_value,
        over_seeds,
        len(pairs),
        paired.count,
    )


def _over_seeds(differences: np.ndarray) -> tuple[float, float]:
    """The p value of a paired t-test, and half the width of the 95 % interval; (nan, nan) with one seed."""
    if differences.size < 2:
        return math.nan, math.nan
    error = float(stats.sem(differences))
    if error == 0:
        return (1.0 if differences[0] == 0 else 0.0), 0.0
    return (
        float(stats.ttest_1samp(differences, 0.0).pvalue),
        float(stats.t.ppf(0.975, differences.size - 1)) * error,
    )


def correct(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Holm's correction over one family, for each of the two tests; one seed decides nothing."""
    over_puzzles = statistics.holm([c.over_puzzles for c in comparisons])
    over_seeds = statistics.holm([1.0 if math.isnan(c.over_seeds) else c.over_seeds for c in comparisons])
    return [
        dataclasses.replace(c, corrected=max(both))
        for c, both in zip(comparisons, zip(over_puzzles, over_seeds))
    ]


def family(all_results: Mapping[str, BySeed], wanted: Sequence[tuple[str, str, str]]) -> list[Comparison]:
    """Compares (measure, first, second) of each, as one family; pairs without results are left out."""
    return correct([c for one in wanted if (c := compare(all_results, *one)) is not None])
