"""The study's tables, as lines of Markdown."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from cord_jax.statistics import POSITIONS
from cord_jax.study import arms
from cord_jax.study.arms import NOISE, Learner, Writing
from cord_jax.study.comparisons import BySeed, Comparison, compare, correct, family, mean_of
from cord_jax.study.orderings import CONDITIONS, LEAD, LEARNING, ORDERINGS, SECOND_ROUND

Results = Mapping[str, BySeed]
_NOTHING = "-"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table; the first column is text, the others are numbers."""
    lines = [f"| {' | '.join(head)} |", "|" + "---|" + "---:|" * (len(head) - 1)]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows)]


def students(results: Results) -> list[str]:
    """Every student: rows, tokens that writing them took, pass@1."""
    rows = []
    for arm in arms.LEARNERS:
        if (of := results.get(arm.name)) is None:
            continue
        rows.append(
            (
                arm.label,
                _mean([r.get("rows") for r in of.values()], "{:.0f}"),
                _mean([r.get("right_rows") for r in of.values()], "{:.1f}"),
                _millions(_tokens_of(arm, results)),
                _estimate(mean_of(of, "pass@1")),
                str(len(of)),
            )
        )
    return table(("student", "rows", "right rows", "tokens processed, millions", "pass@1", "seeds"), rows)


def comparisons(found: Sequence[Comparison]) -> list[str]:
    """Differences with intervals, p values and decisions."""
    rows = [
        (
            f"{_label(c.first)} - {_label(c.second)}",
            f"{c.difference:+.3f} ± {c.interval:.3f}",
            f"± {c.seeds_interval:.3f}",
            _number(c.effect, "{:+.2f}"),
            _p(c.over_puzzles),
            _p(c.over_seeds),
            _p(c.corrected),
            c.decision,
        )
        for c in found
    ]
    head = ("", "difference", "over seeds", "effect", "p, puzzles", "p, seeds", "corrected", "first has more")
    return table(head, rows)


def lead(results: Results) -> list[Comparison]:
    """The student after CoRD, with and without the filter, against all others: one family."""
    return family(results, LEAD)


def learning(results: Results) -> list[str]:
    """What the rows of students bring, and their weights."""
    return comparisons(family(results, LEARNING))


def second_round(results: Results) -> list[str]:
    """What a second round brings; the measure stands behind each pair."""
    found = family(results, SECOND_ROUND)
    if not found:
        return []
    head, line, *rows = comparisons(found)
    rows = [
        row.replace(" | ", f", {c.measure.replace('_', ' ')} | ", 1)
        for row, c in zip(rows, found, strict=True)
    ]
    return [head, line, *rows]


def writings(results: Results, chosen: Sequence[Writing] = arms.WRITINGS) -> list[str]:
    """Every way of writing: what its traces are like, and what they cost."""
    rows = []
    for arm in chosen:
        if (of := results.get(arm.name)) is None:
            continue
        rounds = _rounds(of)
        wrong, equations = np.sum([r["wrong_equations"] for r in of.values()], axis=0)
        puzzles = [len(r["right"]) for r in of.values()]
        rows.append(
            (
                arm.label,
                _estimate(mean_of(of, "right")),
                _estimate(mean_of(of, "implied")),
                _estimate(mean_of(of, "predictive_perplexity")),
                f"{wrong / max(1, equations):.1%}",
                f"{rounds[2] / max(1, rounds[1]):.1%}" if rounds is not None else _NOTHING,
                f"{rounds[3] / max(1, rounds[1]):.1%}" if rounds is not None else _NOTHING,
                f"{sum(sum(r['tokens'].values()) for r in of.values()) / sum(puzzles):.0f}",
                f"{sum(r['seconds'] for r in of.values()) / sum(r['puzzles'] for r in of.values()):.2f}",
                str(sum(puzzles)),
            )
        )
    head = (
        "traces",
        "right",
        "implied by the text",
        "predictive perplexity",
        "wrong equations",
        "right step kept",
        "ranked first",
        "tokens a puzzle",
        "seconds a puzzle",
        "puzzles",
    )
    return table(head, rows)


def orderings(results: Results) -> list[str]:
    """Each statement of the paper, and what holds here; corrected over all of them."""
    known = [(o, c) for o in ORDERINGS if (c := compare(results, o.measure, o.first, o.second)) is not None]
    decided = {id(o): c for (o, _), c in zip(known, correct([c for _, c in known]))}
    rows = []
    for ordering in ORDERINGS:
        c = decided.get(id(ordering))
        if c is None:
            rows.append((ordering.text, _NOTHING, _NOTHING, "not measured"))
        else:
            rows.append(
                (ordering.text, f"{c.difference:+.3f} ± {c.interval:.3f}", _p(c.corrected), c.decision)
            )
    return table(("in the paper", "difference here", "corrected p", "here"), rows)


