"""Problems as tables and directories: the rows that JSON lines would give, splits, columns, and what a bad one says."""

import datetime
import decimal
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cord_jax import EvaluationConfig, SynthesisConfig, evaluate, synthesize
from cord_jax.errors import UserError
from cord_jax.problem_files import fingerprint_of
from cord_jax.problems import Problem, read_problems, to_row

pyarrow = pytest.importorskip("pyarrow")
from pyarrow import parquet  # noqa: E402

PROBLEMS = [
    Problem("a", "How\u2028many?", "4"),
    Problem("b", "How?", "5", "A table.", "2+3", ("five", "V"), {"level": 3, "source": {"file": "x"}}),
    Problem("c", "Why?", "6"),
]


def rows(problems=PROBLEMS):
    """The rows of a table, in which every row has every column."""
    written = [to_row(problem) for problem in problems]
    return [{name: row.get(name) for row_ in written for name in row_} for row in written]


def as_read(problems=PROBLEMS):
    """Problems of a table: a field of one's own that a row lacks is null."""
    own = {name: None for problem in problems for name in problem.extra}
    return [Problem(**vars(problem) | {"extra": own | problem.extra}) for problem in problems]


def table(path, rows):
    path.parent.mkdir(exist_ok=True, parents=True)
    names = list(dict.fromkeys(name for row in rows for name in row))
    parquet.write_table(pyarrow.table({name: [row.get(name) for row in rows] for name in names}), path)
    return path


def json_lines(path, rows):
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_parquet_file(tmp_path):
    assert read_problems(table(tmp_path / "p.parquet", rows())) == as_read()


def test_what_datasets_has_saved(tmp_path):
    datasets = pytest.importorskip("datasets")
    saved = datasets.Dataset.from_list(rows())
    saved.save_to_disk(tmp_path / "one", num_shards=2)
    assert read_problems(tmp_path / "one") == as_read()
    splits = datasets.DatasetDict(train=saved.select([2, 0]), test=saved.filter(lambda row: row["id"] == "b"))
    splits.save_to_disk(tmp_path / "two")
    assert [problem.id for problem in read_problems(tmp_path / "two", split="train")] == ["c", "a"]
    assert read_problems(tmp_path / "two", split="test") == [as_read()[1]]
    with pytest.raises(UserError, match="holds the splits train, test; choose one with --split"):
        read_problems(tmp_path / "two")
    with pytest.raises(UserError, match="--split=dev: .* holds the splits train, test"):
        read_problems(tmp_path / "two", split="dev")


