"""The miniature end to end: curation, CoRD with and without a filter, a student after each.

Every number comes from files that the project's own jobs write below `OUTPUT/seed_S`: `curation`, `cord` and
`cord_filtered` (traces of the same training puzzles; the tree of `curation` also holds what each teacher writes alone),
`student_after_METHOD` (training) and `students/BASE_OR_METHOD` (answers to held-out puzzles). The report is printed and kept as `report.txt`, its numbers as
`summary.json`, its picture as `accuracy.png`; `report.html` is a page of the first seed's runs. Run again, finished parts are not repeated.
"""

import itertools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cord_jax import EvaluationConfig, StudentConfig, SynthesisConfig, evaluate, synthesize, train
from cord_jax.miniature import HELD_OUT_PROBLEMS, POOL, STUDENT, TRAIN_PROBLEMS, report, world
from cord_jax.miniature.config import QuickstartConfig
from cord_jax.miniature.decomposition import count_rounds, read_trace
from cord_jax.miniature.figure import draw
from cord_jax.miniature.results import SeedResults
from cord_jax.miniature.wording import implied_answer, read_steps
from cord_jax.pool import read_pool
from cord_jax.report.page import REPORT, try_report
from cord_jax.storage import write_atomically

# The longest solution of 12 steps has about 190 tokens, its answer about 35.
MAX_STEPS, MAX_REASONING, MAX_RESPONSE, MAX_STEP = 14, 224, 48, 24
_STEPS = {"max_steps": MAX_STEPS, "max_step_tokens": MAX_STEP}
METHODS = {
    "curation": {"method": "curation", "filters": "arithmetic"},
    "cord": {"method": "cord", **_STEPS},
    "cord_filtered": {"method": "cord", **_STEPS, "filters": "arithmetic"},
}
_ALL_DEVICES = "data:-1,model:1"


