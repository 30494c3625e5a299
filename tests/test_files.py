"""Files from others: every line is read as it is, or refused in one line that names file, line and reason."""

import gzip
import json
import os
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cord_jax import files
from cord_jax.errors import UserError
from cord_jax.json_lines import JsonLines
from cord_jax.pool import read_pool
from cord_jax.problems import read_problems
from cord_jax.run_directory import check_run, open_run
from cord_jax.text.prompt_settings import read_prompt_file

GOOD = b'{"id": "a", "question": "?", "answer": "4"}'
DEEP = b'{"id": "b", "x": ' + b"[" * 101 + b"]" * 101 + b"}"
BAD_LINES = {
    b'{"x": NaN}': "holds NaN, which is not JSON; write null",
    b'{"x": [{"y": -Infinity}]}': "holds -Infinity",
    b'{"x": 1e999}': "holds 1e999, a number that is too large",
    b'{"x": "\\ud800"}': 'field "x" has half of a surrogate pair',
    b'{"x": {"\\udfffy": 1}}': 'field "x" has half of a surrogate pair',
    b'{"\\ud83d": 1}': "half of a surrogate pair",
    b'{"x": 1, "x": 2}': 'field "x" stands twice',
    b'{"y": {"x": 1, "x": 1}}': 'field "x" stands twice',
    b'{"x": ' + b"9" * 5000 + b"}": "thousands of digits",
    b"[" * 100_000: "nested too deeply",
    DEEP: "nested too deeply",
    b'{"x": 1} {"x": 2}': "not JSON: Extra data",
    b"{'x': 1}": "not JSON",
    b'{"x": "\xed\xa0\x80"}': "not UTF-8 at byte 7",
    b"[]": "not a JSON object",
    b"3": "not a JSON object",
}


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
@pytest.mark.parametrize("line", BAD_LINES, ids=range(len(BAD_LINES)))
def test_lines_that_cannot_be_written_again(tmp_path, line, name):
    path = tmp_path / name
    data = GOOD + b"\r\n\n" + line + b"\n"
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    for read in (lambda: list(files.read_rows(path)), lambda: read_problems(path)):
        with pytest.raises(UserError) as error:
            read()
        assert str(error.value).startswith(f"{path}, line 3: ") and BAD_LINES[line] in str(error.value)
        assert "\n" not in str(error.value)


def test_what_is_odd_and_right(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"x": "\U0001f600\u2028"}, {"x": [[1e300, 10**400, -0.0]]}, {"": {"x": {"x": 1}}}]
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(json.dumps(row).encode() for row in rows))
    assert list(files.read_rows(path)) == list(enumerate(rows, start=1))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=VALUES)
def test_any_pass_through_value_is_written_again_or_refused(tmp_path, value):
    """A problem that is read can be written into a trace; Python's own reader agrees on the value."""
    path = tmp_path / "problems.jsonl"
    path.write_text(json.dumps(json.loads(GOOD) | {"extra": value}))
    try:
        (problem,) = read_problems(path)
    except UserError as error:
        assert f"{path}, line 1: " in str(error) and "\n" not in str(error)
        with pytest.raises((ValueError, UnicodeEncodeError)):
            json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
        return
    JsonLines(tmp_path / "out.jsonl").append(problem.extra)
    assert JsonLines(tmp_path / "out.jsonl").read()[-1] == {"extra": value}


def bad_files(directory):
    """(name, what it is) of things in place of a file."""
    (directory / "directory").mkdir()
    os.mkfifo(directory / "fifo")
    (directory / "device").symlink_to("/dev/zero")
    (directory / "loop").symlink_to(directory / "loop")
    (directory / "latin").write_bytes(b'{"\xe9": 1}\n')
    (directory / "half").write_bytes(b'{"id": "a')
    return ("directory", "fifo", "device", "loop", "latin", "half", "absent")


