"""A run as a whole: output, resume, refusals, signals."""

import errno
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboardX.proto.event_pb2 import Event
from transformers import AutoModelForCausalLM, AutoTokenizer

import models
from cord_jax.errors import UserError
from cord_jax.run_directory import open_run
from cord_jax.student import StudentConfig, train
from cord_jax.student import trainer as trainer_module
from cord_jax.student.metrics import Events
from tests.student.students import read_metrics

SETTINGS = dict(
    max_length=256,
    batch_size=4,
    epochs=3,
    learning_rate=3e-3,
    warmup=0.0,
    mesh="data:1",
    checkpoint_every=3,
    plot=False,
)


def weights_of(output_dir):
    return (output_dir / "hf" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def finished(student, rows, tmp_path_factory):
    """An uninterrupted run."""
    output_dir = tmp_path_factory.mktemp("finished")
    seen = []
    hf = train(
        StudentConfig(
            student,
            rows,
            output_dir,
            held_out=rows,
            eval_every=5,
            tensorboard=True,
            **{**SETTINGS, "plot": True},
        ),
        progress=seen.append,
    )
    assert hf == output_dir / "hf"
    assert [{k: v for k, v in row.items() if k != "steps"} for row in seen] == read_metrics(output_dir)
    return output_dir


def scalars_of(file):
    """The rows of a file of TensorBoard events: length, checksum, event, checksum, again and again."""
    content, rows = file.read_bytes(), []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        event = Event.FromString(content[12 : 12 + length])
        if event.summary.value:
            rows.append({"step": event.step} | {v.tag: v.simple_value for v in event.summary.value})
        content = content[16 + length :]
    return rows


def test_metrics(finished):
    metrics = read_metrics(finished)
    assert [row["step"] for row in metrics] == list(range(1, len(metrics) + 1))
    assert {"loss", "learning_rate", "grad_norm", "tokens_per_second", "mfu"} <= set(metrics[0])
    assert metrics[0]["mfu"] is None  # a CPU is not in the table of peaks
    assert all(row["tokens_per_second"] > 0 for row in metrics)
    assert metrics[-1]["loss"] < metrics[0]["loss"]
    assert [row["step"] for row in metrics if "held_out_loss" in row] == [5, 10, 15, len(metrics)]
    assert metrics[-1]["held_out_loss"] == pytest.approx(metrics[-1]["loss"], rel=0.2)
    assert (finished / "curves.png").read_bytes().startswith(b"\x89PNG")
    (events,) = (finished / "tensorboard").iterdir()
    assert scalars_of(events) == [
        {n: pytest.approx(v) for n, v in row.items() if v is not None} for row in metrics
    ]
    assert (finished / "first_rows.txt").read_text().startswith("# row r0: ")
    assert [path.name for path in (finished / "checkpoints").iterdir() if path.name.isdigit()] != []


def test_the_exported_student_in_transformers(finished, rows):
    hf = finished / "hf"
    theirs = AutoModelForCausalLM.from_pretrained(hf, dtype=torch.float32)
    ours = models.load(hf)
    tokens = np.random.default_rng(0).integers(0, 200, (2, 30))
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens)).logits.numpy()
    np.testing.assert_allclose(np.asarray(ours(tokens)), expected, atol=1e-5 * np.abs(expected).max())
    assert AutoTokenizer.from_pretrained(hf).eos_token_id == theirs.generation_config.eos_token_id


def test_a_finished_run_is_not_repeated(finished, student, rows):
    before = weights_of(finished)
    train(
        StudentConfig(student, rows, finished, held_out=rows, eval_every=5, **SETTINGS),
        progress=lambda row: pytest.fail("took a step"),
    )
    assert weights_of(finished) == before


def test_other_settings_are_refused(finished, student, rows):
    with pytest.raises(UserError, match="learning_rate is 0.003 there, 0.001 here"):
        train(
            StudentConfig(
                student, rows, finished, held_out=rows, eval_every=5, **{**SETTINGS, "learning_rate": 1e-3}
            )
        )


class Killed(BaseException):
    """Stands for the end of the process."""