def hit_rates(results: Results) -> list[str]:
    """Who wrote which part of CoRD's traces."""
    rows = []
    for name in ("cord", "cord_filtered", "mcts", "greedy"):
        for teacher in _teachers(results.get(name, {})):
            shares = [
                _mean([r["share"][part][teacher] for r in results[name].values()], "{:.1%}")
                for part in ("all", *POSITIONS)
            ]
            rows.append((f"{_label(name)}: {teacher}", *shares))
    return table(("", "all steps", "first 40 %", "middle 40 %", "last 20 %"), rows)


def advantage(results: Results, name: str) -> tuple[Comparison | None, float | None, float | None]:
    """CoRD's lead over curation in right traces under a condition; its in-beam precision; rounds with a right proposal."""
    ours, theirs = ("cord", "curation") if not name else (f"{name}_cord", f"{name}_curation")
    rounds = _rounds(results.get(ours, {}))
    if rounds is None:
        return None, None, None
    precision = float(rounds[2] / max(1, rounds[1])), float(rounds[1] / max(1, rounds[0]))
    return compare(results, "right", ours, theirs), *precision


def conditions(results: Results) -> list[str]:
    """CoRD and curation under each condition, and what is left of the advantage."""
    names = ["", *(f"noise_{noise}" for noise in NOISE), *CONDITIONS]
    found = [(name, *advantage(results, name)) for name in names]
    known = [row for row in found if row[1] is not None]
    corrected = correct([row[1] for row in known if row[1] is not None])
    rows = []
    for (name, _, kept, present), c in zip(known, corrected):
        label = "as it is" if not name else _label(f"{name}_cord").removeprefix("CoRD, ")
        rows.append(
            (
                label,
                _estimate(mean_of(results[c.first], "right")),
                _estimate(mean_of(results[c.second], "right")),
                f"{c.difference:+.3f} ± {c.interval:.3f}",
                f"{present:.1%}",
                f"{kept:.1%}",
                _p(c.corrected),
                c.decision,
            )
        )
    head = (
        "condition",
        "CoRD",
        "curation",
        "advantage",
        "right step proposed",
        "and kept",
        "corrected p",
        "CoRD has more",
    )
    return table(head, rows)


def score_and_correctness(results: Results) -> list[str]:
    """How well the score tells right from wrong, by step and by trace."""
    rows = []
    for arm in arms.WRITINGS:
        found = [r["candidates"] for r in results.get(arm.name, {}).values() if "candidates" in r]
        if not found or arm.settings.get("selector", "predictive_perplexity") != "predictive_perplexity":
            continue
        right, wrong = (np.sum([c["rises"][name] for c in found], axis=0) for name in ("right", "wrong"))
        wins = np.sum([c["wins"] for c in found], axis=0)
        ranks = {rank: sum(c["ranks"].get(rank, 0) for c in found) for rank in ("1", "2", "3", "4")}
        total = sum(sum(c["ranks"].values()) for c in found)
        rows.append(
            (
                arm.label,
                _ratio(np.sum([c["auc"] for c in found], axis=0), "{:.3f}"),
                _ratio(np.sum([c["auc_complete"] for c in found], axis=0), "{:.3f}"),
                _ratio((ranks["1"], total), "{:.1%}"),
                _ratio((sum(ranks.values()), total), "{:.1%}"),
                _ratio(right, "{:.1%}"),
                _ratio(wrong, "{:.1%}"),
                _ratio(wins, "{:.1%}"),
            )
        )
    head = (
        "",
        "AUC in a round",
        "AUC, complete",
        "best right one first",
        "among the first 4",
        "right steps raise it",
        "wrong steps raise it",
        "wrong above right",
    )
    return table(head, rows)


def calibration(results: Results, name: str) -> list[tuple[int, int]]:
    """(right, all) complete candidates of an arm, by tenths of the score."""
    found = [r["candidates"]["histogram_complete"] for r in results.get(name, {}).values()]
    if not found:
        return []
    right, wrong = (np.sum([h[kind] for h in found], axis=0) for kind in ("right", "wrong"))
    return [(int(r), int(r + w)) for r, w in zip(right, wrong)]


def calibrations(results: Results) -> list[str]:
    """How many complete candidates with a score of so many tenths are right."""
    names = [name for name in ("cord", "cord_filtered", "curation", "curation_x2") if name in results]
    rows = []
    for place in range(10):
        cells = [calibration(results, name)[place] for name in names]
        rows.append((f"{place / 10:.1f} to {(place + 1) / 10:.1f}", *(_share(*cell) for cell in cells)))
    return table(("score", *map(_label, names)), rows)


def decoys(results: Results) -> list[str]:
    """What the winners' reasoning says of wrong answers."""
    rows = []
    for arm in arms.WRITINGS:
        found = [r["decoys"] for r in results.get(arm.name, {}).values() if "decoys" in r]
        if found:
            below, of = sum(d["below"] for d in found), sum(d["of"] for d in found)
            own = mean_of(results[arm.name], "predictive_perplexity")
            mean = np.mean([d["mean"] for d in found])
            rows.append((arm.label, _estimate(own), f"{mean:.4f}", _share(below, of)))
    return table(("traces", "the answer's score", "three decoys' mean", "all decoys below the answer"), rows)


