"""Performs a fixed set of small runs and writes the rows that no change of the program may change.

  python -m tests.equality.record --output=tests/equality/fixture.json.gz [--only=NAME]

Only the public jobs are called, on inputs that `tests.equality.inputs` writes with nothing of this project.
Runs that differ from another only in what changes no trace (slots, devices, an interruption) have no rows of
their own: `expects` names the run whose rows they must give. A division over `model` adds up in another order,
which moves scores by a little more than rounding: its run has rows of its own.
"""

import argparse
import gzip
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.equality.inputs import write_inputs

FIXTURE = Path(__file__).with_name("fixture.json.gz")
# Relative difference of two scores that is a matter of rounding.
TOLERANCE = 2e-6
_ROUNDED = ("score",)
# Answers are found and graded in another way since the rows were recorded.
_LEFT_OUT = ("seconds", "predicted_answer", "correct")

LIMITS = {"max_steps": 4, "max_step_tokens": 20, "max_thinking_tokens": 70, "max_answer_tokens": 24}


@dataclass(frozen=True)
class Run:
    """One run of the set.

    Attributes:
      job: "synthesize" or "evaluate".
      source: the pool, or the model that is evaluated.
      settings: fields of the job's configuration.
      expects: the run whose rows it must give; None for its own.
      devices: 1, or the simulated devices of a process of its own.
      interrupted: after so many traces, and then continued with other slots; 0 is never.
      slow: whether the run takes long.
    """

    job: str
    source: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    expects: str | None = None
    devices: int = 1
    interrupted: int = 0
    slow: bool = False


_CURATION = {"method": "curation", "beam_width": 2, "max_thinking_tokens": 70, "max_answer_tokens": 24}
_SAMPLES = {"samples": 3, "temperature": 0.6, "max_tokens": 40}

RUNS = {
    "argmax": Run("synthesize", "argmax", LIMITS | {"beam_width": 4}, slow=True),
    "drawn": Run("synthesize", "drawn", LIMITS | {"beam_width": 2}),
    "drawn_slots_1": Run(
        "synthesize", "drawn", LIMITS | {"beam_width": 2, "slots": 1}, expects="drawn", slow=True
    ),
    "drawn_interrupted": Run(
        "synthesize",
        "drawn",
        LIMITS | {"beam_width": 2, "slots": 4},
        expects="drawn",
        interrupted=2,
        slow=True,
    ),
    "drawn_data_4": Run(
        "synthesize",
        "drawn",
        LIMITS | {"beam_width": 2, "mesh": "data:4"},
        expects="drawn",
        devices=4,
        slow=True,
    ),
    "drawn_data_2_model_2": Run(
        "synthesize", "drawn", LIMITS | {"beam_width": 2, "mesh": "data:2,model:2"}, devices=4, slow=True
    ),
    "line_break": Run(
        "synthesize", "prefix", LIMITS | {"segmentation": "line_break", "beam_width": 3}, slow=True
    ),
    "prefix": Run(
        "synthesize", "prefix", LIMITS | {"segmentation": "prefix", "beam_width": 2, "seed": 5}, slow=True
    ),
    "curation": Run("synthesize", "drawn", _CURATION, slow=True),
    "curation_data_4": Run(
        "synthesize",
        "drawn",
        _CURATION | {"mesh": "data:4", "slots": 1},
        expects="curation",
        devices=4,
        slow=True,
    ),
    "greedy": Run(
        "synthesize", "judge", LIMITS | {"decoding": "greedy", "beam_width": 1, "grader": "exact"}, slow=True
    ),
    "judge": Run("synthesize", "judge", LIMITS | {"beam_width": 3, "closing": "</think>\n\nSo: "}, slow=True),
    "int8": Run("synthesize", "int8", LIMITS | {"beam_width": 2, "max_steps": 2}, slow=True),
    "stuck": Run(
        "synthesize", "broken", LIMITS | {"beam_width": 2, "max_step_tokens": 3, "limit": 4}, slow=True
    ),
    "evaluate": Run("evaluate", "qwen3", _SAMPLES),
    "evaluate_slots_1": Run("evaluate", "qwen3", _SAMPLES | {"slots": 1}, expects="evaluate", slow=True),
    "evaluate_data_4": Run(
        "evaluate",
        "qwen3",
        _SAMPLES | {"mesh": "data:4", "slots": 8},
        expects="evaluate",
        devices=4,
        slow=True,
    ),
    "evaluate_top": Run(
        "evaluate", "llama", _SAMPLES | {"top_k": 10, "top_p": 0.9, "seed": 3, "grader": "exact"}
    ),
}


class _Interrupted(Exception):
    """Stops a run in the middle."""


def perform(name: str, inputs: Path, output: Path) -> dict[str, list[dict]]:
    """Performs a run and returns its rows by file, in an order that does not depend on the run's course.

    Args:
      inputs: the directory that `write_inputs` has filled.
      output: a directory that is not there yet.
    """
    run = RUNS[name]
    source = (
        {"pool": inputs / f"{run.source}.toml"} if run.job == "synthesize" else {"model": inputs / run.source}
    )
    settings = {"mesh": "data:1,model:1", "slots": 8} | run.settings
    values = source | {"problems": inputs / "problems.jsonl", "output_dir": output} | settings
    if run.devices > 1:
        _in_a_process(run, values)
    elif run.job == "evaluate":
        from cord_jax.evaluation import EvaluationConfig, evaluate

        evaluate(EvaluationConfig(**values))
    else:
        if run.interrupted:
            _interrupt(run.interrupted, values)
            values["slots"] = 2
        _synthesize(values)
    return read_rows(output)