def test_resume_is_exact_and_loses_only_what_was_not_saved(finished, student, rows, tmp_path):
    """Dies after several steps, without any chance to tidy up, and continues each time."""
    firsts = []
    for last in (4, 8, 14, None):
        seen = []

        def progress(row, last=last, seen=seen):
            seen.append(row["step"])
            if row["step"] == last:
                raise Killed

        try:
            train(StudentConfig(student, rows, tmp_path, held_out=rows, eval_every=5, **SETTINGS), progress)
        except Killed:
            pass
        firsts.append(seen[0])
    assert firsts == [1, 4, 7, 13]
    assert weights_of(tmp_path) == weights_of(finished)
    timeless = [
        [{k: v for k, v in row.items() if k != "tokens_per_second"} for row in read_metrics(output_dir)]
        for output_dir in (finished, tmp_path)
    ]
    assert timeless[0] == timeless[1]


def test_resume_on_other_devices(finished, student, rows, tmp_path):
    def progress(row):
        if row["step"] == 10:
            raise Killed

    with pytest.raises(Killed):
        train(StudentConfig(student, rows, tmp_path, held_out=rows, eval_every=5, **SETTINGS), progress)
    steps = []
    train(
        StudentConfig(
            student, rows, tmp_path, held_out=rows, eval_every=5, **{**SETTINGS, "mesh": "fsdp:2,model:2"}
        ),
        lambda row: steps.append(row["step"]),
    )
    assert steps[0] == 10
    np.testing.assert_allclose(
        read_metrics(tmp_path)[-1]["loss"], read_metrics(finished)[-1]["loss"], rtol=1e-3
    )


def test_random_from_scratch(student, rows, tmp_path):
    """A freshly built network, and row kinds mixed."""
    scratch = tmp_path / "scratch"
    models.save(models.build(models.read_config(student), seed=1), scratch, source=student)
    mixed = tmp_path / "rows.jsonl"
    mixed.write_text(rows.read_text() + json.dumps({"prompt": "the sum ", "completion": "is 3."}) + "\n")
    train(StudentConfig(scratch, mixed, tmp_path / "out", **{**SETTINGS, "checkpoint_every": 0}))
    metrics = read_metrics(tmp_path / "out")
    assert metrics[-1]["loss"] < 0.75 * metrics[0]["loss"]
    assert not any(path.name.isdigit() for path in (tmp_path / "out" / "checkpoints").iterdir())


