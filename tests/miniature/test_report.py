"""The report on made-up results."""

import numpy as np
import pytest
from scipy import stats

from cord_jax.miniature import report
from cord_jax.miniature.config import QuickstartConfig
from cord_jax.miniature.decomposition import Rounds, Trace
from cord_jax.miniature.figure import draw
from cord_jax.miniature.quickstart import METHODS, SeedResults

PROBLEMS = [f"p{i}" for i in range(12)]
STEPS = {problem: 6 + i % 6 for i, problem in enumerate(PROBLEMS)}
TEXT = "### Step 1. Ann 34 + 5 = 39, A 39.\n\n"


def row(name: str, teachers: list[str], correct: bool = True) -> dict:
    return {
        "id": name,
        "question": "Step 1: Ann 34 + 5.\nTell A.",
        "answer": "A 39",
        "response": "So \\boxed{A 39}.",
        "correct": correct,
        "steps": [{"text": TEXT, "teacher": teacher, "score": 0.25} for teacher in teachers],
    }


def results(seed: int) -> SeedResults:
    rng = np.random.default_rng(seed)
    accuracy = {name: {p: float(rng.integers(2)) for p in PROBLEMS} for name in report.NAMES}
    return SeedResults(
        accuracy=accuracy,
        steps=STEPS,
        score={m: {p: float(rng.random()) for p in PROBLEMS} for m in METHODS},
        traces={
            m: {p: Trace(STEPS[p], accuracy[m][p] > 0, i % 4 > 0, STEPS[p], i == 3, STEPS[p], i == 5)
                for i, p in enumerate(PROBLEMS)}
            for m in METHODS
        },
        rounds={m: dict.fromkeys(PROBLEMS, Rounds(8, 7, 6, 5)) for m in METHODS if m != "curation"},
        share={m: {"all": {"sums": 0.5, "products": 0.25, "shares": 0.25}} for m in METHODS},
        example=row("example", ["sums", "shares"]),
    )  # fmt: skip


def test_one_seed():
    one = results(0)
    summary = report.summarize([one])
    values = np.array(list(one.accuracy["cord"].values()))
    assert summary["accuracy"]["cord"]["mean"] == pytest.approx(values.mean(), abs=1e-6)
    assert summary["accuracy"]["cord"]["standard_error"] == pytest.approx(stats.sem(values), abs=1e-6)
    short = [one.accuracy["cord"][p] for p in PROBLEMS if STEPS[p] in (6, 7)]
    assert summary["accuracy_by_steps"]["cord"]["6-7"] == pytest.approx(np.mean(short), abs=1e-4)
    assert summary["accuracy_by_steps"]["cord"]["12"] is None
    assert all("p_value_over_seeds" not in row for row in summary["differences"])


def test_several_seeds():
    several = [results(seed) for seed in range(4)]
    summary = report.summarize(several)
    means = {name: [np.mean(list(r.accuracy[name].values())) for r in several] for name in report.NAMES}
    assert summary["accuracy"]["cord"]["standard_error"] == pytest.approx(stats.sem(means["cord"]), abs=1e-6)
    found = next(r for r in summary["differences"] if (r["what"], r["first"]) == ("right traces", "cord"))
    assert found["difference"] == pytest.approx(np.mean(means["cord"]) - np.mean(means["curation"]), abs=1e-6)
    expected = stats.ttest_rel(means["cord"], means["curation"]).pvalue
    assert found["p_value_over_seeds"] == pytest.approx(expected, abs=1e-6)
    by_puzzle = [
        np.mean([r.accuracy["cord"][p] - r.accuracy["curation"][p] for r in several]) for p in PROBLEMS
    ]
    assert found["interval"] == pytest.approx(1.96 * stats.sem(by_puzzle), abs=1e-6)


def test_decomposition():
    numbers = report.summarize([results(0), results(1)])["decomposition"]
    assert "kept" not in numbers["curation"]
    assert numbers["cord"]["present"] == pytest.approx(7 / 8, abs=1e-6)
    assert numbers["cord"]["kept"] == pytest.approx(6 / 7, abs=1e-6)
    assert numbers["cord"]["first"] == pytest.approx(5 / 7, abs=1e-6)
    assert numbers["cord"]["implied"] == 0.75
    assert numbers["cord"]["wrong_lines"] == pytest.approx(1 / sum(STEPS.values()), abs=1e-6)


def test_report_and_picture(tmp_path):
    summary = {"seconds": 3.0, **report.summarize([results(0)])}
    text = report.write_report(QuickstartConfig("quickstart"), summary, results(0).example)
    for name in report.NAMES.values():
        assert name in text
    assert "      sums 0.250  ### Step 1. Ann 34 + 5 = 39, A 39." in text
    assert max(map(len, text.splitlines())) < 150
    draw(summary, tmp_path / "accuracy.png")
    assert (tmp_path / "accuracy.png").read_bytes().startswith(b"\x89PNG")


def test_the_shown_trace_is_right_and_by_many():
    one = row("one", ["sums"] * 6)
    three = row("three", ["sums", "shares", "products"] * 2)
    too_long = row("long", ["sums", "shares", "products"] * 4)
    wrong = row("wrong", ["sums", "shares", "products"] * 2, correct=False)
    assert report.choose_trace([wrong, one, too_long, three]) is three
    assert report.choose_trace([wrong]) is wrong
    assert report.show_trace(one)[-1].endswith("A 39")
