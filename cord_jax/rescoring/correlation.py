"""How alike two scores rank candidates."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from scipy import stats

# Problem and step of a candidate, its old and its new score.
Pair = tuple[str, int, float, float]


def rank_correlations(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Spearman's and Kendall's (tau-b) correlation of old and new scores.

    Returns: `candidates`; `spearman` and `kendall` over all of them; `within_rounds`: `rounds` in which both scores tell
      candidates apart, and the means over them. Null where nothing can be said.
    """
    rounds: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for problem, step, old, new in pairs:
        rounds.setdefault((problem, step), []).append((old, new))
    each = [found for found in map(_correlations, rounds.values()) if None not in found]
    spearman, kendall = _correlations([(old, new) for _, _, old, new in pairs])
    return {
        "candidates": len(pairs),
        "spearman": spearman,
        "kendall": kendall,
        "within_rounds": {
            "rounds": len(each),
            "spearman": _mean(found[0] for found in each),
            "kendall": _mean(found[1] for found in each),
        },
    }


def _correlations(pairs: Sequence[tuple[float, float]]) -> tuple[float | None, float | None]:
    old, new = zip(*pairs) if pairs else ((), ())
    if len(set(old)) < 2 or len(set(new)) < 2:
        return None, None
    spearman, kendall = stats.spearmanr(old, new).statistic, stats.kendalltau(old, new).statistic
    return round(float(spearman), 6), round(float(kendall), 6)


def _mean(values: Iterable[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return round(float(np.mean(found)), 6) if found else None