def test_a_run_that_is_not_finite_ends_with_the_rows_named(student, rows, tmp_path):
    with pytest.raises(UserError, match="step 4: 3 steps had a loss or gradient that is not finite"):
        train(
            StudentConfig(
                student,
                rows,
                tmp_path,
                **{
                    **SETTINGS,
                    "learning_rate": 0.99,
                    "max_grad_norm": 0.0,
                    "weight_decay": 1e38,
                    "max_skipped": 2,
                },
            )
        )
    skipped = [json.loads(line) for line in (tmp_path / "non_finite.jsonl").read_text().splitlines()]
    assert skipped[-1]["rows"][0].startswith("r")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"student": "absent"}, "absent"),
        ({"batch_size": 6, "accumulation": 4}, "--batch_size=6 does not divide into --accumulation=4"),
        ({"mesh": "fsdp:8"}, "--batch_size=4 in 1 parts does not divide over the 8 devices"),
        ({"schedule": "steps"}, "--schedule=steps: must be one of cosine, linear, constant"),
        ({"eval_every": 3}, "give --held_out"),
        ({"row_filter": "good"}, "'good' is no condition"),
    ],
)
def test_refusals_leave_nothing_behind(changes, message, student, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer_module, "_run", lambda *_: pytest.fail("got as far as compiling"))
    with pytest.raises((UserError, models.CheckpointError), match=message) as error:
        train(
            StudentConfig(
                **{**SETTINGS, "student": student, "traces": rows, "output_dir": tmp_path / "out", **changes}
            )
        )
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def start(student, rows, output_dir, **changes):
    """The command, in a process of its own."""
    flags = {**SETTINGS, "student": student, "traces": rows, "output_dir": output_dir, **changes}
    command = [sys.executable, "-m", "launch.train_student", "--noplot"]
    command += [f"--{name}={value}" for name, value in flags.items() if name != "plot"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}  # as many devices as here: they share the cores
    return subprocess.Popen(
        command,
        cwd=Path(__file__).parents[2],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_step(process, step):
    for line in process.stdout:
        if line.startswith(f"step {step}/"):
            return
    raise AssertionError("ended before that step")


def test_sigterm_saves_the_step_it_comes_at(finished, student, rows, tmp_path):
    process = start(student, rows, tmp_path)
    wait_for_step(process, 4)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 143
    stopped = int(output.split("stopped by a signal after step ")[1].split()[0])
    steps = []
    train(StudentConfig(student, rows, tmp_path, **SETTINGS), lambda row: steps.append(row["step"]))
    assert steps[0] == stopped + 1
    assert weights_of(tmp_path) == weights_of(finished)


@pytest.mark.slow
def test_killed_at_ten_random_moments(student, rows, tmp_path):
    longer = {**SETTINGS, "epochs": 40}
    train(StudentConfig(student, rows, tmp_path / "whole", **longer))
    rng = random.Random(0)
    for _ in range(10):
        process = start(student, rows, tmp_path / "killed", epochs=40)
        for _ in range(rng.randint(0, 9)):  # 0: while it starts, compiles or restores
            while not process.stdout.readline().startswith("step "):
                pass
        time.sleep(rng.uniform(0, 0.1 if rng.random() < 0.8 else 2))
        assert process.poll() is None
        process.kill()
        process.communicate()
    process = start(student, rows, tmp_path / "killed", epochs=40)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert weights_of(tmp_path / "killed") == weights_of(tmp_path / "whole")


def test_what_a_kill_took_at_the_end_is_made_up_for(finished, student, rows, tmp_path, monkeypatch):
    """After the last step: neither the first rows, nor the curves, nor the student were there yet."""
    shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "hf")
    (tmp_path / "run" / "hf.unfinished").mkdir()
    (tmp_path / "run" / "hf.unfinished" / "leftover").touch()
    for name in ("first_rows.txt", "curves.png"):
        (tmp_path / "run" / name).unlink()
    as_finished = dict(held_out=rows, eval_every=5, tensorboard=True)
    config = StudentConfig(student, rows, tmp_path / "run", **as_finished, **{**SETTINGS, "plot": True})

    def full(path, content):
        raise UserError(f"{path}: cannot be written") from OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(trainer_module, "write_atomically", full)
        with pytest.raises(UserError, match="first_rows.txt: cannot be written"):
            train(config)
    assert not (tmp_path / "run" / "hf").exists()
    train(config)
    names = [sorted(p.name for p in path.iterdir()) for path in (tmp_path / "run", finished)]
    assert names[0] == names[1]
    assert sorted(p.name for p in (tmp_path / "run" / "hf").iterdir()) == sorted(
        p.name for p in (finished / "hf").iterdir()
    )
    assert weights_of(tmp_path / "run") == weights_of(finished)


def test_a_disk_without_room_for_the_curves_does_not_fail_the_training(
    finished, tmp_path, monkeypatch, capsys
):
    def full(path, content):
        raise UserError(f"{path}: cannot be written") from OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(trainer_module, "write_atomically", full)
    shutil.copy(finished / "metrics.jsonl", tmp_path)
    with open_run(tmp_path / "run", job="x", settings={}) as run:
        trainer_module._draw(run, "nats")
    assert "the curves are not drawn" in capsys.readouterr().err


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a disk that is always full")
def test_events_that_do_not_fit_are_told_and_do_not_hang(tmp_path, monkeypatch):
    monkeypatch.setattr("tensorboardX.record_writer.open_file", lambda path: open("/dev/full", "wb"))
    events = Events(tmp_path / "tensorboard")
    with pytest.raises(UserError, match="tensorboard: cannot be written .No space left on device"):
        for step in range(100):
            events.write({"step": step, "loss": 1.0})
    events.close()


@pytest.mark.parametrize("part", ["array", "metadata"])
def test_a_flipped_bit_of_a_saved_state_is_noticed(finished, student, rows, tmp_path, part):
    shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "hf")
    state = max((tmp_path / "run" / "checkpoints").iterdir(), key=lambda path: int(path.name))
    files = sorted(
        (path for path in state.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size
    )
    file = files[-1] if part == "array" else files[0]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=f"{file.name}: the saved state is damaged"):
        as_finished = dict(held_out=rows, eval_every=5, tensorboard=True)
        train(StudentConfig(student, rows, tmp_path / "run", **as_finished, **SETTINGS))
