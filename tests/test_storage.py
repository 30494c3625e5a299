"""A disk that is full, or has lost the end of a file."""

import errno
import io
import json
import os
import resource
from contextlib import contextmanager

import pytest

from cord_jax import storage
from cord_jax.errors import UserError
from cord_jax.run_directory import open_run
from cord_jax.storage import storage_problem, write_atomically
from cord_jax.traces import TraceFiles
from cord_jax.tree_shape import TreeShape
from launch import common
from tests.test_traces import TRACE


@contextmanager
def full_after(monkeypatch, count: int):
    """A disk on which only so many bytes more find room."""
    real = storage.open_to_write

    class Full(io.FileIO):
        def write(self, content):
            nonlocal count
            taken = bytes(content)[:count]
            count -= len(taken)
            super().write(taken)
            if len(taken) < len(content):
                raise OSError(errno.ENOSPC, "No space left on device")
            return len(content)

        def writelines(self, parts):
            for part in parts:
                self.write(part)

    def opens(path, flags=0):
        file = real(path, flags)
        return Full(os.dup(file.fileno()), "ab" if flags & os.O_APPEND else "rb+")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "open_to_write", opens)
        yield


@pytest.mark.parametrize("count", [0, 1, 20, 60])
def test_rows_that_do_not_fit_leave_nothing_behind(tmp_path, monkeypatch, count):
    with open_run(tmp_path, job="x", settings={}) as run:
        file = run.json_lines("rows.jsonl")
        file.append({"n": 1})
        with full_after(monkeypatch, count):
            with pytest.raises(UserError, match=r"rows.jsonl: cannot be written \(No space left on device\)"):
                file.append({"n": 2, "text": "x" * 40}, {"n": 3, "text": "y" * 40})
            run.log("this is not written, and no error")
        assert file.read() == [{"n": 1}]
        file.append({"n": 2})
        assert run.json_lines("rows.jsonl").read() == [{"n": 1}, {"n": 2}]


@pytest.mark.parametrize("count, room", [(60, 0), (60, 1), (60, 30), (60, 1000), (400, 30), (400, 9000)])
def test_rows_that_the_system_takes_a_part_of_leave_nothing_behind(tmp_path, count, room):
    """Beyond the greatest size of a file the kernel writes what fits and then nothing, as on a disk that is full."""
    with open_run(tmp_path, job="x", settings={}) as run:
        file = run.json_lines("rows.jsonl")
        file.append({"n": 1})
        rows = [{"n": n, "text": "x" * 40} for n in range(2, count)]
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file.path.stat().st_size + room, before[1]))
        try:
            with pytest.raises(UserError, match=r"rows.jsonl: cannot be written \(File too large\)"):
                file.append(*rows)
            with pytest.raises(UserError, match=r"summary.json: cannot be written \(File too large\)"):
                write_atomically(tmp_path / "summary.json", (b"x" * 100 for _ in range(200)))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert file.read() == [{"n": 1}] and not (tmp_path / "summary.json").exists()
        file.append(*rows)
        assert run.json_lines("rows.jsonl").read() == [{"n": 1}, *rows]


def test_a_file_that_does_not_fit_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    write_atomically(path, "old")
    with full_after(monkeypatch, 2), pytest.raises(UserError, match="summary.json: cannot be written"):
        write_atomically(path, "new content")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("summary.json", "old")]


def test_what_a_library_raises_for_a_full_disk_is_one_line(capsys):
    def main(values):
        try:
            raise OSError(errno.ENOSPC, "No space left on device", "model.safetensors")
        except OSError as error:
            raise RuntimeError("could not save") from error

    status = common.run_with(main, common.flags.FlagValues(), "", ["job"])
    assert (status, capsys.readouterr().err.splitlines()) == (
        2,
        [
            "error: model.safetensors: No space left on device; what was written before is whole, and the same command "
            "continues when that is mended"
        ],
    )
    assert storage_problem(ValueError("DATA_LOSS: [write] Disk quota exceeded")) == "Disk quota exceeded"
    of_tensorstore = ValueError(
        'RESOURCE_EXHAUSTED: Failed writing: "/run/6/d": ... No space left on device [28]'
    )
    assert storage_problem(of_tensorstore) == "/run/6/d: No space left on device"
    assert storage_problem(ValueError("3")) is None and storage_problem(FileNotFoundError(2, "no")) is None


def row(node, step, beam, rank=None, ended="marker", problem="p1"):
    return {
        "node": node, "parent": 0, "problem": problem, "step": step, "beam": beam, "teacher": "left", "text": "",
        "score": None, "kept": rank is not None, "rank": rank, "dropped": None, "ended": ended,
    }  # fmt: skip


BEAM = TreeShape(proposers=2, whole_traces=0, max_steps=3, goes_back=False)
ROWS = [row(1, 1, 0, 1), row(2, 1, 0, 0), row(3, 2, 0, 0, "eos"), row(4, 2, 0), row(5, 2, 1, 1), row(6, 2, 1)]
ROWS += [row(7, 3, 1), row(8, 3, 1, 1, "cap")]


def test_a_tree_of_which_the_end_is_lost_is_not_whole():
    assert BEAM.is_whole(ROWS)
    assert not any(BEAM.is_whole(ROWS[:end]) for end in range(len(ROWS)))
    assert not any(BEAM.is_whole(ROWS[:i] + ROWS[i + 1 :]) for i in range(len(ROWS)))
    whole = TreeShape(proposers=2, whole_traces=2, max_steps=1, goes_back=False)
    traces = [row(1, 1, 0), row(2, 1, 0, 0), row(3, 1, 1), row(4, 1, 1)]
    assert whole.is_whole(traces) and not any(whole.is_whole(traces[:end]) for end in range(4))
    tree_search = TreeShape(proposers=2, whole_traces=0, max_steps=3, goes_back=True)
    assert tree_search.is_whole(traces) and not tree_search.is_whole(traces[:3])


def test_a_trace_without_its_whole_tree_is_searched_again_and_a_doubled_row_counts_once(tmp_path, capsys):
    other = json.dumps(TRACE.to_row() | {"id": "p2"}) + "\n"
    line = json.dumps(TRACE.to_row()) + "\n"
    (tmp_path / "traces.jsonl").write_text(line + other + line)
    trees = [*ROWS, ROWS[0], *({**r, "problem": "p2"} for r in ROWS[:-1]), row(1, 1, 0, problem="p3")]
    (tmp_path / "tree.jsonl").write_text("".join(json.dumps(r) + "\n" for r in trees))
    (tmp_path / "config.json").write_text(
        json.dumps({"job": "x", "settings": {}, "inputs": {}, "environment": {}, "packages": {}})
    )
    with open_run(tmp_path, job="x", settings={}) as run:
        assert TraceFiles(run, BEAM).finished() == {"p1"}
        said = capsys.readouterr().err
        assert "traces.jsonl: 1 rows stand there twice" in said
        assert "tree.jsonl: lacks rows of 1 problems, which are searched again: p2" in said
        assert [r["node"] for r in run.json_lines("tree.jsonl").read()] == list(range(1, 9))
        assert len(run.json_lines("traces.jsonl").read()) == 1
