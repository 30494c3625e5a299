"""A student and rows that the tests of the trainer share."""

import pytest

from tests.student.students import write_rows, write_student


@pytest.fixture(scope="session")
def student(tmp_path_factory):
    return write_student(tmp_path_factory.mktemp("student"))


@pytest.fixture(scope="session")
def rows(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("rows") / "traces.jsonl")
