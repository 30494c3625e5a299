"""Commands on the miniature for tests that end them, and a comparison of what two of them have left."""

import collections
import json
import math
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

from cord_jax.miniature import ASSETS, HELD_OUT_PROBLEMS, STUDENT
from tests.conftest import REPOSITORY

# Files of rows, and what tells their rows apart.
ROWS = {
    "traces.jsonl": ("id",),
    "tree.jsonl": ("problem", "node"),
    "samples.jsonl": ("problem", "sample"),
    "metrics.jsonl": ("step",),
    "scores.jsonl": ("problem", "node"),
    "winners.jsonl": ("problem",),
    "pairs.jsonl": ("problem", "prompt", "chosen", "rejected"),
}
OF_THE_CLOCK = {"seconds", "tokens_per_second", "mfu"}
# Says of a process that it belongs to a job, whatever session it has put itself in.
MARK = "CORD_JAX_TEST_JOB"


class Job:
    """A command, and what it leaves when nobody ends it (`whole`)."""

    def __init__(self, name: str, directory: Path, **flags):
        self.name, self.flags, self.whole = name, flags, directory / "whole"
        self.mark = uuid.uuid4().hex
        with self.start(self.whole) as process:
            _, errors = process.communicate(timeout=900)
        assert process.returncode == 0, errors

    def start(self, output_dir: Path) -> subprocess.Popen:
        """The command in a process of its own, which hears of SIGINT although it is in the background."""
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

    def processes(self) -> list[str]:
        """The processes of the job and its workers."""
        return [pid for pid in os.listdir("/proc") if pid.isdigit() and self.mark in _environment(pid)]

    def same_as_whole(self, output_dir: Path) -> dict[str, int]:
        """Counts rows; raises where one is lost, doubled or changed, weights are others, or files are."""
        counts: collections.Counter = collections.Counter()
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


def names_in(directory: Path) -> list[str]:
    """Its files, and the directories of saved states but not what is in them; every start begins TensorBoard events anew."""
    names = [path.relative_to(directory).as_posix() for path in sorted(directory.rglob("*"))]
    states = [name for name in names if name.startswith("checkpoints/") and name.count("/") > 1]
    return [name for name in names if name not in states and not name.startswith("tensorboard/")]


def rows_of(path: Path, key: tuple[str, ...]) -> dict[tuple, list[dict]]:
    """The rows of a file by what tells them apart, without what the clock says."""
    found: dict[tuple, list[dict]] = {}
    for line in path.read_bytes().splitlines():
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


def _environment(pid: str) -> str:
    try:
        return Path("/proc", pid, "environ").read_bytes().decode(errors="replace")
    except OSError:  # it has ended
        return ""


def of_synthesis(directory: Path, problems: int = 24) -> dict:
    """Flags of a search by two of the miniature's teachers, which is faster than one by all."""
    pool = directory / "pool.toml"
    proposers = [
        f'[[proposer]]\nname = "{name}"\ncheckpoint = "{ASSETS / name}"\n' for name in ("sums", "shares")
    ]
    pool.write_text('meta_prover = "sums"\n' + "".join(proposers))
    limits = dict(max_steps=14, max_step_tokens=40, max_thinking_tokens=320, max_answer_tokens=48)
    return dict(pool=pool, problems=HELD_OUT_PROBLEMS, limit=problems, slots=6, grader="exact") | limits


def of_training(directory: Path) -> dict:
    """Flags of a training of 128 steps with a state every six."""
    rows = directory / "rows.jsonl"
    puzzles = [json.loads(line) for line in HELD_OUT_PROBLEMS.read_text(encoding="utf-8").splitlines()]
    texts = [(p["question"], f"<think>\n{p['solution']}\n</think>\n\n{p['answer']}") for p in puzzles[:64]]
    rows.write_text("".join(json.dumps({"prompt": p, "completion": c}) + "\n" for p, c in texts))
    saved = dict(checkpoint_every=6, keep_checkpoints=2, held_out=rows, eval_every=40, tensorboard=True)
    recipe = dict(max_length=512, batch_size=2, epochs=4, learning_rate=1e-4, mesh="data:1")
    return dict(student=STUDENT, traces=rows) | recipe | saved


def of_evaluation(directory: Path) -> dict:
    """Flags of 96 samples."""
    return dict(model=STUDENT, problems=HELD_OUT_PROBLEMS, limit=24, samples=4, slots=16, max_tokens=300)


FLAGS = {"synthesize": of_synthesis, "train_student": of_training, "evaluate": of_evaluation}
