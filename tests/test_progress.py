"""What a job tells of itself, and what a summary advises."""

import dataclasses
import io

import pytest

from cord_jax import progress
from cord_jax.advice import advice_on_samples, advice_on_traces
from cord_jax.engine.meter import Meter, Rounds
from cord_jax.progress import Progress, TraceProgress, duration
from tests.test_traces import TRACE


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_log_gets_a_line_in_time_and_a_terminal_a_live_one(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    lines, terminal = [], Terminal()
    report = Progress(lines.append, terminal)
    for second in range(1, 40):
        clock[0] = float(second)
        report.tell(lambda: f"at {clock[0]:.0f}")
    assert lines == ["at 31"]
    assert terminal.getvalue().startswith("\r\x1b[Kat 1\r\x1b[Kat 2")
    report.clear()
    assert terminal.getvalue().endswith("\r\x1b[K")
    silent = io.StringIO()
    report = Progress(lines.append, silent)
    clock[0] += 5
    report.tell(lambda: "live")
    assert silent.getvalue() == "" and len(lines) == 1


def test_the_line_of_a_search():
    meter = Meter()
    meter.tokens, meter.idle_row_share, meter.in_work, meter.rounds_n = 5000, 0.25, 2, [3, 7]
    report = TraceProgress(io.StringIO())
    report.begin(lambda line: None, 10, 20)
    assert "left" not in report.line(meter, 10.0)
    for score in (0.5, None):
        report.add(score)
    assert report.line(meter, 10.0) == (
        "synthesize: 12 of 20 traces, 2 in work at steps 4 to 8, 500 tokens/s, 25 % of rows idle, mean score 0.250, "
        "about 40 s left"
    )


@pytest.mark.parametrize(
    "seconds, words", [(40, "40 s"), (119, "2 min"), (5400, "1 h 30 min"), (12000, "3 h 20 min")]
)
def test_durations(seconds, words):
    assert duration(seconds) == words


def test_the_host_looks_every_few_seconds():
    rounds = Rounds(64)
    assert rounds.next == 1 and rounds.took(1, 100.0) == 100.0  # it compiled
    assert rounds.took(1, 0.5) == 0 and rounds.next == 8
    rounds.took(2, 40.0)
    assert rounds.next == 1
    rounds.took(1, 1e-6)
    assert rounds.next == 64


def test_advice_on_traces():
    trace = TRACE
    assert advice_on_traces([trace]) == []
    capped = dataclasses.replace(
        trace, steps=tuple(dataclasses.replace(step, ended="cap") for step in trace.steps), status="max_steps"
    )
    silent = dataclasses.replace(capped, predicted_answer=None)
    cap, answer, status = advice_on_traces([silent] * 3)
    total = 3 * len(trace.steps)
    assert f"{total} of {total} steps ended by the cap and none by `</think>`" in cap
    assert answer.startswith("3 of 3 responses state no answer")
    assert status == (
        "3 of 3 traces have the status max_steps: raise --max_steps; none was ever concluded: see docs/teachers.md"
    )


def test_advice_on_samples():
    good = {"thought_closed": True, "predicted_answer": "7"}
    assert advice_on_samples([good] * 5) == []
    (unclosed,) = advice_on_samples([good, {"thought_closed": False, "predicted_answer": None}])
    assert unclosed.startswith("1 of 2 samples never close")
    (silent,) = advice_on_samples([good | {"predicted_answer": None}])
    assert silent.startswith("1 of 1 responses state no answer") and "\\boxed{}" in silent
