"""The worth of each teacher, by what a recorded tree gives without it: leaving one out, and Shapley's shares.

Two worths of a group of teachers on a problem are told:

* by *search*: the score of the winner that they find among what they have written. It is known where the tree holds all that
  their search asks for, which is seldom the case in a tree of many steps, since who is left out has led the search;
* by *record*: the best score among the complete traces in the tree of which they have written every step. It is always
  known, and says what the tree owes to them, not what they would have written by themselves.

Both are 0 without such a trace, or without teachers.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cord_jax.endings import CONCLUDING
from cord_jax.rescoring.recorded_tree import RecordedTree
from cord_jax.rescoring.rules import Found

# Every group of teachers is searched for every problem.
MOST_TEACHERS = 8

Group = tuple[str, ...]
Search = Callable[[Group], Found]
# A complete trace: its score, and who has written each of its steps (duplicates have the same step from several).
Ending = tuple[float, frozenset[frozenset[str]]]


def groups_of(teachers: Sequence[str]) -> list[Group]:
    """All groups of one or more teachers, in their order."""
    sizes = range(1, len(teachers) + 1)
    return [group for size in sizes for group in itertools.combinations(teachers, size)]


def shapley(teachers: Sequence[str], worth: Mapping[Group, float]) -> dict[str, float]:
    """The Shapley value of each teacher: what it adds to those before it, over all orders; their sum is the worth of all.

    Args:
      worth: of every group of `groups_of`; that of nobody is 0.
    """
    values = dict.fromkeys(teachers, 0.0)
    number = len(teachers)
    for group in groups_of(teachers):
        weight = math.factorial(len(group) - 1) * math.factorial(number - len(group)) / math.factorial(number)
        for teacher in group:
            others = tuple(other for other in group if other != teacher)
            values[teacher] += weight * (worth[group] - worth.get(others, 0.0))
    return values


def leave_one_out(teachers: Sequence[str], problems: Sequence[tuple[Search, bool | None]]) -> dict[str, Any]:
    """Measures the pool without each of its teachers.

    Args:
      problems: of each the search, and whether the response of all teachers' winner is right, as far as it is known.

    Returns: teacher -> `covered` problems; over these, `score_with` and `score_without` it, the means of the winners'
      scores; `same`, problems that it does not change; `correct`, how many of these are known to be right.
    """
    found = {}
    for teacher in teachers:
        others = tuple(other for other in teachers if other != teacher)
        pairs = [(s(tuple(teachers)), s(others), correct) for s, correct in problems]
        pairs = [(whole, part, correct) for whole, part, correct in pairs if whole.covered and part.covered]
        same = [correct for whole, part, correct in pairs if whole.winner == part.winner]
        found[teacher] = {
            "covered": len(pairs),
            "score_with": _mean([whole.score or 0.0 for whole, _, _ in pairs]),
            "score_without": _mean([part.score or 0.0 for _, part, _ in pairs]),
            "same": len(same),
            "correct": sum(correct is True for correct in same),
        }
    return found


def shapley_shares(teachers: Sequence[str], problems: Sequence[Search]) -> dict[str, Any]:
    """Shapley's values of all teachers, as means over the problems that cover every group.

    Returns: `covered` problems; `value` and `share` (of the sum of values) by teacher, null without such a problem;
      `covered_by_group`: names joined by `+` -> problems whose tree holds what that group's search asks for.
    """
    groups = groups_of(teachers)
    covered = dict.fromkeys(groups, 0)
    total, whole = dict.fromkeys(teachers, 0.0), 0
    for search in problems:
        found = {group: search(group) for group in groups}
        for group, of_group in found.items():
            covered[group] += of_group.covered
        if all(of_group.covered for of_group in found.values()):
            whole += 1
            values = shapley(teachers, {group: f.score or 0.0 for group, f in found.items()})
            total = {teacher: total[teacher] + value for teacher, value in values.items()}
    added = sum(total.values())
    return {
        "covered": whole,
        "value": {t: round(value / whole, 6) if whole else None for t, value in total.items()},
        "share": {t: round(value / added, 6) if added else None for t, value in total.items()},
        "covered_by_group": {"+".join(group): count for group, count in covered.items()},
    }


def endings(tree: RecordedTree, scores: Mapping[int, float], max_steps: int) -> list[Ending]:
    """The complete traces of a tree; one at the last step counts as complete.

    Args:
      scores: node -> its score, of candidates that have one.
    """
    complete = [
        node
        for node in scores
        if tree.by_node[node].ended in CONCLUDING or tree.by_node[node].step >= max_steps
    ]
    return [
        (scores[node], frozenset(tree.writers(candidate) for candidate in tree.path(node)))
        for node in complete
    ]


def credit(teachers: Sequence[str], problems: Sequence[Sequence[Ending]]) -> dict[str, Any]:
    """The worth of teachers by record, as means over problems.

    Args:
      problems: the `endings` of each.

    Returns: `score` of all of them; by teacher `without` it, and Shapley's `value` and `share` of the values' sum.
    """
    groups = groups_of(teachers)
    total = dict.fromkeys(groups, 0.0)
    for of_problem in problems:
        for group in groups:
            mine = frozenset(group)
            written = (s for s, writers in of_problem if all(mine & of_step for of_step in writers))
            total[group] += max(written, default=0.0) / len(problems)
    value, score = shapley(teachers, total), total[tuple(teachers)]
    without = {t: total.get(tuple(other for other in teachers if other != t), 0.0) for t in teachers}
    return {
        "score": round(score, 6),
        "without": {t: round(s, 6) for t, s in without.items()},
        "value": {t: round(v, 6) for t, v in value.items()},
        "share": {t: round(v / score, 6) if score else None for t, v in value.items()},
    }


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), 6) if values else None
