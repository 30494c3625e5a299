"""The quickstart's numbers and its report as text."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from cord_jax import statistics
from cord_jax.miniature.config import QuickstartConfig
from cord_jax.miniature.decomposition import Rounds
from cord_jax.miniature.results import SeedResults

NAMES = {
    "sums": "sums",
    "products": "products",
    "shares": "shares",
    "curation": "curation + filter",
    "cord": "CoRD",
    "cord_filtered": "CoRD + filter",
    "student_base": "base student",
    "student_curation": "after curation + filter",
    "student_cord": "after CoRD",
    "student_cord_filtered": "after CoRD + filter",
}
GROUPS = (("sums", "products", "shares"), ("curation", "cord", "cord_filtered"), tuple(list(NAMES)[6:]))
LENGTHS = ((6, 7), (8, 9), (10, 11), (12, 12))
_COMPARED = (
    ("right traces", "accuracy", "cord", "curation"),
    ("right traces", "accuracy", "cord_filtered", "curation"),
    ("answers implied by the text", "implied", "cord", "curation"),
    ("answers implied by the text", "implied", "cord_filtered", "curation"),
    ("score", "score", "cord", "curation"),
    ("score", "score", "cord_filtered", "curation"),
    ("students", "accuracy", "student_cord", "student_curation"),
    ("students", "accuracy", "student_cord_filtered", "student_curation"),
    ("students", "accuracy", "student_cord_filtered", "student_cord"),
    ("students", "accuracy", "student_cord_filtered", "student_base"),
)


def summarize(results: Sequence[SeedResults]) -> dict[str, Any]:
    """The numbers of the report, over the seeds.

    A standard error is over seeds, or over puzzles if there is only one seed. `differences` are paired: puzzle by
    puzzle, each puzzle's values averaged over the seeds (`difference`, its 95 % `interval`, `p_value` by flipping
    signs), and, with several seeds, between the seeds' means (`p_value_over_seeds`, by a paired t-test).
    """
    first, ranges = results[0], [range_name(*bounds) for bounds in LENGTHS]
    return {
        "seeds": len(results),
        "accuracy": {name: _estimate([r.accuracy[name] for r in results]) for name in first.accuracy},
        "mean_score": {name: _estimate([r.score[name] for r in results]) for name in first.score},
        "accuracy_by_steps": {
            name: dict(zip(ranges, _by_length(results, lambda r, name=name: r.accuracy[name])))
            for name in first.accuracy
        },
        "decomposition": {method: _decompose(results, method) for method in first.traces},
        "implied_by_steps": {
            method: dict(zip(ranges, _by_length(results, lambda r, m=method: _implied(r, m))))
            for method in first.traces
        },
        "differences": [_difference(results, *compared) for compared in _COMPARED],
        "share": {
            method: {
                part: {t: round(float(np.mean([r.share[method][part][t] for r in results])), 4) for t in by}
                for part, by in first.share[method].items()
            }
            for method in first.share
        },
    }


def range_name(low: int, high: int) -> str:
    return f"{low}-{high}" if high > low else str(low)


def _implied(result: SeedResults, method: str) -> dict[str, float]:
    return {problem: float(trace.implied) for problem, trace in result.traces[method].items()}


def _values(result: SeedResults, of: str, name: str) -> dict[str, float]:
    """Problem id -> value of a contestant."""
    if of == "implied":
        return _implied(result, name)
    return result.score[name] if of == "score" else result.accuracy[name]


def _estimate(by_seed: Sequence[Mapping[str, float]]) -> dict[str, float]:
    means = [float(np.mean(list(values.values()))) for values in by_seed]
    estimate = statistics.estimate(means if len(means) > 1 else list(by_seed[0].values()))
    return {"mean": round(estimate.mean, 6), "standard_error": round(estimate.standard_error, 6)}


def _by_length(
    results: Sequence[SeedResults], read: Callable[[SeedResults], Mapping[str, float]]
) -> list[float | None]:
    """Means over the puzzles of each range of lengths; None where there is none."""
    means = []
    for low, high in LENGTHS:
        values = [v for r in results for problem, v in read(r).items() if low <= r.steps[problem] <= high]
        means.append(round(float(np.mean(values)), 4) if values else None)
    return means


def _decompose(results: Sequence[SeedResults], method: str) -> dict[str, float]:
    traces = [trace for result in results for trace in result.traces[method].values()]
    numbers = {
        "traces": len(traces),
        "written": np.mean([trace.written for trace in traces]),
        "implied": np.mean([trace.implied for trace in traces]),
        "wrong_lines": sum(t.wrong_lines for t in traces) / max(1, sum(t.texts for t in traces)),
        "wrong_equations": sum(t.wrong_equations for t in traces) / max(1, sum(t.equations for t in traces)),
        "right_with_a_wrong_equation": sum(t.written and t.wrong_equations > 0 for t in traces)
        / max(1, sum(t.written for t in traces)),
    }
    if method in results[0].rounds:
        total = sum((r for result in results for r in result.rounds[method].values()), Rounds())
        numbers |= {
            "rounds": total.rounds,
            "present": total.present / total.rounds,
            "kept": total.kept / max(1, total.present),
            "first": total.first / max(1, total.present),
        }
    return {name: round(float(value), 6) for name, value in numbers.items()}


def _difference(results: Sequence[SeedResults], what: str, of: str, first: str, second: str) -> dict:
    """How much more of `of` the first has than the second."""
    pairs = [(_values(result, of, first), _values(result, of, second)) for result in results]
    problems = sorted(pairs[0][0])
    averages = [[float(np.mean([pair[i][p] for pair in pairs])) for p in problems] for i in (0, 1)]
    paired = statistics.paired_difference(*averages)
    numbers = {
        "difference": paired.difference,
        "interval": 1.96 * paired.standard_error,
        "p_value": paired.p_value,
    }
    if len(results) > 1:
        means = [[np.mean(list(values.values())) for values in of_one] for of_one in zip(*pairs)]
        numbers["standard_error_over_seeds"] = statistics.estimate(list(np.subtract(*means))).standard_error
        numbers["p_value_over_seeds"] = float(stats.ttest_rel(*means).pvalue)
    numbers = {name: None if math.isnan(v) else round(float(v), 6) for name, v in numbers.items()}
    return {"what": what, "first": first, "second": second, **numbers}


def write_report(config: QuickstartConfig, summary: Mapping[str, Any], example: Mapping[str, Any]) -> str:
    """The report as text: tables, differences, the shares, a trace, and where the files lie."""
    seeds = summary["seeds"]
    over = f"over {seeds} seeds" if seeds > 1 else "over puzzles"
    directory = f"{config.output_dir}/seed_{config.seed}"
    lines = [
        f"Right answers (with the standard error {over}), and by the number of steps that a puzzle takes",
        "",
        *_accuracies(summary),
        "",
        f"{config.train_problems} puzzles. Teachers: four whole traces of each, by what their text implies. Curation: "
        "the best of these twelve;",
        "CoRD: the best of twelve next steps, four kept.",
        f"Students: {config.samples} answers to each of {config.held_out_problems} puzzles that nobody has seen.",
        "",
        "Differences, puzzle by puzzle, with their 95 % intervals",
        "",
        *_differences(summary),
        "",
        "Where right and wrong come from",
        "",
        *_decomposition(summary),
        "",
        "A right step goes on from a right text by the right line of the question, to the right number.",
        "Kept, ranked first: of the rounds in which one was proposed.",
        "Implied: what the boxes in the text hold, read off by a program; as written: what the response states.",
        "A wrong line: another friend, operation or box than the question's.",
        "",
        "Who wrote the steps that CoRD with the filter kept",
        "",
        *_shares(summary["share"]["cord_filtered"]),
        "",
        *show_trace(example),
        "",
        f"Traces: {directory}/cord_filtered/traces.jsonl, every candidate: tree.jsonl beside it",
        f"Students: {directory}/student_after_cord_filtered/hf and its like",
        f"This report: {config.output_dir}/report.txt, its numbers: summary.json, its picture: accuracy.png",
        f"{summary['seconds']:.0f} seconds",
    ]
    return "\n".join(lines) + "\n"


def _accuracies(summary: Mapping[str, Any]) -> list[str]:
    ranges = [range_name(*bounds) for bounds in LENGTHS]
    lines = [f"{'':24}{'right':>15}{'mean score':>15}" + "".join(f"{name:>8}" for name in ranges)]
    for group in GROUPS:
        for name in group:
            score, by_steps = summary["mean_score"].get(name), summary["accuracy_by_steps"][name]
            lines.append(
                f"{NAMES[name]:24}{_show(summary['accuracy'][name]):>15}{_show(score) if score else '':>15}"
                + "".join(f"{'-' if by_steps[r] is None else format(by_steps[r], '.2f'):>8}" for r in ranges)
            )
        lines.append("")
    return lines[:-1]


def _differences(summary: Mapping[str, Any]) -> list[str]:
    lines = []
    for row in summary["differences"]:
        interval = "" if row["interval"] is None else f" ± {row['interval']:.3f}"
        line = (
            f"{row['what']:28}{NAMES[row['first']]} - {NAMES[row['second']]}: {row['difference']:+.3f}{interval}"
            f" (p = {row['p_value']:.2g}"
        )
        over_seeds = row.get("p_value_over_seeds")
        lines.append(line + (f"; over seeds {over_seeds:.2g})" if over_seeds is not None else ")"))
    return lines


def _decomposition(summary: Mapping[str, Any]) -> list[str]:
    table, ranges = summary["decomposition"], [range_name(*bounds) for bounds in LENGTHS]
    rows = [
        ("a right step is proposed", "present"),
        ("  and kept", "kept"),
        ("  and ranked first", "first"),
        ("answer implied by the text", "implied"),
        *((f"  {r} steps", r) for r in ranges),
        ("answer as written", "written"),
        ("steps on a wrong line", "wrong_lines"),
        ("wrong equations", "wrong_equations"),
        ("right, with a wrong equation", "right_with_a_wrong_equation"),
    ]
    lines = [f"{'':30}" + "".join(f"{NAMES[method]:>20}" for method in table)]
    for label, key in rows:
        of = summary["implied_by_steps"] if key in ranges else table
        values = [numbers.get(key) for numbers in of.values()]
        lines.append(f"{label:30}" + "".join(f"{'-' if v is None else format(v, '.1%'):>20}" for v in values))
    return lines


def _shares(share: Mapping[str, Mapping[str, float]]) -> list[str]:
    lines = [" " * 12 + "".join(f"{part:>12}" for part in share)]
    for teacher in share["all"]:
        lines.append(
            f"{teacher:12}" + "".join(f"{by_teacher[teacher]:12.0%}" for by_teacher in share.values())
        )
    return lines


def choose_trace(traces: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """A right one of eight steps at most, by as many teachers as possible; the longest, then first, among equals."""
    fit = [row for row in traces if row["correct"] and len(row["steps"]) <= 8] or list(traces)
    return max(fit, key=lambda row: (len({step["teacher"] for step in row["steps"]}), len(row["steps"])))


def show_trace(trace: Mapping[str, Any]) -> list[str]:
    """The question and the steps, each with its author and its score."""
    lines = [f"A trace written together ({trace['id']})", "", *trace["question"].splitlines(), ""]
    for step in trace["steps"]:
        text = " ".join(step["text"].split()) or "(nothing to add)"
        lines.append(f"{step['teacher']:>10} {step['score']:.3f}  {text}")
    lines.append(f"{trace['steps'][-1]['teacher']:>10}        {trace['response']}")
    return [*lines, f"{'answer':>10}        {trace['answer']}"]


def _show(numbers: Mapping[str, float]) -> str:
    return f"{numbers['mean']:.3f} ± {numbers['standard_error']:.3f}"
