"""A job that is interrupted ends with one line, at whatever moment, and goes on from there."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from cord_jax import interruption

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


@pytest.mark.parametrize("number", interruption.SIGNALS, ids=["SIGINT", "SIGTERM"])
def test_a_signal_after_the_end_changes_nothing(tmp_path, number):
    """The interpreter is about to end, and handlers of signals are gone."""
    script = tmp_path / "job.py"
    end = f"os.kill(os.getpid(), {int(number)}), time.sleep(0.2)"
    script.write_text(
        f"import atexit, os, time\nfrom launch import common\natexit.register(lambda: ({end}))\n"
    )
    with open(script, "a") as file:
        file.write("common.leave(lambda: 0)\n")
    job = subprocess.run(
        [sys.executable, str(script)], env=os.environ | {"PYTHONPATH": os.getcwd()}, capture_output=True
    )
    assert (job.returncode, job.stderr) == (0, b"")
