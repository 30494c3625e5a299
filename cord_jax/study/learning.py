"""Trains a student on the traces of an arm and measures it on puzzles that nobody has seen."""

import dataclasses
import gzip
import json
import shutil
import time
from pathlib import Path
from typing import Any

from cord_jax import EvaluationConfig, evaluate, read_problems, train
from cord_jax.errors import UserError
from cord_jax.miniature import HELD_OUT_PROBLEMS, STUDENT
from cord_jax.miniature.quickstart import MAX_REASONING, MAX_RESPONSE, student_config
from cord_jax.miniature.wording import WORDINGS, read_steps
from cord_jax.study.arms import Learner
from cord_jax.study.cells import rows_path
from cord_jax.study.config import StudyConfig

_ONE_WORDING = WORDINGS["sums"]


def learn(arm: Learner, config: StudyConfig, seed: int) -> dict[str, Any]:
    """Trains and measures one student; returns its results."""
    results: dict[str, Any] = {}
    checkpoint, start = STUDENT, time.monotonic()
    if arm.traces is not None:
        rows = rows_of(arm, config, seed)
        results["rows"], results["right_rows"] = len(rows), sum(row["correct"] for row in rows)
        if not rows:
            return results | {"correct": None}
        checkpoint = train_student(arm, config, seed)
        results["training_seconds"] = round(time.monotonic() - start, 1)
    return results | measure_student(checkpoint, directory_of(arm, config, seed) / "answers", config, seed)


def train_student(arm: Learner, config: StudyConfig, seed: int) -> Path:
    """Trains a student, unless that is done, and returns its checkpoint."""
    directory, rows = directory_of(arm, config, seed) / "training", rows_of(arm, config, seed)
    settings = dict(log_every=1000, show_rows=0, objective=arm.objective)
    return train(student_config(rows, directory, seed, **settings))


def directory_of(arm: Learner, config: StudyConfig, seed: int) -> Path:
    """The directory of a student's runs."""
    return config.work / "students" / f"{arm.name}.{seed}"


def rows_of(arm: Learner, config: StudyConfig, seed: int) -> list[dict[str, Any]]:
    """The rows that a student learns from; the base student has none.

    Raises: `UserError` if the objective needs what rows of an earlier version lack.
    """
    if arm.traces is None:
        return []
    path = rows_path(arm.traces, Path(config.output_dir), seed)
    rows = read_rows(path)
    if arm.objective == "gain" and not all("steps" in row for row in rows):
        raise UserError(
            f"{path}: holds no scores of steps, as earlier versions wrote it; remove it, and it is written again"
        )
    return choose_rows(rows, arm.rows, config.train_problems)


def measure_student(checkpoint: Path, output_dir: Path, config: StudyConfig, seed: int) -> dict[str, Any]:
    """Right answers of each held-out puzzle, in their order; the answers are drawn anew for every seed."""
    start = time.monotonic()
    problems = [
        dataclasses.replace(problem, id=f"s{seed}-{problem.id}")
        for problem in read_problems(HELD_OUT_PROBLEMS)[: config.held_out_problems]
    ]
    summary = evaluate(
        EvaluationConfig(
            model=checkpoint,
            problems=problems,
            output_dir=output_dir,
            samples=config.samples,
            max_tokens=MAX_REASONING + MAX_RESPONSE,
            slots=256,
            mesh="data:-1,model:1",
            grader="exact",
        )
    )
    results = {
        "correct": [summary["per_problem"][problem.id]["correct"] for problem in problems],
        "samples": config.samples,
        "mean_tokens": summary["mean_tokens"],
        "evaluation_seconds": round(time.monotonic() - start, 1),
    }
    shutil.rmtree(output_dir)
    return results


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The traces of a seed, in the order of its puzzles."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def choose_rows(rows: list[dict[str, Any]], which: str, first: int) -> list[dict[str, Any]]:
    """The rows that a student learns from, as `Learner.rows` says; without those that have no response."""
    if which in ("first", "one_wording"):
        rows = rows[:first]
    elif which == "right":
        rows = [row for row in rows if row["correct"]]
    elif which != "all":
        raise UserError(f"rows {which!r}: there are first, all, right, one_wording")
    rows = [row for row in rows if row["response"] is not None]
    return [in_one_wording(row) for row in rows] if which == "one_wording" else rows


def in_one_wording(row: dict[str, Any]) -> dict[str, Any]:
    """The same trace, each step that can be read said in the same words; the numbers stay."""
    texts = []
    for i, step in enumerate(read_steps(row["reasoning"])):
        if step is None:
            return row
        texts.append(_ONE_WORDING.write_step(i + 1, step.name, f"{step.operation} = {step.result}"))
    answer = row["response"].partition("\\boxed{")[2].partition("}")[0]
    return row | {"reasoning": "".join(texts), "response": _ONE_WORDING.response.format(answer=answer)}
