"""The command: its help, its flags and its errors."""

import json
from types import SimpleNamespace

import pytest

from cord_jax import StudentConfig, train
from launch import common, train_student


def run(capsys, *arguments):
    """Exit status, stdout and stderr of the command, in this process."""
    status = common.run_with(
        train_student.main, train_student.FLAGS, train_student.__doc__, ["train_student", *arguments]
    )
    return status, *capsys.readouterr()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"student": "absent"}, "absent"),
        ({"traces": "absent.jsonl"}, "absent.jsonl: cannot be read"),
        ({"learning_rte": "1"}, "did you mean --learning_rate?"),
        ({"batch_size": "0"}, "--batch_size=0: must be at least 1"),
        ({"filter": "best"}, "--filter=best: 'best' is no condition"),
        ({"mesh": "fsdp:3"}, "--batch_size=8 in 1 parts does not divide over the 3 devices"),
    ],
)
def test_mistakes(changes, message, student, rows, tmp_path, capsys):
    flags = {"student": student, "traces": rows, "output_dir": tmp_path / "out", "mesh": "data:1", **changes}
    status, _, err = run(capsys, *(f"--{name}={value}" for name, value in flags.items()))
    assert status == 2
    assert message in err and err.startswith("error: ") and err.count("\n") == 1
    assert not (tmp_path / "out").exists()
    train_student.FLAGS.unparse_flags()


def test_a_run(student, rows, tmp_path, capsys):
    status, out, errors = run(
        capsys,
        f"--student={student}",
        f"--traces={rows}",
        f"--output_dir={tmp_path / 'out'}",
        "--max_length=256",
        "--max_steps=3",
        "--mesh=data:1",
        "--noplot",
        "--checkpoint_every=0",
    )
    assert status == 0
    lines = [line for line in errors.splitlines() if line.startswith("step ")]
    assert [line.split()[1] for line in lines] == ["1/3", "2/3", "3/3"]
    assert "loss " in lines[0] and "tokens/s" in lines[0]
    assert out == str(tmp_path / "out" / "hf") + "\n"
    page = tmp_path / "out" / "report.html"
    assert errors.splitlines()[-1] == f"report: {page}" and "training: loss" in page.read_text(
        encoding="utf-8"
    )


def test_rows_and_traces_in_memory(student, rows, tmp_path):
    held = [json.loads(line) for line in rows.read_text().splitlines()]
    traces = [
        SimpleNamespace(to_row=lambda row=row: row) for row in held
    ]  # as `cord_jax.traces.Trace` has it
    settings = dict(
        student=student, max_length=256, max_steps=1, mesh="data:1", plot=False, checkpoint_every=0
    )
    for name, source in {"file": rows, "rows": held, "traces": traces}.items():
        train(StudentConfig(traces=source, output_dir=tmp_path / name, **settings))
    weights = [(tmp_path / name / "hf/model.safetensors").read_bytes() for name in ("file", "rows", "traces")]
    assert weights[0] == weights[1] == weights[2]
    config = json.loads((tmp_path / "rows/config.json").read_text())
    assert config["environment"]["traces"] == f"{len(held)} in memory"
    assert set(config["inputs"]["traces"]) == {"bytes", "sha256"}
