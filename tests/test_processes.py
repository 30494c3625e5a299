"""A process of a job that is gone ends the others with one line."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from cord_jax import processes
from tests.conftest import REPOSITORY
from tests.launch.test_scripts import free_port
from tests.reference.tiny import PROBLEMS, write_checkpoint, write_tokenizer

# Two processes that add a number up for ever; `line` of an earlier one says that both are there.
JOB = """
    import sys, time
    from absl import flags
    from cord_jax import processes
    from launch import common

    processes.HEARTBEAT_SECONDS = 20

    def main(values):
        from cord_jax.mesh import from_process_0, join_processes
        import numpy as np

        join_processes(values.distributed)
        while True:
            from_process_0(np.array(1))
            print("together", flush=True)
            time.sleep(0.2)

    FLAGS = flags.FlagValues()
    common.define_distributed(FLAGS)
    common.run(main, FLAGS, "")
"""


def test_the_page_becomes_one_line():
    page = (
        b"a line\nF1128 07:15:05.089474   12666 client.h:80] Terminating process because the JAX distributed service detected "
        b"fatal errors. absl::Status: UNAVAILABLE: The following tasks are unhealthy (stopped sending heartbeats):\n%s\nThe "
        b"tasks have crashed.\n*** Check failure stack trace: ***\n    @     0x7f0f5fa40634  absl::LogMessage::Flush()\n"
    )
    for tasks, said in [(b"1", "process 1 of"), (b"1\n3", "processes 1, 3 of")]:
        passed = subprocess.run(
            [sys.executable, processes.__file__], input=page % tasks, stdout=-1, check=True
        ).stdout.decode()
        first, second = passed.splitlines()
        assert first == "a line" and second.startswith(f"error: {said} this job no longer answer")


def test_other_lines_are_passed_on():
    text = b"one\n\ntwo\xff\nwithout an end"
    passed = subprocess.run([sys.executable, processes.__file__], input=text, stdout=-1, check=True)
    assert passed.stdout == text


def start_two(command):
    port = free_port()
    return [
        subprocess.Popen(
            [*command, f"--distributed=localhost:{port},2,{index}"],
            cwd=REPOSITORY,
            env=os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(REPOSITORY)},
            stdout=-1,
            stderr=-1,
            text=True,
        )
        for index in range(2)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hangs"])
@pytest.mark.parametrize("gone", [0, 1])
def test_the_other_ends_with_one_line(tmp_path, gone, number):
    script = tmp_path / "job.py"
    script.write_text(textwrap.dedent(JOB))
    both = start_two([sys.executable, str(script)])
    try:
        for process in both:
            while process.stdout.readline() != "together\n":
                pass
        both[gone].send_signal(number)
        _, errors = both[1 - gone].communicate(timeout=300)
        assert both[1 - gone].returncode in (processes.EXIT_ALONE, -signal.SIGABRT)
        lines = [line for line in errors.splitlines() if "[Gloo]" not in line]
        assert len(lines) == 1 and lines[0].startswith("error: ") and "started again" in lines[0]
    finally:
        for process in both:
            process.kill()


@pytest.mark.slow
def test_a_job_whose_process_was_killed_goes_on(tmp_path):
    """Killed in the middle, continued by two processes: the rows of one process that nobody killed."""
    write_checkpoint(tmp_path / "model", write_tokenizer(tmp_path / "tokenizer", "digits"), "qwen2", seed=3)
    proposers = "".join(f'[[proposer]]\nname = "{name}"\ncheckpoint = "model"\n' for name in ("one", "two"))
    (tmp_path / "pool.toml").write_text('meta_prover = "one"\n' + proposers)
    problems = [problem | {"id": f"{problem['id']}-{copy}"} for copy in range(6) for problem in PROBLEMS]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(problem) + "\n" for problem in problems))
    limits = (
        "--beam_width=2 --max_steps=3 --max_step_tokens=16 --max_thinking_tokens=60 --max_answer_tokens=8"
    )
    inputs = [f"--pool={tmp_path}/pool.toml", f"--problems={tmp_path}/problems.jsonl", "--slots=4"]
    job = [sys.executable, "-m", "launch.synthesize", *inputs, *limits.split()]

    def rows(name):
        file = tmp_path / name / "traces.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        return sorted(json.dumps(json.loads(line) | {"seconds": 0}) for line in lines)

    subprocess.run([*job, f"--output_dir={tmp_path}/one"], cwd=REPOSITORY, check=True, capture_output=True)
    command = [*job, f"--output_dir={tmp_path}/two", "--mesh=data:2,model:1"]
    both = start_two(command)
    while len(rows("two")) < 2 and all(process.poll() is None for process in both):
        time.sleep(0.1)
    both[1].kill()
    assert both[0].wait(timeout=300) != 0 and both[0].stderr.read().count("error: ") == 1
    assert [process.wait(timeout=900) for process in start_two(command)] == [0, 0]
    assert rows("two") == rows("one")
