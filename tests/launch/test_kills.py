"""Jobs that are ended at random moments, again and again until they are finished, leave what one leaves that nobody ended."""

import collections
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from cord_jax import interruption
from cord_jax.miniature import ASSETS, HELD_OUT_PROBLEMS, STUDENT
from tests.conftest import REPOSITORY

# The names of a job's files of rows, what tells their rows apart, and the clock's fields.
ROWS = {
    "traces.jsonl": ("id",),
    "tree.jsonl": ("problem", "node"),
    "samples.jsonl": ("problem", "sample"),
    "metrics.jsonl": ("step",),
}
OF_THE_CLOCK = {"seconds", "tokens_per_second", "mfu"}
# Says of a process that it belongs to a job, whatever session it has put itself in.
MARK = "CORD_JAX_TEST_OF_KILLS"
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


class Job:
    """A command on the miniature, and what it leaves when nobody ends it."""

    def __init__(self, name: str, directory: Path, **flags):
        self.name, self.flags, self.directory = name, flags, directory
        self.whole = directory / "whole"
        self.mark = uuid.uuid4().hex
        self.changes = 0
        with self.start(self.whole) as process:  # which compiles what is kept for the others
            _, errors = self.watch(process, self.whole)
            assert process.returncode == 0, errors
        begun = time.monotonic()
        self.output = directory / "timed"
        with self.start(self.output) as process:
            seen = []
            _, errors = self.watch(process, self.output, seen)
            assert process.returncode == 0, errors
        self.seconds, self.changes = time.monotonic() - begun, len(seen)
        self.same_as_whole(self.output)

    def start(self, output_dir: Path) -> subprocess.Popen:
        command = [sys.executable, "-m", f"launch.{self.name}", f"--output_dir={output_dir}"]
        command += [f"--{name}={value}" for name, value in self.flags.items()]
        return subprocess.Popen(
            command,
            cwd=REPOSITORY,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"XLA_FLAGS": "", MARK: self.mark},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def watch(self, process, output_dir: Path, seen: list | None = None):
        """Waits for the end; `seen` gets every change of the directory."""
        before = None
        while seen is not None and process.poll() is None:
            if (now := state_of(output_dir)) != before:
                seen.append(now)
                before = now
            time.sleep(0.003)
        return process.communicate(timeout=900)

    def end(self, output_dir: Path, number: int, draw: random.Random) -> tuple[int, str, str]:
        """Starts the job and ends it: at a random time, or at once when its directory has changed a few times.

        Returns: exit status, stderr, and the last file that had been written.
        """
        changes = draw.randrange(1, max(2, self.changes)) if draw.random() < 0.4 else None
        until = time.monotonic() + draw.uniform(0.05, 1.1) * self.seconds
        with self.start(output_dir) as process:
            before = state_of(output_dir)
            last = ""
            while process.poll() is None and time.monotonic() < until:
                time.sleep(0.002)
                if (now := state_of(output_dir)) != before:
                    last = max(now - before, key=lambda entry: entry[2], default=(last,))[0]
                    before = now
                    if changes is not None:
                        changes -= 1
                        if not changes:
                            break
            process.send_signal(number)
            _, errors = process.communicate(timeout=300)
        self.nobody_is_left()
        return process.returncode, errors, last

    def nobody_is_left(self) -> None:
        """Whether its workers have ended, too."""
        until = time.monotonic() + 20
        while left := [pid for pid in os.listdir("/proc") if pid.isdigit() and self.mark in environment(pid)]:
            assert time.monotonic() < until, f"{self.name}: {len(left)} processes are left"
            time.sleep(0.05)

    def same_as_whole(self, output_dir: Path) -> dict[str, int]:
        """Counts rows that are lost, doubled or changed, and files that are."""
        counts = collections.Counter()
        for name, key in ROWS.items():
            if (self.whole / name).exists():
                wanted, found = rows_of(self.whole / name, key), rows_of(output_dir / name, key)
                counts["rows"] += len(wanted)
                counts["lost"] += len(wanted.keys() - found.keys())
                counts["more"] += len(found.keys() - wanted.keys())
                counts["doubled"] += sum(len(rows) - 1 for rows in found.values())
                common = wanted.keys() & found.keys()
                counts["changed"] += sum(not close(wanted[k][0], found[k][0]) for k in common)
        if (self.whole / "hf").exists():
            weights = [(path / "hf" / "model.safetensors").read_bytes() for path in (self.whole, output_dir)]
            counts["other weights"] += weights[0] != weights[1]
        bad = {name: count for name, count in counts.items() if name != "rows" and count}
        assert not bad, f"{self.name}: {bad}"
        assert names_in(output_dir) == names_in(self.whole)
        return dict(counts)