@pytest.mark.parametrize(
    "read", [read_problems, read_pool, files.read_object, files.read_text, lambda p: list(files.read_rows(p))]
)
def test_something_else_in_place_of_a_file(tmp_path, read):
    for name in bad_files(tmp_path):
        if read is files.read_text and name == "half":
            continue
        with pytest.raises(UserError) as error:
            read(tmp_path / name)
        assert str(tmp_path / name) in str(error.value) and "\n" not in str(error.value)


def test_damaged_compression(tmp_path):
    whole = gzip.compress(GOOD + b"\n" + os.urandom(3000).hex().encode())
    path = tmp_path / "problems.jsonl.gz"
    for data in (
        whole[:-9],
        whole[:40],
        whole[:60] + b"\0" * 20 + whole[80:],
        GOOD,
        whole + b"x",
        zlib.compress(GOOD),
    ):
        path.write_bytes(data)
        with pytest.raises(UserError, match="problems.jsonl.gz: cannot be read"):
            list(files.read_lines(path))


def test_gzip_without_its_name(tmp_path):
    path = tmp_path / "problems.jsonl"
    path.write_bytes(gzip.compress(GOOD))
    with pytest.raises(
        UserError, match="problems.jsonl: is compressed by gzip; give it a name that ends in .gz"
    ):
        read_problems(path)


def test_a_line_without_end_is_not_read_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LONGEST_LINE", 1000)
    path = tmp_path / "problems.jsonl.gz"
    path.write_bytes(gzip.compress(GOOD + b"\n" + b" " * 5000))
    with pytest.raises(UserError, match="line 2 has 1000 bytes or more"):
        read_problems(path)


def test_rows_of_a_run_that_lack_fields(tmp_path):
    lines = JsonLines(tmp_path / "rows.jsonl")
    lines.append({"id": "a"}, {})
    assert len(lines.read()) == 2
    with pytest.raises(UserError, match='line 2: damaged .field "id" is missing or of another type'):
        lines.read({"id": str})


@pytest.mark.parametrize(
    "content", ["", "[]", '{"system_prompt": 3}', '{"x": 1}', '{"user_prompt": null}', "{", '"']
)
def test_a_prompt_file_that_is_none(tmp_path, content):
    (tmp_path / "prompt.json").write_text(content)
    with pytest.raises(UserError, match="prompt.json: "):
        read_prompt_file(tmp_path)


RUN = {"job": "evaluate", "settings": {"seed": 0}}


@pytest.mark.parametrize(
    "name", [".lock", ".config.json.tmp", "config.json", "log.txt", "rows.jsonl", "hf.unfinished"]
)
def test_links_in_an_output_directory_are_not_followed(tmp_path, name):
    precious = tmp_path / "precious"
    precious.write_text('{"torn')
    run = tmp_path / "run"
    run.mkdir()
    (run / name).symlink_to(precious)
    for use in (check_run, open_run):
        with pytest.raises(UserError, match="is a link or no file"):
            use(run, **RUN)
    if name not in (".lock", ".config.json.tmp"):
        with pytest.raises(UserError, match="is a link or no file"):
            JsonLines(run / name).append({"a": 1})
    assert precious.read_text() == '{"torn'
    (run / name).unlink()
    with open_run(run, **RUN) as opened:
        (run / "log.txt").unlink(missing_ok=True)
        (run / "log.txt").symlink_to(precious)  # while the job runs
        (run / ".summary.json.tmp").symlink_to(precious)
        with pytest.raises(UserError, match="is a link or no file"):
            opened.log("a line")
        opened.write_json("summary.json", {"a": 1})
    assert precious.read_text() == '{"torn'
    assert json.loads((run / "summary.json").read_text()) == {"a": 1}


def test_a_pipe_in_an_output_directory_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / ".lock")
    with pytest.raises(UserError, match="is a link or no file"):
        open_run(tmp_path, **RUN)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"{", b"\xff", b'{"job": 1}', b'{"job": "evaluate", "settings": []}']
)
def test_a_config_that_is_none_of_ours(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    for use in (check_run, open_run):
        with pytest.raises(UserError, match="holds files that belong to no run .config.json."):
            use(tmp_path, **RUN)
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"]
