"""Score against correctness: measures of the candidates that a search recorded, which the miniature's world can judge.

A text is right while every step works the line of the question that it should and arrives at the puzzle's number, and its
reasoning ends with the last line. All measures are counts, which add up over puzzles and seeds.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from cord_jax.endings import CONCLUDING
from cord_jax.miniature import world
from cord_jax.miniature.wording import Written, follows, implied_answer, read_step, read_steps

BINS = 10
_FILTER = "arithmetic"

Row = Mapping[str, Any]


def right_nodes(question: str, rows: Iterable[Row]) -> dict[int, bool]:
    """Node -> whether the text that ends with it is right; of one puzzle's rows of `tree.jsonl`, each node a step."""
    puzzle = world.read_puzzle(question)
    values = puzzle.values
    steps: dict[int, tuple[Written | None, ...]] = {0: ()}
    right: dict[int, bool] = {0: True}
    for row in rows:
        if row["dropped"] not in (None, _FILTER):
            continue
        before = steps[row["parent"]]
        number = len(before)
        step = read_step(row["text"], number + 1)
        steps[row["node"]] = (*before, step)
        right[row["node"]] = (
            right[row["parent"]]
            and follows(puzzle, before, step)
            and step is not None
            and step.number == values[number]
            and (row["ended"] in CONCLUDING) == (number + 1 == len(values))
        )
    return right


def right_wholes(question: str, rows: Iterable[Row]) -> dict[int, bool]:
    """Node -> whether a whole trace implies the right answer."""
    puzzle = world.read_puzzle(question)
    return {0: True} | {
        row["node"]: implied_answer(puzzle, read_steps(row["text"])) == puzzle.answer
        for row in rows
        if row["dropped"] is None
    }


def auc(right: Sequence[float], wrong: Sequence[float]) -> float:
    """The chance that a right one has the greater score than a wrong one, equal ones counting half."""
    statistic = stats.mannwhitneyu(right, wrong, method="asymptotic").statistic
    return float(statistic) / (len(right) * len(wrong))


def measure(
    puzzles: Sequence[tuple[str, Sequence[Row]]],
    judge: Callable[[str, Iterable[Row]], dict[int, bool]],
    group: str,
) -> dict[str, Any]:
    """Counts over some puzzles.

    Args:
        puzzles: question and rows of the tree, of each.
        judge: `right_nodes` or `right_wholes`.
        group: the field that candidates of one round have in common: `step` for beams, `beam` for expansions.

    Returns:
        `auc`: [sum over rounds, rounds] of `auc` within a round, where there are right and wrong ones.
        `auc_complete`: the same over a puzzle's complete candidates.
        `ranks`: how often the best right candidate of a round had which place by its score, from 1.
        `histogram`: for right and wrong candidates, how many have a score in which tenth of 0 to 1.
        `histogram_complete`: the same of complete ones.
        `rises`: for right and wrong steps on a right text, [how many have a higher score than that text, of how many].
        `filtered`: right and wrong candidates that the filter dropped.
        `wins`: rounds that a wrong candidate on a right text won although there was a right one, of how many.
        `without`: teacher -> [rounds on a right text that keep a right candidate without it, of how many].
    """
    found: dict[str, Any] = {
        "auc": [0.0, 0],
        "auc_complete": [0.0, 0],
        "ranks": Counter(),
        "histogram": {"right": [0] * BINS, "wrong": [0] * BINS},
        "histogram_complete": {"right": [0] * BINS, "wrong": [0] * BINS},
        "rises": {"right": [0, 0], "wrong": [0, 0]},
        "filtered": {"right": 0, "wrong": 0},
        "wins": [0, 0],
        "without": defaultdict(lambda: [0, 0]),
    }
    for question, rows in puzzles:
        _measure_one(found, rows, judge(question, rows), group)
    found["ranks"] = {str(rank): n for rank, n in sorted(found["ranks"].items())}
    found["without"] = dict(found["without"])
    found["auc"][0], found["auc_complete"][0] = round(found["auc"][0], 4), round(found["auc_complete"][0], 4)
    return found