def without(results: Results) -> list[str]:
    """What is left of the recorded trees without one teacher."""
    rows = []
    for name in ("cord", "greedy", "beam_2"):
        found = [r["candidates"]["without"] for r in results.get(name, {}).values()]
        for teacher in sorted({t for of in found for t in of}):
            kept, of = np.sum([f[teacher] for f in found if teacher in f], axis=0)
            rows.append((f"{_label(name)}, without {teacher}", _share(int(kept), int(of))))
    return table(("recorded trees", "rounds that keep a right candidate"), rows)


def gains(results: Results) -> list[tuple[str, float, float, float]]:
    """Of each pool: label, the teachers' agreement and error correlation (mean over pairs), CoRD's gain over curation."""
    rows = []
    for name in ("", "no_sums", "no_products", "no_shares", "homogeneous", "identical", "useless"):
        theirs = results.get(f"{name}_curation" if name else "curation", {})
        found = [r["similarity"] for r in theirs.values() if r.get("similarity")]
        comparison, _, _ = advantage(results, name)
        if found and comparison is not None:
            pairs = [pair for of in found for pair in of.values()]
            label = "three teachers" if not name else _label(f"{name}_cord").removeprefix("CoRD, ")
            agreement, errors = (float(np.mean([p[key] for p in pairs])) for key in ("numbers", "errors"))
            rows.append((label, agreement, errors, comparison.difference))
    return rows


def similarity(results: Results) -> list[str]:
    """How alike the teachers of a pool are, and what CoRD gains over curation with them."""
    rows = [(label, f"{a:.1%}", f"{e:+.2f}", f"{gain:+.3f}") for label, a, e, gain in gains(results)]
    return table(("pool", "same number in a step", "correlation of errors", "CoRD - curation"), rows)


def compute_points(results: Results) -> list[tuple[str, float, float]]:
    """(arm, tokens a puzzle, right traces by what the text implies) of each way of spending compute."""
    points = []
    for name in ("greedy", "beam_2", "cord", "beam_8", "mcts", "cord_filtered"):
        if of := results.get(name):
            points.append(
                (name, _per_puzzle(of), float(np.mean([np.mean(r["implied"]) for r in of.values()])))
            )
    if of := results.get("curation_x2"):
        counts = np.sum([r["best_of_fewer"] for r in of.values()], axis=0)
        puzzles = sum(len(r["right"]) for r in of.values())
        for width, right in enumerate(counts, start=1):
            points.append(
                (f"curation of {3 * width}", _per_puzzle(of) * width / len(counts), right / puzzles)
            )
    return points


def compute(results: Results) -> list[str]:
    """Right traces against the tokens that networks process for one."""
    rows = [
        (_label(name) if name in arms.BY_NAME else name, f"{tokens:.0f}", f"{right:.3f}")
        for name, tokens, right in compute_points(results)
    ]
    return table(("", "tokens a puzzle", "right (implied by the text)"), rows)


def _per_puzzle(of: BySeed) -> float:
    return sum(sum(r["tokens"].values()) for r in of.values()) / sum(len(r["right"]) for r in of.values())


def _tokens_of(arm: Learner, results: Results) -> float | None:
    """Millions of tokens of a seed that went into the rows a student learns from."""
    of = results.get(arm.traces or "")
    if not of:
        return None
    writing = arms.BY_NAME[arm.traces or ""]
    puzzles = float(np.mean([len(r["right"]) for r in of.values()]))
    if arm.rows in ("all", "right"):
        puzzles = float(np.mean([r["puzzles"] for r in of.values()]))
    assert isinstance(writing, Writing)
    return _per_puzzle(of) * puzzles / 1e6


def _rounds(of: BySeed) -> Any:
    """Rounds on a right text, those with a right proposal, with one kept, with one first; None without such counts."""
    found = [results["rounds"] for results in of.values() if "rounds" in results]
    return np.sum(found, axis=0) if found else None


def _teachers(of: BySeed) -> list[str]:
    return list(next(iter(of.values()))["share"]["all"]) if of else []


def _label(name: str) -> str:
    return arms.BY_NAME[name].label


def _estimate(estimate: Any) -> str:
    if estimate is None:
        return _NOTHING
    return f"{estimate.mean:.3f} ± {estimate.standard_error:.3f}"


def _mean(values: Sequence[float | None], form: str) -> str:
    present = [value for value in values if value is not None]
    return form.format(float(np.mean(present))) if present else _NOTHING


def _millions(value: float | None) -> str:
    return _NOTHING if value is None else f"{value:.2f}"


def _number(value: float, form: str) -> str:
    return _NOTHING if math.isnan(value) else form.format(value)


def _p(value: float) -> str:
    return _NOTHING if math.isnan(value) else f"{value:.2g}"


def _ratio(pair: Sequence[float], form: str) -> str:
    return form.format(pair[0] / pair[1]) if pair[1] else _NOTHING


def _share(part: float, of: float) -> str:
    return f"{part / of:.1%} of {of}" if of else _NOTHING
