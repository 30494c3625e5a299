"""What teachers are worth, against sums over all orders; rank correlations; runs that cannot be asked; the command."""

import itertools
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cord_jax.errors import UserError
from cord_jax.rescoring import shares
from cord_jax.rescoring.config import RescoringConfig
from cord_jax.rescoring.correlation import rank_correlations
from cord_jax.rescoring.job import rescore
from cord_jax.rescoring.recorded_tree import RecordedTree
from cord_jax.traces import Candidate
from launch import common
from launch import rescore as command

TEACHERS = ("a", "b", "c")


@given(st.lists(st.floats(0, 1), min_size=7, max_size=7))
def test_shapley_is_the_mean_over_all_orders(worths):
    worth = dict(zip(shares.groups_of(TEACHERS), worths, strict=True))
    expected = dict.fromkeys(TEACHERS, 0.0)
    for order in itertools.permutations(TEACHERS):
        before = ()
        for teacher in order:
            group = tuple(t for t in TEACHERS if t in (*before, teacher))
            expected[teacher] += (worth[group] - worth.get(before, 0.0)) / math.factorial(3)
            before = group
    values = shares.shapley(TEACHERS, worth)
    assert values == pytest.approx(expected)
    assert sum(values.values()) == pytest.approx(worth[TEACHERS])


def candidate(node, parent, teacher, score, **changed):
    fields = dict(step=1 if parent == 0 else 2, beam=0, kept=True, rank=0, dropped=None, ended="marker")
    fields |= {"text": f"{node}", "problem": "p"} | changed
    return Candidate(node=node, parent=parent, teacher=teacher, score=score, **fields)


def test_credit_of_a_tree():
    """Of two complete traces, one is a's and b's or c's, the other b's alone."""
    tree = RecordedTree(
        [
            candidate(1, 0, "a", 0.5),
            candidate(2, 0, "b", 0.3, text="same"),
            candidate(3, 0, "c", None, text="same", dropped="duplicate"),
            candidate(4, 1, "b", 0.9, ended="eos", text="end"),
            candidate(5, 1, "c", None, dropped="duplicate", text="end"),
            candidate(6, 2, "b", 0.4, ended="budget", beam=1),
            candidate(7, 2, "a", 0.8, beam=1),
        ]
    )
    ends = shares.endings(tree, {1: 0.5, 2: 0.3, 4: 0.9, 6: 0.4, 7: 0.8}, max_steps=9)
    found = shares.credit(TEACHERS, [ends])
    assert (found["score"], found["without"]) == (0.9, {"a": 0.4, "b": 0.9, "c": 0.9})
    assert sum(found["value"].values()) == pytest.approx(0.9)
    # Alone b has 0.4 and the others nothing; with a it has 0.9, as c has with a.
    worth = dict(zip(shares.groups_of(TEACHERS), (0, 0.4, 0, 0.9, 0.9, 0.4, 0.9), strict=True))
    assert found["value"] == pytest.approx(shares.shapley(TEACHERS, worth), abs=1e-6)
    deep = shares.endings(tree, {7: 0.8}, max_steps=2)
    assert deep == [(0.8, frozenset({frozenset("bc"), frozenset("a")}))]


def test_rank_correlations():
    pairs = [
        ("p", 1, 0.1, 1.0),
        ("p", 1, 0.2, 2.0),
        ("p", 1, 0.3, 3.0),
        ("p", 2, 0.1, 2.0),
        ("p", 2, 0.5, 1.0),
    ]
    found = rank_correlations(pairs)
    assert found["within_rounds"] == {"rounds": 2, "spearman": 0.0, "kendall": 0.0}
    assert found["candidates"] == 5 and -1 < found["kendall"] < 1
    nothing = rank_correlations([("p", 1, 0.1, 1.0)])
    assert nothing["spearman"] is None and nothing["within_rounds"]["kendall"] is None


def write(path, job="synthesize", trace=None, tree=()):
    path.mkdir()
    parts = dict.fromkeys(("settings", "inputs", "environment", "packages"), {})
    (path / "config.json").write_text(json.dumps({"job": job, **parts}))
    (path / "traces.jsonl").write_text("" if trace is None else json.dumps(trace) + "\n")
    (path / "tree.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tree))
    return path


def test_runs_that_cannot_be_asked(tmp_path, capsys):
    def refused(run):
        with pytest.raises(UserError) as refusal:
            rescore(RescoringConfig(run=run, output_dir=tmp_path / "out"))
        assert "\n" not in str(refusal.value) and not (tmp_path / "out").exists()
        return str(refusal.value)

    assert "has no config.json" in refused(tmp_path / "none")
    assert "holds a run of evaluate" in refused(write(tmp_path / "other", job="evaluate"))
    assert "has no trace yet" in refused(write(tmp_path / "new"))
    assert "traces.jsonl, row 1: not as this version" in refused(write(tmp_path / "odd", trace={"id": "p"}))
    arguments = ["rescore", f"--run={tmp_path / 'none'}", f"--output_dir={tmp_path / 'out'}"]
    assert common.run_with(command.main, command.FLAGS, command.__doc__, arguments) == 2
    assert "has no config.json" in capsys.readouterr().err
