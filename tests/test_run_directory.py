"""Run directories: created, continued, refused; complete lines whatever the interruption."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cord_jax.errors import UserError
from cord_jax.fingerprints import fingerprint
from cord_jax.json_lines import JsonLines
from cord_jax.run_directory import check_run, open_run
from cord_jax.storage import write_atomically

SETTINGS = {"seed": 1, "beam_width": 4, "pool": Path("pool.toml"), "limits": (1, 2)}
INPUTS = {"problems": {"bytes": 10, "sha256": "aa"}}


def start(path, settings=SETTINGS, inputs=INPUTS, job="synthesize", **environment):
    return open_run(path, job=job, settings=settings, inputs=inputs, environment=environment)


def refusal(path, **changes) -> str:
    with pytest.raises(UserError) as caught:
        start(path, **changes)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


def test_a_run_is_created_with_its_parents_and_says_what_it_is(tmp_path):
    with start(tmp_path / "new" / "run", mesh="data:1,model:1") as run:
        assert not run.continued
    config = json.loads((tmp_path / "new" / "run" / "config.json").read_text())
    assert config["job"] == "synthesize"
    assert config["settings"] == {"seed": 1, "beam_width": 4, "pool": "pool.toml", "limits": [1, 2]}
    assert config["inputs"] == INPUTS
    assert config["environment"] == {"mesh": "data:1,model:1"}
    assert (
        config["packages"]["python"] == ".".join(map(str, sys.version_info[:3]))
        and "jax" in config["packages"]
    )


def test_the_same_command_continues(tmp_path, capsys):
    with start(tmp_path) as run:
        run.json_lines("rows.jsonl").append({"a": 1})
    with start(tmp_path) as run:
        assert run.continued
        assert run.json_lines("rows.jsonl").read() == [{"a": 1}]
    assert capsys.readouterr().err == ""


def test_other_settings_are_refused_with_the_difference(tmp_path):
    start(tmp_path).close()
    before = sorted(p.name for p in tmp_path.iterdir()), (tmp_path / "config.json").read_bytes()
    message = refusal(tmp_path, settings={"seed": 2, "beam_width": 4, "limits": [1, 2], "selector": "random"})
    assert "seed is 1 there, 2 here" in message
    assert 'pool is "pool.toml" there, absent here' in message
    assert 'selector is absent there, "random" here' in message
    assert "beam_width" not in message and "limits" not in message
    assert 'problems.sha256 is "aa" there, "bb" here' in refusal(
        tmp_path, inputs={"problems": {"bytes": 10, "sha256": "bb"}}
    )
    assert "holds a run of synthesize, not of evaluate" in refusal(tmp_path, job="evaluate")
    assert (sorted(p.name for p in tmp_path.iterdir()), (tmp_path / "config.json").read_bytes()) == before


def test_another_environment_continues_and_is_logged(tmp_path, capsys):
    start(tmp_path, mesh="data:1,model:1", slots=8).close()
    with start(tmp_path, mesh="data:8,model:1", slots=8) as run:
        assert run.continued and run.config["environment"]["mesh"] == "data:1,model:1"
    assert 'mesh is "data:1,model:1" there, "data:8,model:1" here' in capsys.readouterr().err
    assert "data:8,model:1" in (tmp_path / "log.txt").read_text()


def test_directories_of_others_are_refused(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thoughts.txt").write_text("mine")
    assert "thoughts.txt" in refusal(tmp_path / "notes")
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "config.json").write_text('{"model_type": "qwen2"}')
    assert "config.json" in refusal(tmp_path / "checkpoint")
    (tmp_path / "file").write_text("")
    assert "is a file" in refusal(tmp_path / "file")
    assert "cannot be written" in refusal(tmp_path / "file" / "below")
    assert [p.name for p in (tmp_path / "notes").iterdir()] == ["thoughts.txt"]


def test_what_a_crash_before_the_first_write_left_is_no_obstacle(tmp_path):
    (tmp_path / ".config.json.tmp").write_text('{"jo')
    (tmp_path / ".lock").touch()
    assert not start(tmp_path).continued


def test_one_process_at_a_time(tmp_path):
    with start(tmp_path):
        assert "in use by another process" in refusal(tmp_path)
    start(tmp_path).close()


@given(
    st.lists(
        st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.text('aé\n\u2028"\\')),
        max_size=4,
    ),
    st.data(),
)
def test_a_torn_file_keeps_its_complete_lines(tmp_path_factory, rows, data):
    path = tmp_path_factory.mktemp("torn") / "rows.jsonl"
    JsonLines(path).append(*rows)
    content = path.read_bytes() if rows else b""
    assert [json.loads(line) for line in content.split(b"\n")[:-1]] == rows
    kept = data.draw(st.integers(0, len(content)))
    path.write_bytes(content[:kept])
    lines = JsonLines(path)
    complete = content[:kept].count(b"\n")
    assert lines.read() == rows[:complete]
    lines.append({"next": 1})
    assert lines.read() == rows[:complete] + [{"next": 1}]


def test_a_torn_line_longer_than_a_read_block_is_cut(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n{"b": "' + b"x" * 200_000)
    JsonLines(path)
    assert path.read_bytes() == b'{"a": 1}\n'


def test_a_killed_writer_leaves_complete_rows(tmp_path):
    program = (
        "import sys; from cord_jax.run_directory import JsonLines\n"
        "lines = JsonLines(sys.argv[1]); n = 0\n"
        "while True: lines.append({'n': n, 'fill': 'x' * 5000}); n += 1; print(n, flush=True)\n"
    )
    path = tmp_path / "rows.jsonl"
    writer = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True)
    reported = [int(writer.stdout.readline()) for _ in range(20)][-1]
    os.kill(writer.pid, signal.SIGKILL)
    reported = max([reported, *map(int, writer.stdout.read().split())])
    writer.wait()
    rows = JsonLines(path).read()
    assert [row["n"] for row in rows] == list(range(len(rows))) and len(rows) >= reported


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\nnonsense\n')
    with pytest.raises(UserError, match=r"rows\.jsonl, line 2: damaged"):
        JsonLines(path).read()


def test_a_row_that_stands_there_twice_counts_once_and_is_told(tmp_path, caplog):
    file = JsonLines(tmp_path / "rows.jsonl")
    file.append({"problem": "a", "sample": 0}, {"problem": "a", "sample": 1}, {"problem": "a", "sample": 0})
    assert [row["sample"] for row in file.read(once=("problem", "sample"))] == [0, 1]
    assert f"{file.path}: 1 rows stand there twice" in caplog.text
    assert len(file.read()) == 3


def test_a_failed_write_leaves_the_old_file(tmp_path):
    with start(tmp_path) as run:
        run.write_json("summary.json", {"accuracy": 0.5})
        with pytest.raises(ValueError):
            run.write_json("summary.json", {"accuracy": float("nan")})
    assert json.loads((tmp_path / "summary.json").read_text()) == {"accuracy": 0.5}
    write_atomically(tmp_path / "text", "é")
    assert (tmp_path / "text").read_bytes() == "é".encode()


def test_fingerprints_tell_checkpoints_apart(tmp_path):
    def checkpoint(name, config=b"{}", at=None, size=40 * 2**20):
        directory = tmp_path / name
        directory.mkdir()
        (directory / "config.json").write_bytes(config)
        (directory / "README.md").write_text(name)
        with open(directory / "model.safetensors", "wb") as file:
            file.write((2).to_bytes(8, "little") + b"{}")
            file.truncate(size)
            if at is not None:
                file.seek(at)
                file.write(b"\1" * 2**20)
        return fingerprint(directory)

    first = checkpoint("first")
    assert set(first) == {"config.json", "model.safetensors"}
    assert first["model.safetensors"]["bytes"] == 40 * 2**20
    assert first == checkpoint("same")
    others = [
        checkpoint("config", config=b"{ }"),
        checkpoint("middle", at=20 * 2**20),
        checkpoint("end", at=39 * 2**20),
        checkpoint("longer", size=41 * 2**20),
    ]
    assert all(first != other for other in others)
    with pytest.raises(UserError, match="nowhere"):
        fingerprint(tmp_path / "nowhere")


def test_a_check_refuses_alike_and_writes_nothing(tmp_path):
    check_run(tmp_path / "new", job="synthesize", settings=SETTINGS, inputs=INPUTS)
    assert not (tmp_path / "new").exists()
    start(tmp_path / "held").close()
    check_run(tmp_path / "held", job="synthesize", settings=SETTINGS, inputs=INPUTS)
    with pytest.raises(UserError, match="seed is 1 there, 5 here"):
        check_run(tmp_path / "held", job="synthesize", settings=SETTINGS | {"seed": 5}, inputs=INPUTS)
