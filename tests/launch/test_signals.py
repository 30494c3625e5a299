"""A job that is interrupted ends with one line, at whatever moment, and goes on from there."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from cord_jax import interruption
from cord_jax.miniature import HELD_OUT_PROBLEMS, POOL, STUDENT

# A job that says where it is: before its first look, in a look, and in work that looks no more.
JOB = """
    import sys, time
    from absl import flags
    from cord_jax import interruption
    from launch import common

    interruption.GRACE_SECONDS = 0.5

    def main(values):
        print("starting", flush=True)
        if values.stage == "start":
            time.sleep(60)
        interruption.look()
        print("looking", flush=True)
        if values.stage == "stuck":
            end = time.monotonic() + 60
            while time.monotonic() < end:
                pass
        while True:
            time.sleep(0.01)
            interruption.look()

    FLAGS = flags.FlagValues()
    flags.DEFINE_string("stage", "look", "", flag_values=FLAGS)
    common.run(main, FLAGS, "")
"""


def interrupted(tmp_path, stage: str, number: int, line: str) -> subprocess.CompletedProcess:
    script = tmp_path / "job.py"
    script.write_text(textwrap.dedent(JOB))
    command = [sys.executable, str(script), f"--stage={stage}"]
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True, env=environment) as process:
        while process.stdout.readline().strip() != line:
            pass
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    return subprocess.CompletedProcess(command, process.returncode, None, errors)


@pytest.mark.parametrize("number", interruption.SIGNALS, ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("stage, line", [("start", "starting"), ("look", "looking"), ("stuck", "looking")])
def test_one_line_and_the_status(tmp_path, stage, line, number):
    job = interrupted(tmp_path, stage, number, line)
    assert (job.returncode, job.stderr) == (128 + number, interruption.MESSAGE + "\n")


def test_a_function_that_was_called_leaves_the_process_alone():
    before = signal.getsignal(signal.SIGINT)
    with interruption.handled():
        interruption.look()
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(interruption.Interrupted) as ended:
            for _ in range(1000):
                time.sleep(0.01)
                interruption.look()
        assert ended.value.exit_status == 143
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)
    assert signal.getsignal(signal.SIGINT) is before
    interruption.look()


def command(job: str, output_dir, **flags) -> list[str]:
    values = {"output_dir": output_dir} | flags
    return [sys.executable, "-m", f"launch.{job}", *(f"--{name}={value}" for name, value in values.items())]


def rows_of(directory, names) -> list[str]:
    """The rows of a run without what the clock says, in one order; scores to four places."""
    rows = []
    for name in names:
        for line in (directory / name).read_text(encoding="utf-8").splitlines():
            row = json.loads(line, parse_float=lambda text: round(float(text), 4))
            rows.append(json.dumps({key: value for key, value in row.items() if key != "seconds"}))
    return sorted(rows)


JOBS = {
    "synthesize": (
        ["traces.jsonl", "tree.jsonl"],
        dict(pool=POOL, limit=16, slots=4, max_steps=14, max_step_tokens=40, max_thinking_tokens=320)
        | dict(max_answer_tokens=48, problems=HELD_OUT_PROBLEMS),
    ),
    "evaluate": (
        ["samples.jsonl"],
        dict(model=STUDENT, problems=HELD_OUT_PROBLEMS, limit=40, samples=4, slots=16, max_tokens=300),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS)
def test_interrupted_at_random_moments(tmp_path, job):
    """No row is lost, doubled or changed, and every end is one line."""
    names, flags = JOBS[job]
    environment = os.environ | {"XLA_FLAGS": ""}  # one device
    begun = time.monotonic()
    for _ in range(2):  # the second start finds the programs compiled, as the interrupted ones do
        shutil.rmtree(tmp_path / "whole", ignore_errors=True)
        begun = time.monotonic()
        whole = command(job, tmp_path / "whole", **flags)
        subprocess.run(whole, check=True, capture_output=True, env=environment)
    seconds = time.monotonic() - begun
    wanted = rows_of(tmp_path / "whole", names)
    draw, statuses, run = random.Random(0), [], 0
    while len(statuses) < 20:
        directory, number = tmp_path / f"run-{run}", interruption.SIGNALS[len(statuses) % 2]
        with subprocess.Popen(
            command(job, directory, **flags), stdout=-1, stderr=-1, text=True, env=environment
        ) as process:
            try:
                process.wait(draw.uniform(0.2, seconds))
            except subprocess.TimeoutExpired:
                process.send_signal(number)
            _, errors = process.communicate(timeout=300)
        assert "Traceback" not in errors and "Error" not in errors
        if process.returncode:
            statuses.append(process.returncode)
            assert process.returncode == 128 + number
            assert errors.splitlines()[-1] == interruption.MESSAGE
        else:
            assert rows_of(directory, names) == wanted
            run += 1
