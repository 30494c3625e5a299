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


PAGE = (
    b"a line\nF1128 07:15:05.089474   12666 client.h:80] Terminating process because the JAX distributed service detected "
    b"fatal errors. absl::Status: UNAVAILABLE: The following tasks are unhealthy (stopped sending heartbeats):\n%s\nThe "
    b"tasks have crashed.\n*** Check failure stack trace: ***\n    @     0x7f0f5fa40634  absl::LogMessage::Flush()\n"
)


def test_the_page_becomes_one_line():
    for tasks, said in [(b"1", "process 1 of"), (b"1\n3", "processes 1, 3 of")]:
        passed = subprocess.run(
            [sys.executable, processes.__file__], input=PAGE % tasks, stdout=-1, check=True
        ).stdout.decode()
        first, second = passed.splitlines()
        assert first == "a line" and second.startswith(f"error: {said} this job no longer answer")


@pytest.mark.parametrize("page_first", [True, False])
def test_the_end_of_another_is_told_once(page_first):
    told = b"error: another process of this job has ended (Gloo); " + processes._REMEDY.encode() + b"\n"
    parts = [PAGE % b"1", told] if page_first else [b"a line\n", told, PAGE % b"1"]
    with subprocess.Popen([sys.executable, processes.__file__], stdin=-1, stdout=-1) as passing:
        for part in parts:
            passing.stdin.write(part)
            passing.stdin.flush()
            time.sleep(0.2)
        passed, _ = passing.communicate()
    first, second = passed.decode().splitlines()
    assert first == "a line" and second.startswith("error: ") and second.endswith("started again")


def test_a_process_that_has_told_its_reason_tells_no_other():
    script = f"""
import os, sys, threading
from cord_jax import processes
processes.FAREWELL_SECONDS = 0.5
processes.watch_errors()
print("error: a reason", file=sys.stderr)
threading.Timer(0.1, os.write, (2, {PAGE % b"1"!r})).start()
processes.leave(75)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, stderr=-1)
    assert (done.returncode, done.stderr) == (75, b"error: a reason\n")


def test_other_lines_are_passed_on():
    text = b"one\n\ntwo\xff\nwithout an end"
    passed = subprocess.run([sys.executable, processes.__file__], input=text, stdout=-1, check=True)
    assert passed.stdout == text


def start(command, count=2):
    port = free_port()
    return [
        subprocess.Popen(
            [*command, f"--distributed=localhost:{port},{count},{index}"],
            cwd=REPOSITORY,
            env=os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(REPOSITORY)},
            stdout=-1,
            stderr=-1,
            text=True,
        )
        for index in range(count)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hangs"])
@pytest.mark.parametrize("gone", [0, 1])
def test_the_other_ends_with_one_line(tmp_path, gone, number):
    script = tmp_path / "job.py"
    script.write_text(textwrap.dedent(JOB))
    both = start([sys.executable, str(script)])
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


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A search of twelve problems, and the rows of one process that nobody killed."""
    directory = tmp_path_factory.mktemp("job")
    write_checkpoint(directory / "model", write_tokenizer(directory / "tokenizer", "digits"), "qwen2", seed=3)
    proposers = "".join(f'[[proposer]]\nname = "{name}"\ncheckpoint = "model"\n' for name in ("one", "two"))
    (directory / "pool.toml").write_text('meta_prover = "one"\n' + proposers)
    problems = [problem | {"id": f"{problem['id']}-{copy}"} for copy in range(6) for problem in PROBLEMS]
    (directory / "problems.jsonl").write_text("".join(json.dumps(problem) + "\n" for problem in problems))
    limits = (
        "--beam_width=2 --max_steps=3 --max_step_tokens=16 --max_thinking_tokens=60 --max_answer_tokens=8"
    )
    inputs = [f"--pool={directory}/pool.toml", f"--problems={directory}/problems.jsonl", "--slots=4"]
    command = [sys.executable, "-m", "launch.synthesize", *inputs, *limits.split()]
    subprocess.run(
        [*command, f"--output_dir={directory}/one"], cwd=REPOSITORY, check=True, capture_output=True
    )
    return command, {name: rows(directory / "one" / name) for name in ("traces.jsonl", "tree.jsonl")}


def rows(file):
    lines = file.read_text().splitlines() if file.exists() else []
    parsed = [json.loads(line, parse_float=lambda text: round(float(text), 4)) for line in lines]
    return sorted(json.dumps(row | {"seconds": 0}) for row in parsed)


@pytest.mark.slow
@pytest.mark.parametrize("before, gone, after", [(2, 1, 2), (2, 0, 1), (2, 1, 4), (4, 3, 2)])
def test_a_job_whose_process_was_killed_goes_on(job, tmp_path, before, gone, after):
    """Killed in the middle, continued by as many processes or others: the rows of one process that nobody killed."""
    command, wanted = job
    command = [*command, f"--output_dir={tmp_path}/run"]
    processes = start([*command, f"--mesh=data:{before},model:1"], before)
    while len(rows(tmp_path / "run" / "traces.jsonl")) < 2 and all(p.poll() is None for p in processes):
        time.sleep(0.1)
    processes[gone].kill()
    for index, process in enumerate(processes):
        _, errors = process.communicate(timeout=600)
        if index != gone:
            assert process.returncode != 0 and errors.count("error: ") == 1, errors
    written = len(rows(tmp_path / "run" / "traces.jsonl"))
    assert 2 <= written < len(wanted["traces.jsonl"])
    if after == 1:
        subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    else:
        processes = start([*command, f"--mesh=data:{after},model:1"], after)
        ended = [process.communicate(timeout=1800)[1] for process in processes]
        assert [process.returncode for process in processes] == [0] * after, ended
    assert {name: rows(tmp_path / "run" / name) for name in wanted} == wanted