def test_a_directory_as_on_the_hub(tmp_path):
    first, second, third = rows()
    table(tmp_path / "main/train-00000-of-00002.parquet", [first])
    table(tmp_path / "main/train-00001-of-00002.parquet", [second])
    json_lines(tmp_path / "main/test.jsonl", [third])
    table(tmp_path / "main/.cache/train.parquet", [third])
    (tmp_path / "main/README.md").write_text("no problem")
    assert [problem.id for problem in read_problems(tmp_path / "main", split="train")] == ["a", "b"]
    assert [problem.id for problem in read_problems(tmp_path / "main", split="test")] == ["c"]
    with pytest.raises(UserError, match="holds the splits train, test; choose one"):
        read_problems(tmp_path / "main")
    with pytest.raises(UserError, match="--split=tra: no file of "):
        read_problems(tmp_path / "main", split="tra")
    (tmp_path / "main/test.jsonl").unlink()
    assert [problem.id for problem in read_problems(tmp_path / "main")] == ["a", "b"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: holds no problems"):
        read_problems(tmp_path / "empty")


def test_columns_have_other_names(tmp_path):
    given = [
        {"problem": "How many?", "answer": "It is 4.", "final": 4, "n": 17},
        {"problem": "?", "answer": "x", "final": 5, "n": 18},
    ]
    columns = "id:n,question:problem,solution:answer,answer:final"
    path = table(tmp_path / "p.parquet", given)
    expected = [Problem("17", "How many?", "4", None, "It is 4."), Problem("18", "?", "5", None, "x")]
    assert read_problems(path, columns=columns) == expected
    texts = [row | {"final": str(row["final"]), "n": str(row["n"])} for row in given]
    assert read_problems(json_lines(tmp_path / "p.jsonl", texts), columns=columns) == expected
    numbered = read_problems(path, columns="id:#,question:problem,answer:final")
    assert [(p.id, p.extra) for p in numbered] == [("1", {"n": 17}), ("2", {"n": 18})]


def test_rows_of_several_files_are_numbered_on(tmp_path):
    for part in "ab":
        json_lines(tmp_path / f"{part}.jsonl", [{"question": "?", "answer": "1"}] * 2)
    assert [problem.id for problem in read_problems(tmp_path, columns="id:#")] == ["1", "2", "3", "4"]


GOOD = {"id": "a", "question": "?", "answer": "4"}


@pytest.mark.parametrize(
    "row, reason",
    [
        ({"id": "b", "question": "?", "answer": None}, 'field "answer" is missing or null'),
        (GOOD, 'the id "a" is taken by row 1'),
        (GOOD | {"id": "b", "question": " "}, 'field "question" is empty'),
        (
            GOOD | {"id": "b", "day": datetime.date(2024, 7, 26)},
            "its other fields cannot be written as JSON",
        ),
        (GOOD | {"id": "b", "x": float("nan")}, "its other fields cannot be written as JSON"),
    ],
)
def test_bad_rows(tmp_path, row, reason):
    path = table(tmp_path / "p.parquet", [GOOD, row])
    with pytest.raises(UserError) as error:
        read_problems(path)
    assert str(error.value).startswith(f"{path}, row 2: ") and reason in str(error.value)
    assert "\n" not in str(error.value)


def test_columns_that_are_not_there(tmp_path):
    path = table(tmp_path / "p.parquet", [GOOD])
    with pytest.raises(
        UserError, match='row 1: there is no column "problem", which --columns names; there are id,'
    ):
        read_problems(path, columns="question:problem")
    with pytest.raises(UserError, match='row 1: field "answer" must be a string, not 4.5'):
        read_problems(table(tmp_path / "q.parquet", [GOOD | {"answer": 4.5}]))
    with pytest.raises(UserError, match='row 1: field "answer" must be a string, not true'):
        read_problems(table(tmp_path / "q.parquet", [GOOD | {"answer": True}]))


def test_files_that_are_no_tables(tmp_path):
    (tmp_path / "p.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(UserError, match="p.parquet, row 1: the problem file cannot be read: "):
        read_problems(tmp_path / "p.parquet")
    with pytest.raises(UserError, match="nothing.parquet"):
        read_problems(tmp_path / "nothing.parquet")
    with pytest.raises(UserError, match="is no directory, and has no splits"):
        read_problems(tmp_path / "p.parquet", split="train")
    binary = pyarrow.table(
        {"id": ["a", "b"], "question": pyarrow.array([b"?", b"\xff"]), "answer": ["1", "2"]}
    )
    array = pyarrow.StringArray.from_buffers(2, *binary["question"].chunk(0).buffers()[1:])
    parquet.write_table(binary.set_column(1, "question", array), tmp_path / "q.parquet")
    with pytest.raises(UserError, match="q.parquet, row 2: the problem file cannot be read: .*utf-8"):
        read_problems(tmp_path / "q.parquet")


def test_fingerprints_cover_every_file_of_a_split(tmp_path):
    table(tmp_path / "set/train-0.parquet", [GOOD])
    table(tmp_path / "set/test-0.parquet", [GOOD])
    before = fingerprint_of(tmp_path / "set", "train")
    assert list(before) == ["train-0.parquet"]
    table(tmp_path / "set/test-0.parquet", [GOOD | {"answer": "5"}])
    assert fingerprint_of(tmp_path / "set", "train") == before
    table(tmp_path / "set/train-0.parquet", [GOOD | {"answer": "5"}])
    assert fingerprint_of(tmp_path / "set", "train") != before


@pytest.mark.parametrize("job", ["synthesize", "evaluate"])
def test_the_jobs_read_tables_before_anything_else(tmp_path, job):
    given = dict(
        problems=table(tmp_path / "set/train.parquet", [GOOD]).parent,
        output_dir=tmp_path / "out",
        split="train",
    )
    with pytest.raises(UserError, match='train.parquet, row 1: there is no column "problem"'):
        if job == "synthesize":
            synthesize(SynthesisConfig(pool="none.toml", **given, columns="question:problem"))
        else:
            evaluate(EvaluationConfig(model="none", **given, columns="question:problem"))
    assert not (tmp_path / "out").exists()


VALUES = [
    pyarrow.array(["a", "b"]),
    pyarrow.array(["a", None], pyarrow.large_string()),
    pyarrow.array(["a", "b"]).dictionary_encode(),
    pyarrow.array([1, 2], pyarrow.uint64()),
    pyarrow.array([True, False]),
    pyarrow.array([0.5, float("nan")]),
    pyarrow.array([b"\xff", b"b"]),
    pyarrow.array([None, None]),
    pyarrow.array([datetime.datetime(2024, 7, 26), None]),
    pyarrow.array([datetime.timedelta(days=1), None]),
    pyarrow.array([decimal.Decimal("1.5"), None]),
    pyarrow.array([["a", "b"], []]),
    pyarrow.array([[1, None], None]),
    pyarrow.array([{"x": 1}, {"x": None}]),
    pyarrow.array([[("k", 1)], []], pyarrow.map_(pyarrow.string(), pyarrow.int32())),
]
NAMES = ["id", "question", "answer", "context", "solution", "answers", "level", "problem_id", ""]


@settings(max_examples=60)
@given(
    st.dictionaries(st.sampled_from(NAMES), st.sampled_from(VALUES), max_size=6),
    st.sampled_from(["", "id:#", "answer:level"]),
)
def test_any_table_is_read_or_refused_in_one_line(tmp_path_factory, columns, names):
    path = tmp_path_factory.getbasetemp() / "any.parquet"
    parquet.write_table(pyarrow.table(columns), path)
    try:
        problems = read_problems(path, answers_needed=False, columns=names)
    except UserError as error:
        assert str(error).startswith(str(path)) and str(error).isprintable()
        return
    json.dumps([to_row(problem) for problem in problems], allow_nan=False)


@pytest.mark.parametrize("content", ["3", "[]", "{}", "", "[" * 100_000, '{"_data_files": [3], "splits": 3}',
                                     '{"_data_files": [{"filename": "../x"}], "splits": [".."]}',
                                     '{"_data_files": [{"filename": "/x"}], "splits": ["/x"]}'])  # fmt: skip
@pytest.mark.parametrize("name", ["state.json", "dataset_dict.json"])
def test_damaged_files_of_a_saved_data_set(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=name) as error:
        read_problems(tmp_path)
    assert "\n" not in str(error.value)