def environment(pid: str) -> str:
    try:
        return Path("/proc", pid, "environ").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def state_of(directory: Path) -> set[tuple[str, int, int]]:
    """Its entries, with sizes and times; those of its directories, too."""
    found = set()
    try:
        entries = [*os.scandir(directory)]
        for entry in entries:
            of = entry.stat(follow_symlinks=False)
            found.add((entry.name, of.st_size, of.st_mtime_ns))
    except OSError:
        pass
    return found


def names_in(directory: Path) -> list[str]:
    """Its files, and the directories of saved states but not what is in them."""
    found = []
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        if not (name.startswith("checkpoints/") and name.count("/") > 1):
            found.append(name)
    return found


def rows_of(path: Path, key: tuple[str, ...]) -> dict[tuple, list[dict]]:
    found: dict[tuple, list[dict]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        row = {name: value for name, value in row.items() if name not in OF_THE_CLOCK}
        found.setdefault(tuple(row[name] for name in key), []).append(row)
    return found


def close(one, other) -> bool:
    """Whether two values are the same, numbers to 1e-5."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(close(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(close, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, abs_tol=1e-5)
    return one == other


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    made: dict[str, Job] = {}

    def job(name: str) -> Job:
        if name not in made:
            directory = tmp_path_factory.mktemp(name)
            made[name] = Job(name, directory, **FLAGS[name](directory))
        return made[name]

    return job


def of_synthesis(directory: Path) -> dict:
    pool = directory / "pool.toml"
    proposers = "".join(
        f'[[proposer]]\nname = "{n}"\ncheckpoint = "{ASSETS / n}"\n' for n in ("sums", "shares")
    )
    pool.write_text('meta_prover = "sums"\n' + proposers)
    limits = dict(max_steps=14, max_step_tokens=40, max_thinking_tokens=320, max_answer_tokens=48)
    return dict(pool=pool, problems=HELD_OUT_PROBLEMS, limit=24, slots=6, grader="exact") | limits


def of_training(directory: Path) -> dict:
    rows = directory / "rows.jsonl"
    puzzles = [json.loads(line) for line in HELD_OUT_PROBLEMS.read_text(encoding="utf-8").splitlines()]
    texts = [(p["question"], f"<think>\n{p['solution']}\n</think>\n\n{p['answer']}") for p in puzzles[:64]]
    rows.write_text("".join(json.dumps({"prompt": p, "completion": c}) + "\n" for p, c in texts))
    recipe = dict(
        max_length=512, batch_size=2, epochs=4, learning_rate=1e-4, checkpoint_every=6, keep_checkpoints=2
    )
    return dict(student=STUDENT, traces=rows, held_out=rows, eval_every=40, mesh="data:1") | recipe


def of_evaluation(directory: Path) -> dict:
    return dict(model=STUDENT, problems=HELD_OUT_PROBLEMS, limit=24, samples=4, slots=16, max_tokens=300)


FLAGS = {"synthesize": of_synthesis, "train_student": of_training, "evaluate": of_evaluation}


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
            ended[last or "nothing yet"] += 1
        else:
            with job.start(output_dir) as process:
                _, errors = process.communicate(timeout=900)
            assert process.returncode == 0, errors
        counts.update(job.same_as_whole(output_dir))
        runs += 1
    with capsys.disabled():
        print(
            f"\n{name} {ends}: {sum(ended.values())} times in {runs} runs, after {dict(ended)}: {dict(counts)}"
        )
