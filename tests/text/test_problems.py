"""Problems, as a file or in memory: what is read, and what a bad one says."""

import gzip
import json

import pytest

from cord_jax.errors import UserError
from cord_jax.problems import Problem, read_problems, to_row

GOOD = {"id": "a", "question": "How many?", "answer": "4"}


def write(tmp_path, *lines, name="problems.jsonl"):
    path = tmp_path / name
    data = b"".join(
        (line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines
    )
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


@pytest.mark.parametrize("name", ["problems.jsonl", "problems.jsonl.gz"])
def test_fields(tmp_path, name):
    full = GOOD | {
        "id": "b",
        "context": "A table.",
        "solution": "2+2",
        "answers": ["four", "4", "vier"],
        "level": 3,
        "source": {"file": "x"},
    }
    path = write(
        tmp_path,
        GOOD,
        b"",
        full,
        GOOD | {"id": "c", "context": None, "solution": None, "answers": None},
        name=name,
    )
    assert read_problems(path) == [
        Problem("a", "How many?", "4"),
        Problem(
            "b",
            "How many?",
            "4",
            "A table.",
            "2+2",
            ("four", "4", "vier"),
            {"level": 3, "source": {"file": "x"}},
        ),
        Problem("c", "How many?", "4"),
    ]


def test_forms_are_normalised_and_none_comes_twice():
    problem = Problem("a", "?", "cafe\u0301", answers=("caf\u00e9", "coffee", "cafe\u0301", "coffee"))
    assert problem.forms == ("caf\u00e9", "coffee")
    assert problem.answer == "cafe\u0301"


def test_a_byte_order_mark_and_unusual_line_separators(tmp_path):
    first = (
        b"\xef\xbb\xbf"
        + json.dumps(GOOD | {"question": "a\u2028b\u0085c"}, ensure_ascii=False).encode()
        + b"\r"
    )
    assert read_problems(write(tmp_path, first))[0].question == "a\u2028b\u0085c"


@pytest.mark.parametrize(
    "line, reason",
    [
        (b"{", "not JSON"),
        (b"\xff", "not UTF-8 at byte 0"),
        (b"[" * 100_000, "nested too deeply"),
        ([1], "not a JSON object"),
        ({"id": "b", "question": "?"}, '"answer" is missing'),
        (GOOD | {"id": 7}, '"id" must be a string, not 7'),
        (GOOD | {"id": "b", "answer": 4}, '"answer" must be a string, not 4'),
        (GOOD | {"id": "b", "answer": " "}, '"answer" is empty'),
        (GOOD | {"id": "b", "context": 1}, '"context" must be a string'),
        (GOOD | {"id": "b", "answers": "4"}, '"answers" must be a list'),
        (GOOD | {"id": "b", "answers": [4]}, '"answers" must be a string'),
        (GOOD | {"id": "b", "answers": [""]}, '"answers" holds an empty form'),
        (GOOD | {"id": "b", "question": "\ud800"}, "surrogate"),
        (GOOD, '"a" is taken by line 1'),
    ],
)
def test_bad_lines(tmp_path, line, reason):
    path = write(tmp_path, GOOD, b"  ", line)
    with pytest.raises(UserError) as error:
        read_problems(path)
    assert str(error.value).startswith(f"{path}, line 3: ")
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_problems_in_memory_are_those_of_a_file(tmp_path):
    problems = [
        Problem("a", "How many?", "4"),
        Problem("b", "How?", "5", "A table.", "2+3", ("five",), {"level": 3}),
    ]
    assert read_problems(problems) == problems
    assert read_problems(write(tmp_path, *map(to_row, problems))) == problems


@pytest.mark.parametrize(
    "problem, reason",
    [
        (Problem("a", "?", "4"), '"a" is taken by problem 1'),
        (Problem(7, "?", "4"), '"id" must be a string, not 7'),
        (Problem("b", None, "4"), '"question" is missing'),
        (Problem("b", "?", object()), '"answer" must be a string, not "<object'),
        (Problem("b", "?", "4", answers="four"), '"answers" must be a list'),
        (Problem("b", "?", "4", answers=("",)), '"answers" holds an empty form'),
        (Problem("b", "?", "4", extra={"x": object()}), "cannot be written as JSON"),
        (Problem("b", "?", "4", extra={"x": float("nan")}), "cannot be written as JSON"),
    ],
)
def test_bad_problems_in_memory(problem, reason):
    with pytest.raises(UserError) as error:
        read_problems([Problem("a", "How many?", "4"), problem])
    assert str(error.value).startswith("problem 2: ") and reason in str(error.value)


def test_files_that_hold_nothing(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_problems(tmp_path / "absent.jsonl")
    with pytest.raises(UserError, match="is empty"):
        read_problems(write(tmp_path, b""))
    broken = tmp_path / "broken.jsonl.gz"
    broken.write_bytes(gzip.compress(b"x" * 1000)[:-9])
    with pytest.raises(UserError, match="cannot be read"):
        read_problems(broken)
    broken.write_bytes(json.dumps(GOOD).encode())
    with pytest.raises(UserError, match="cannot be read"):
        read_problems(broken)


def test_real_files(shared_dir):
    counts = {
        "math500.jsonl": 250,
        "aime2024.jsonl": 30,
        "s1k_questions.jsonl.gz": 996,
        "tatqa.jsonl.gz": 834,
        "pubmedqa.jsonl": 500,
        "gsm8k_test.jsonl": 1319,
    }
    for name, count in counts.items():
        problems = read_problems(shared_dir / "data" / name)
        assert len(problems) == count
        assert all("source" in problem.extra for problem in problems)


def test_problems_without_a_gold_answer(tmp_path):
    rows = [{"id": "a", "question": "?"}, {"id": "b", "question": "?", "answer": None}, GOOD | {"id": "c"}]
    path = write(tmp_path, *rows)
    problems = read_problems(path, answers_needed=False)
    assert [problem.answer for problem in problems] == [None, None, "4"]
    assert [problem.forms for problem in problems] == [(), (), ("4",)]
    assert read_problems(problems, answers_needed=False) == problems
    for source, place in (
        (write(tmp_path, GOOD, *rows[1:]), ", line 2: "),
        ([*problems[2:], problems[0]], "problem 2: "),
    ):
        with pytest.raises(
            UserError, match=f'{place}field "answer" is missing or null; every problem needs a gold answer'
        ):
            read_problems(source)
    with pytest.raises(UserError, match='"answer" is empty'):
        read_problems(write(tmp_path, GOOD | {"answer": ""}), answers_needed=False)