def _measure_one(found: dict[str, Any], rows: Sequence[Row], right: Mapping[int, bool], group: str) -> None:
    scores = {row["node"]: row["score"] for row in rows}
    valid = [row for row in rows if row["dropped"] is None and row["score"] is not None]
    for row in rows:
        if row["dropped"] == _FILTER:
            found["filtered"][_name(right.get(row["node"], False))] += 1
    rounds = defaultdict(list)
    for row in valid:
        rounds[row[group]].append(row)
        name, parent = _name(right[row["node"]]), row["parent"]
        place = min(BINS - 1, int(max(0.0, row["score"]) * BINS))
        found["histogram"][name][place] += 1
        if row["ended"] in CONCLUDING:
            found["histogram_complete"][name][place] += 1
        if parent and right.get(parent) and scores[parent] is not None:
            rose, of = found["rises"][name]
            found["rises"][name] = [rose + (row["score"] > scores[parent]), of + 1]
    for of_round in rounds.values():
        _measure_round(found, of_round, right)
    _add_auc(found["auc_complete"], [row for row in valid if row["ended"] in CONCLUDING], right)


def _measure_round(found: dict[str, Any], rows: Sequence[Row], right: Mapping[int, bool]) -> None:
    _add_auc(found["auc"], rows, right)
    good = [row for row in rows if right[row["node"]]]
    if not good:
        return
    best = max(row["score"] for row in good)
    found["ranks"][1 + sum(row["score"] > best for row in rows)] += 1
    rivals = [
        row for row in rows if right.get(row["parent"]) and not right[row["node"]] and row["score"] >= best
    ]
    found["wins"] = [found["wins"][0] + bool(rivals), found["wins"][1] + 1]
    for teacher in {row["teacher"] for row in rows}:
        kept = any(row["teacher"] != teacher for row in good)
        found["without"][teacher] = [found["without"][teacher][0] + kept, found["without"][teacher][1] + 1]


def _add_auc(total: list, rows: Sequence[Row], right: Mapping[int, bool]) -> None:
    good = [row["score"] for row in rows if right[row["node"]]]
    bad = [row["score"] for row in rows if not right[row["node"]]]
    if good and bad:
        total[0] += auc(good, bad)
        total[1] += 1


def _name(right: bool) -> str:
    return "right" if right else "wrong"


def best_of_fewer(puzzles: Sequence[tuple[str, Sequence[Row]]], most: int) -> list[list[int]]:
    """For 1, 2, ... `most` whole traces of each teacher: the puzzles whose best one implies the right answer, as 0 and 1.

    The trace that curation takes with fewer samples is known from a tree with more, since samples do not depend on their
    number.
    """
    taken = []
    for width in range(1, most + 1):
        of_width = []
        for question, rows in puzzles:
            right = right_wholes(question, rows)
            fit = [row for row in rows if row["beam"] < width and row["dropped"] is None]
            winner = max(fit, key=lambda row: (row["score"], -row["node"]), default=None)
            of_width.append(int(winner is not None and right[winner["node"]]))
        taken.append(of_width)
    return taken


def similarity(puzzles: Sequence[tuple[str, Sequence[Row]]]) -> dict[str, dict[str, float]]:
    """How alike two teachers write, from whole traces of the same puzzles: `A, B` -> `numbers`, `words`, `errors`.

    `numbers`: the share of steps that put the same number into the same box. `words`: the share of words that they have in
    common (Jaccard). `errors`: the correlation, over puzzles and steps, of whether the number is the right one.
    """
    values: dict[str, list[np.ndarray]] = defaultdict(list)
    words: dict[str, list[frozenset[str]]] = defaultdict(list)
    gold: list[np.ndarray] = []
    for question, rows in puzzles:
        puzzle = world.read_puzzle(question)
        gold.append(np.array(puzzle.values))
        for row in rows:
            if row["beam"] == 0:
                boxes = {step.box: step.number for step in read_steps(row["text"]) if step is not None}
                numbers = [boxes.get(world.BOXES[i], -1) for i in range(len(puzzle.steps))]
                values[row["teacher"]].append(np.array(numbers))
                words[row["teacher"]].append(frozenset(row["text"].split()))
    teachers, truth = sorted(values), np.concatenate(gold)
    table: dict[str, dict[str, float]] = {}
    joined = {teacher: np.concatenate(values[teacher]) for teacher in teachers}
    for i, one in enumerate(teachers):
        for other in teachers[i + 1 :]:
            shared = [len(a & b) / max(1, len(a | b)) for a, b in zip(words[one], words[other], strict=True)]
            with np.errstate(invalid="ignore"):  # a teacher without any error, or with nothing else
                errors = np.corrcoef(joined[one] != truth, joined[other] != truth)[0, 1]
            table[f"{one}, {other}"] = {
                "numbers": round(float(np.mean(joined[one] == joined[other])), 4),
                "words": round(float(np.mean(shared)), 4),
                "errors": round(float(errors), 4) if np.isfinite(errors) else 0.0,
            }
    return table
