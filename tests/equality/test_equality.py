"""Traces, trees and samples are those that were of the recorded runs."""

import pytest

from tests.equality.inputs import write_inputs
from tests.equality.record import RUNS, differences, perform, read_fixture


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    directory = tmp_path_factory.mktemp("equality") / "inputs"
    write_inputs(directory)
    return directory


@pytest.fixture(scope="module")
def recorded():
    return read_fixture()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if run.slow else ()) for name, run in RUNS.items()]
)
def test_rows_are_those_recorded(inputs, recorded, tmp_path, name):
    expected = recorded[RUNS[name].expects or name]
    assert not list(differences(expected, perform(name, inputs, tmp_path / "run")))


def test_every_ending_is_recorded(recorded):
    traces = [row for run in recorded.values() for row in run.get("traces.jsonl", ())]
    tree = [row for run in recorded.values() for row in run.get("tree.jsonl", ())]
    samples = [row for run in recorded.values() for row in run.get("samples.jsonl", ())]
    assert {row["status"] for row in traces} == {"complete", "budget", "max_steps", "stuck"}
    assert {row["ended"] for row in tree} == {"marker", "think_end", "eos", "cap", "budget"}
    assert {row["dropped"] for row in tree} == {None, "empty", "invalid_utf8", "duplicate"}
    assert {row["ended"] for row in samples} == {"eos", "cap"}


def test_a_division_over_model_decides_alike(recorded):
    assert not list(differences(recorded["drawn"], recorded["drawn_data_2_model_2"], tolerance=1e-5))


def test_differences_are_seen():
    row = {"id": "a", "score": 0.25, "steps": [{"text": "x", "score": None}]}
    assert not list(differences([row], [row | {"node": 3, "score": 0.25 * (1 + 1e-6)}]))
    for change in (
        {"score": 0.25 * (1 + 4e-6)},
        {"score": None},
        {"id": "b"},
        {"steps": []},
        {"steps": [{"text": "x", "score": 0.0}]},
        {"steps": [{"text": "x"}]},
    ):
        assert list(differences([row], [row | change]))
