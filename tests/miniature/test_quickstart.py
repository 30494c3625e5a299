"""The report on made-up traces, and the whole quickstart on a few puzzles."""

import json

import pytest

from cord_jax.miniature.quickstart import (
    QuickstartConfig,
    choose_trace,
    count_wrong_equations,
    quickstart,
    show_trace,
)


def made_up(name: str, texts: list[str], teachers: list[str], correct: bool = True) -> dict:
    steps = [
        {"text": text, "teacher": teacher, "score": 0.25}
        for text, teacher in zip(texts, teachers, strict=True)
    ]
    return {
        "id": name,
        "question": "1. Ann has 34, gets 5.\nTheir last numbers in a row open the lock.",
        "answer": "39",
        "reasoning": "".join(texts),
        "response": "The code is \\boxed{39}.",
        "correct": correct,
        "steps": steps,
    }


RIGHT = made_up("a", ["### Step 1: Ann now has 34 + 5 = 39.\n\n"], ["products"])
LUCKY = made_up("b", ["### Step 1. Ann: 34+5=29.\n\n", "### Step 2. Ann: 29+10=39.\n\n"], ["sums", "sums"])
WRONG = made_up("c", ["### Step 1. Ann: 34+5=29.\n\n"], ["shares"], correct=False)


def test_wrong_equations_of_right_answers():
    assert count_wrong_equations([RIGHT, LUCKY, WRONG]) == {
        "traces": 3,
        "equations": 4,
        "wrong_equations": 2,
        "right_answers": 2,
        "right_answers_with_a_wrong_equation": 1,
    }


def test_a_shown_trace_names_author_and_score_of_each_step():
    lines = show_trace(LUCKY)
    assert "      sums 0.250  ### Step 1. Ann: 34+5=29." in lines
    assert "      sums 0.250  ### Step 2. Ann: 29+10=39." in lines
    assert lines[-2].endswith("\\boxed{39}.") and lines[-1].endswith("39")


def test_the_shown_trace_is_right_long_and_by_many():
    text = "### Step 1. Ann: 34+5=39.\n\n"
    one = made_up("one", [text] * 6, ["sums"] * 6)
    three = made_up("three", [text] * 6, ["sums", "shares", "products"] * 2)
    wrong = made_up("wrong", [text] * 6, ["sums", "shares", "products"] * 2, correct=False)
    assert choose_trace([wrong, RIGHT, one, three]) is three
    assert choose_trace([WRONG]) is WRONG


@pytest.mark.slow
def test_end_to_end(tmp_path):
    said = []
    config = QuickstartConfig(tmp_path, train_problems=8, held_out_problems=8, samples=1)
    summary = quickstart(config, said.append)
    assert summary == json.loads((tmp_path / "summary.json").read_text())
    assert (tmp_path / "report.txt").read_text().strip() in "\n".join(said)
    assert set(summary["accuracy"]) == {
        "sums",
        "products",
        "shares",
        "curation",
        "cord",
        "student, base",
        "student, after curation",
        "student, after cord",
    }
    assert all(0 <= number["mean"] <= 1 for number in summary["accuracy"].values())
    again = quickstart(config, said.append)
    assert {k: v for k, v in again.items() if k != "seconds"} == {
        k: v for k, v in summary.items() if k != "seconds"
    }
