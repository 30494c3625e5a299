"""Rows of traces.jsonl and tree.jsonl: names, order, numbers; what an interruption leaves."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cord_jax.run_directory import open_run
from cord_jax.traces import (
    Candidate,
    Provenance,
    Step,
    Trace,
    TraceFiles,
    Usage,
    decimal,
    summarize,
    summarize_trees,
)

STEPS = (
    Step("### Step 1: 2 + 2 = 4\n\n", "left", np.float32(0.3), 9, "marker"),
    Step("### Step 2: so 4\n\n", "right", np.float32(0.7), 7, "think_end"),
)
MADE = Provenance("cord", "predictive_perplexity", "beam", "0123456789abcdef")
TRACE = Trace(
    "p1",
    "2 + 2?",
    "4",
    "complete",
    np.float32(0.7),
    "".join(s.text for s in STEPS),
    "So \\boxed{4}",
    "4",
    True,
    STEPS,
    {"left": Usage(40, 9, 60), "right": Usage(35, 8, 55)},
    1.25,
    np.float32(0.7),
    None,
    MADE,
    {"context": "sums", "level": 3, "score": "a field of the user's"},
)
STUCK = Trace(
    "p2",
    "3 + 3?",
    "6",
    "stuck",
    None,
    "",
    None,
    None,
    False,
    (),
    {"left": Usage(5, 0, 0), "right": Usage(6, 0, 0)},
    0.5,
    None,
    None,
    dataclasses.replace(MADE, decoys=True),
)
CANDIDATES = [
    Candidate(1, 0, "p1", 1, 0, "left", STEPS[0].text, np.float32(0.3), True, 0, None, "marker"),
    Candidate(2, 0, "p1", 1, 0, "right", "### Step 1: 5\n\n", None, False, None, "duplicate", "cap"),
]


def test_rows_follow_the_contract():
    row = TRACE.to_row()
    assert list(row)[:12] == [
        "id",
        "question",
        "answer",
        "status",
        "score",
        "reasoning",
        "response",
        "predicted_answer",
        "correct",
        "steps",
        "usage",
        "seconds",
    ]
    made = ["predictive_perplexity", "method", "selector", "decoding", "run", "messages"]
    assert list(row)[12:] == [*made, "context", "level", "problem_score"]
    assert row["messages"][0] == {"role": "user", "content": "sums\n\n2 + 2?"}
    assert row["messages"][1]["content"] == f"<think>\n{TRACE.reasoning}</think>\n\n{TRACE.response}"
    assert STUCK.to_row()["decoy_scores"] is None
    assert list(row["steps"][0]) == ["text", "teacher", "score", "tokens", "ended"]
    assert row["usage"]["left"] == {"proposed": 40, "committed": 9, "scored": 60}
    assert list(CANDIDATES[0].to_row()) == [
        "node",
        "parent",
        "problem",
        "step",
        "beam",
        "teacher",
        "text",
        "score",
        "kept",
        "rank",
        "dropped",
        "ended",
    ]
    assert '"score": 0.7' in json.dumps(row)


def test_rows_read_back():
    for trace in (TRACE, STUCK):
        row = json.loads(json.dumps(trace.to_row()))
        assert Trace.from_row(row).to_row() == row
    assert Trace.from_row(TRACE.to_row()).extra == TRACE.extra
    for candidate in CANDIDATES:
        row = json.loads(json.dumps(candidate.to_row()))
        assert Candidate.from_row(row).to_row() == row
    with pytest.raises(KeyError, match="reasoning"):
        Trace.from_row({name: value for name, value in TRACE.to_row().items() if name != "reasoning"})


@given(st.floats(0, 1, width=32))
def test_scores_are_float32_as_their_shortest_decimals(score):
    text = json.dumps(decimal(np.float32(score)))
    assert np.float32(text) == np.float32(score)
    digits = text.split("e")[0].replace(".", "").strip("0")
    assert len(digits) <= 9


def test_an_interrupted_problem_leaves_no_rows_behind(tmp_path):
    def open_files():
        return open_run(tmp_path, job="synthesize", settings={})

    orphan = dataclasses.replace(CANDIDATES[0], problem="p3")
    with open_files() as run:
        files = TraceFiles(run)
        files.write(TRACE, CANDIDATES)
        run.json_lines("tree.jsonl").append(orphan.to_row())
    with open_files() as run:
        files = TraceFiles(run)
        assert files.finished() == {"p1"}
        files.write(STUCK, [])
        assert [trace.id for trace in files.read()] == ["p1", "p2"]
        assert run.json_lines("tree.jsonl").read() == [candidate.to_row() for candidate in CANDIDATES]


def test_trees_are_summarized():
    more = [
        dataclasses.replace(CANDIDATES[0], node=3, parent=1, step=2, beam=1, ended="think_end"),
        dataclasses.replace(CANDIDATES[0], problem="p2", ended="cap"),
    ]
    assert summarize_trees([*CANDIDATES, *more], 5) == {"expansions": 1.5, "depth": 1.5, "complete": 0.5}
    assert summarize_trees([*CANDIDATES, *more], 1)["complete"] == 1.5


def test_summary():
    summary = summarize([TRACE, STUCK], ["left", "right"], seconds=3.0, device="cpu")
    assert (
        summary["problems"] == 2 and summary["accuracy"] == 0.5 and summary["accuracy_standard_error"] == 0.5
    )
    assert summary["mean_score"] == pytest.approx(0.35)
    assert summary["status"] == {"complete": 1, "budget": 0, "max_steps": 0, "stuck": 1}
    assert summary["share"]["all"] == {"left": 0.5, "right": 0.5}
    assert summary["share"]["first_40"] == {"left": 1.0, "right": 0.0}
    assert summary["tokens"]["total"] == {"proposed": 86, "committed": 17, "scored": 115}
    json.dumps(summary, allow_nan=False)
