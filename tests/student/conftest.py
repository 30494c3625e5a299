"""A student and rows that the tests of the trainer share."""

import pytest


@pytest.fixture(scope="session")
def student(tmp_path_factory):
    return _students().write_student(tmp_path_factory.mktemp("student"))


@pytest.fixture(scope="session")
def rows(tmp_path_factory):
    return _students().write_rows(tmp_path_factory.mktemp("rows") / "traces.jsonl")


@pytest.fixture(scope="session")
def pairs(tmp_path_factory):
    return _students().write_pairs(tmp_path_factory.mktemp("pairs") / "pairs.jsonl")


def _students():
    """The module that makes them with transformers, which needs torch for that."""
    pytest.importorskip("torch")
    from tests.student import students

    return students