def quickstart(config: QuickstartConfig, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Runs everything and returns the report's numbers, as `summary.json` has them.

    Args:
        config: how much to run.
        say: is told one line at the start of every part, some lines during it, and the report.

    Raises: `UserError` if the output directory holds another run.
    """
    directory, start = Path(config.output_dir), time.monotonic()
    total = config.seeds * (3 * len(METHODS) + 1)
    numbers = itertools.count(1)

    def part(text: str) -> None:
        say(f"[{next(numbers)} of {total}, {time.monotonic() - start:.0f} s] {text}")

    results = []
    for seed in range(config.seed, config.seed + config.seeds):
        results.append(_one_seed(config, seed, directory / f"seed_{seed}", (part, say)))
    summary = {"seconds": round(time.monotonic() - start, 1), **report.summarize(results)}
    write_atomically(directory / "summary.json", json.dumps(summary, indent=2) + "\n")
    draw(summary, directory / "accuracy.png")
    text = report.write_report(config, summary, results[0].example)
    write_atomically(directory / "report.txt", text)
    say("\n" + text)
    if config.report:
        first = directory / f"seed_{config.seed}"
        runs = [first / method for method in METHODS]
        runs += [first / f"student_after_{method}" for method in METHODS]
        runs += [first / "students" / name for name in ("base", *METHODS)]
        say(try_report(runs, directory / REPORT))
    return summary


def _one_seed(
    config: QuickstartConfig,
    seed: int,
    directory: Path,
    tell: tuple[Callable[[str], None], Callable[[str], None]],
) -> SeedResults:
    part, say = tell
    accuracy, rows, shares = {}, {}, {}
    for method in METHODS:
        part(f"the three write traces of the same puzzles: {report.NAMES[method]}")
        rows[method], shares[method] = _synthesize(config, seed, method, directory / method, say)
        accuracy[method] = {row["id"]: float(row["correct"]) for row in rows[method]}
    checkpoints = {"base": STUDENT}
    for method in METHODS:
        part(f"a student learns from the traces of {report.NAMES[method]}")
        out = directory / f"student_after_{method}"
        checkpoints[method] = _train(seed, directory / method, out, say)
    for name, checkpoint in checkpoints.items():
        student = f"student_{name}"
        part(f"{report.NAMES[student]} solves {config.held_out_problems} held-out puzzles")
        out = directory / "students" / name
        accuracy[student] = _evaluate(config, seed, checkpoint, out)
    trees = {method: _tree(directory / method) for method in METHODS}
    return SeedResults(
        accuracy=_alone(rows["curation"], trees["curation"]) | accuracy,
        steps={
            row["id"]: row["steps"] for path in (TRAIN_PROBLEMS, HELD_OUT_PROBLEMS) for row in _rows(path)
        },
        score={m: {row["id"]: row["score"] or 0.0 for row in rows[m]} for m in METHODS},
        traces={m: {row["id"]: read_trace(row) for row in rows[m]} for m in METHODS},
        rounds={
            m: {row["id"]: count_rounds(row["question"], tree[row["id"]]) for row in rows[m]}
            for m, tree in trees.items()
            if m != "curation"
        },
        share=shares,
        example=report.choose_trace(rows["cord_filtered"]),
    )


def _alone(
    traces: Sequence[Mapping[str, Any]], tree: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, dict[str, float]]:
    """Teacher -> problem id -> the share of its whole traces for curation whose text implies the right answer."""
    found: dict[str, dict[str, float]] = {proposer.name: {} for proposer in read_pool(POOL).proposers}
    for trace in traces:
        puzzle = world.read_puzzle(trace["question"])
        for name, shares in found.items():
            texts = [row["text"] for row in tree[trace["id"]] if row["teacher"] == name]
            right = [implied_answer(puzzle, read_steps(text)) == trace["answer"] for text in texts]
            shares[trace["id"]] = sum(right) / len(right)
    return found


def _evaluate(config: QuickstartConfig, seed: int, model: Path, output_dir: Path) -> dict[str, float]:
    summary = evaluate(
        EvaluationConfig(
            model=model,
            problems=HELD_OUT_PROBLEMS,
            output_dir=output_dir,
            samples=config.samples,
            max_tokens=MAX_REASONING + MAX_RESPONSE,
            seed=seed,
            slots=256,
            mesh=_ALL_DEVICES,
            grader="exact",
            limit=config.held_out_problems,
        )
    )
    return {key: n["correct"] / n["samples"] for key, n in summary["per_problem"].items()}


def synthesis_config(method: str, problems: Path, output_dir: Path, limit: int, seed: int) -> SynthesisConfig:
    """The search of a method in `METHODS` on the first `limit` problems of a file."""
    return SynthesisConfig(
        pool=POOL,
        problems=problems,
        output_dir=output_dir,
        max_thinking_tokens=MAX_REASONING,
        max_answer_tokens=MAX_RESPONSE,
        seed=seed,
        slots=32,
        mesh=_ALL_DEVICES,
        grader="exact",
        limit=limit,
        **METHODS[method],
    )


def _synthesize(
    config: QuickstartConfig, seed: int, method: str, output_dir: Path, say: Callable[[str], None]
) -> tuple[list[dict], dict]:
    """The traces in the order of the problems, and who wrote the steps."""

    def progress(written: int, problems: int, trace: Any) -> None:
        if written % 50 == 0:
            say(f"    {written} of {problems} traces")

    job = synthesis_config(method, TRAIN_PROBLEMS, output_dir, config.train_problems, seed)
    summary = synthesize(job, progress)
    rows = _rows(output_dir / "traces.jsonl")
    return sorted(rows, key=lambda row: int(row["id"].rpartition("-")[2])), summary["share"]


def _train(seed: int, traces: Path, output_dir: Path, say: Callable[[str], None]) -> Path:
    def progress(row: Mapping[str, Any]) -> None:
        if row["step"] % 50 == 0:
            say(f"    step {row['step']} of {row['steps']}, loss {row['loss']:.3f}")

    return train(student_config(traces / "traces.jsonl", output_dir, seed, log_every=10), progress)


def student_config(traces: Any, output_dir: Path, seed: int, **changed: Any) -> StudentConfig:
    """The training of the miniature's students; `traces` and `changed` are settings of `StudentConfig`."""
    settings: dict[str, Any] = dict(
        student=STUDENT,
        max_length=384,
        epochs=4,
        batch_size=4,
        learning_rate=5e-4,
        mesh="data:1",
        checkpoint_every=0,
        plot=False,
    )
    return StudentConfig(traces=traces, output_dir=output_dir, seed=seed, **settings | changed)


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _tree(directory: Path) -> dict[str, list[dict[str, Any]]]:
    """problem id -> its candidates."""
    tree: dict[str, list] = {}
    for row in _rows(directory / "tree.jsonl"):
        tree.setdefault(row["problem"], []).append(row)
    return tree
