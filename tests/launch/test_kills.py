"""Jobs that are ended at random moments, again and again until they are finished, leave what one leaves that nobody ended."""

import collections
import math
import os
import random
import signal
import time
from pathlib import Path

import pytest

from cord_jax import interruption
from tests.launch.miniature_jobs import FLAGS, Job

ENDS = {"killed": [signal.SIGKILL], "interrupted": [signal.SIGINT, signal.SIGTERM]}
# How often each job is ended so, with one seed.
CASES = [
    ("synthesize", "killed", 20, 0),
    ("synthesize", "killed", 20, 1),
    ("synthesize", "interrupted", 20, 2),
    ("train_student", "killed", 20, 3),
    ("train_student", "interrupted", 10, 4),
    ("evaluate", "killed", 20, 5),
    ("evaluate", "interrupted", 10, 6),
]


class Ended:
    """A job that is ended, and how long it takes when it is not."""

    def __init__(self, name: str, directory: Path):
        self.job = Job(
            name, directory, **FLAGS[name](directory)
        )  # which compiles what is kept for the others
        begun = time.monotonic()
        self.changes = 1000
        status, errors, _ = self.end(directory / "timed", None, random.Random(0))
        assert status == 0, errors
        self.seconds = time.monotonic() - begun
        self.changes = self.seen

    def end(self, output_dir: Path, number: int | None, draw: random.Random) -> tuple[int, str, str]:
        """Starts the job and ends it: at a random time, or at once when its directory has changed a few times.

        Args:
          number: of the signal; None to let it be.

        Returns: exit status, stderr, and the file that had been written last.
        """
        until = changes = math.inf
        if number is not None:
            until = time.monotonic() + draw.uniform(0.05, 1.1) * self.seconds
            changes = draw.randrange(1, max(2, self.changes)) if draw.random() < 0.4 else math.inf
        before, last, self.seen = state_of(output_dir), "nothing", 0
        with self.job.start(output_dir) as process:
            while process.poll() is None and time.monotonic() < until and self.seen < changes:
                time.sleep(0.003)
                if (now := state_of(output_dir)) != before:
                    last = max(now - before, key=lambda entry: entry[2], default=(last,))[0]
                    before, self.seen = now, self.seen + 1
            if number is not None:
                process.send_signal(number)
            _, errors = process.communicate(timeout=900)
        until = time.monotonic() + 20
        while left := self.job.processes():
            assert time.monotonic() < until, f"{len(left)} processes are left"
            time.sleep(0.05)
        return process.returncode, errors, last


def state_of(directory: Path) -> set[tuple[str, int, int]]:
    """Its entries, with sizes and times."""
    found = set()
    try:
        for entry in os.scandir(directory):
            of = entry.stat(follow_symlinks=False)
            found.add((entry.name, of.st_size, of.st_mtime_ns))
    except OSError:  # it is not there yet, or an entry no more
        pass
    return found


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    made: dict[str, Ended] = {}

    def job(name: str) -> Ended:
        if name not in made:
            made[name] = Ended(name, tmp_path_factory.mktemp(name))
        return made[name]

    return job


@pytest.mark.slow
@pytest.mark.parametrize("name, ends, count, seed", CASES, ids=lambda value: str(value))
def test_nothing_is_lost_doubled_or_changed(jobs, tmp_path, capsys, name, ends, count, seed):
    job, draw = jobs(name), random.Random(seed)
    ended, runs = collections.Counter(), 0
    counts: collections.Counter = collections.Counter()
    while sum(ended.values()) < count:
        output_dir = tmp_path / f"run-{runs}"
        while sum(ended.values()) < count:
            number = ENDS[ends][sum(ended.values()) % len(ENDS[ends])]
            status, errors, last = job.end(output_dir, number, draw)
            assert "Traceback" not in errors and "rror" not in errors, errors
            if status == 0:
                break
            assert status == (-number if number == signal.SIGKILL else 128 + number), errors
            if number != signal.SIGKILL:
                assert errors.splitlines()[-1] == interruption.MESSAGE, errors
                assert errors.count(interruption.MESSAGE) == 1, errors
            ended[last] += 1
            print(
                f"{name}: status {status} after {last}", flush=True
            )  # seen with -s, or where the test fails
        else:
            status, errors, _ = job.end(output_dir, None, draw)
            assert status == 0, errors
        counts.update(job.job.same_as_whole(output_dir))
        runs += 1
    with capsys.disabled():
        print(
            f"\n{name} {ends}: {sum(ended.values())} times in {runs} runs, after {dict(ended)}: {dict(counts)}"
        )