def _synthesize(values: Mapping[str, Any], progress=None) -> None:
    from cord_jax.synthesis import SynthesisConfig, synthesize

    synthesize(SynthesisConfig(**values), progress)


def _interrupt(traces: int, values: Mapping[str, Any]) -> None:
    """Stops a run after so many traces, with searches under way whose settled steps are in the journal."""

    def stop(written, problems, trace):
        if written == traces:
            raise _Interrupted

    try:
        _synthesize(values, stop)
    except _Interrupted:
        pass
    unfinished = _read_lines(values["output_dir"] / "journal.jsonl")
    finished = {row["id"] for row in _read_lines(values["output_dir"] / "traces.jsonl")}
    if len(finished) != traces or not {row["problem"] for row in unfinished} - finished:
        raise AssertionError("the run was not interrupted in the middle of a search")


def _in_a_process(run: Run, values: Mapping[str, Any]) -> None:
    """Runs an entry point on simulated devices, which a process must have from its start."""
    others = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if "device_count" not in flag]
    flags = " ".join([*others, f"--xla_force_host_platform_device_count={run.devices}"])
    subprocess.run(
        [sys.executable, "-m", f"launch.{run.job}", *(f"--{name}={value}" for name, value in values.items())],
        check=True,
        stdout=subprocess.DEVNULL,
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
    )


def read_rows(directory: Path) -> dict[str, list[dict]]:
    """The rows of a run directory by file; problems by id, the candidates of each as they stand."""
    rows = {}
    for file, key in (
        ("traces.jsonl", lambda row: row["id"]),
        ("tree.jsonl", lambda row: row["problem"]),
        ("samples.jsonl", lambda row: (row["problem"], row["sample"])),
    ):
        if (directory / file).exists():
            rows[file] = sorted(_compared(_read_lines(directory / file)), key=key)
    return rows


def _read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def differences(expected: Any, found: Any, where: str = "", tolerance: float = TOLERANCE) -> Iterable[str]:
    """Where `found` is not what is expected, in words; fields that are not expected are passed over."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for name, value in expected.items():
            place = f"{where}.{name}"
            if name not in found:
                yield f"{place} is missing"
            elif name in _ROUNDED and isinstance(value, float) and isinstance(found[name], float):
                if not math.isclose(value, found[name], rel_tol=tolerance, abs_tol=0):
                    yield f"{place}: {found[name]!r}, not {value!r}"
            else:
                yield from differences(value, found[name], place, tolerance)
    elif isinstance(expected, list) and isinstance(found, list):
        if len(expected) != len(found):
            yield f"{where}: {len(found)} rows, not {len(expected)}"
        for index, (one, other) in enumerate(zip(expected, found)):
            yield from differences(one, other, f"{where}[{index}]", tolerance)
    elif type(expected) is not type(found) or expected != found:
        yield f"{where}: {found!r}, not {expected!r}"


def near_ties(rows: Mapping[str, list[dict]]) -> Iterable[str]:
    """Candidates of one selection whose scores are so near that rounding could exchange them, in words.

    A complete hypothesis is compared in every later step, as long as it may have been carried.
    """
    competing: dict[tuple[str, int], list[float]] = {}
    tree = rows.get("tree.jsonl", [])
    last = {row["problem"]: row["step"] for row in tree}
    for row in tree:
        if row["score"] is not None:
            carried = row["kept"] and row["ended"] in ("eos", "think_end")
            until = last[row["problem"]] if carried else row["step"]
            for step in range(row["step"], until + 1):
                competing.setdefault((row["problem"], step), []).append(row["score"])
    for (problem, step), scores in competing.items():
        scores.sort()
        for one, other in itertools.pairwise(scores):
            if other - one <= 10 * TOLERANCE * other:
                yield f"problem {problem}, step {step}: scores {one} and {other} are too near"


def read_fixture(path: Path = FIXTURE) -> dict[str, dict[str, list[dict]]]:
    """The recorded rows: run -> file -> rows."""
    recorded = json.loads(gzip.decompress(path.read_bytes()))
    return {run: {file: _compared(rows) for file, rows in files.items()} for run, files in recorded.items()}


def _compared(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows without what may change."""
    return [{name: value for name, value in row.items() if name not in _LEFT_OUT} for row in rows]


def write_fixture(rows: Mapping[str, Any], path: Path) -> None:
    """Writes recorded rows; the same bytes for the same rows."""
    text = json.dumps(rows, ensure_ascii=False, separators=(",", ":"), sort_keys=False)
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


def main() -> None:
    """Records the runs and fails where one does not give the rows that it is to have in common with another."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="file to write, .json.gz")
    parser.add_argument(
        "--only", choices=RUNS, help="the one run to perform; its rows are written as its own"
    )
    parser.add_argument("--keep", type=Path, help="a new directory for inputs and run directories")
    arguments = parser.parse_args()
    recorded, wrong = {}, []
    with tempfile.TemporaryDirectory() as temporary:
        directory = arguments.keep or Path(temporary)
        write_inputs(directory / "inputs")
        for name in [arguments.only] if arguments.only else RUNS:
            started = time.monotonic()
            rows = perform(name, directory / "inputs", directory / name)
            other = RUNS[name].expects
            if other is None or arguments.only:
                recorded[name] = rows
                wrong += [f"{name}: {line}" for line in near_ties(rows)]
            else:
                wrong += [f"{name}: {line}" for line in differences(recorded[other], rows)]
            print(f"{name}: {time.monotonic() - started:.1f} s", flush=True)
    write_fixture(recorded, arguments.output)
    if wrong:
        sys.exit("\n".join(wrong[:20]))


if __name__ == "__main__":
    main()
