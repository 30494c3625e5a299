"""The miniature end to end: teachers alone, curation, CoRD, a student after each, and a report of it all.

Every number comes from files that the project's own jobs write below the output directory: `teachers/NAME`,
`curation` and `cord` (traces of the same training puzzles), `student_after_METHOD` (training) and
`student_BASE_OR_METHOD` (answers to held-out puzzles). The report is printed and kept as `report.txt`; its numbers are
in `summary.json`. Run again, finished parts are not repeated.
"""

import dataclasses
import itertools
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cord_jax import statistics
from cord_jax.evaluation import EvaluationConfig, evaluate
from cord_jax.miniature import HELD_OUT_PROBLEMS, POOL, STUDENT, TRAIN_PROBLEMS
from cord_jax.miniature.config import QuickstartConfig
from cord_jax.miniature.wording import equations, wrong_equations
from cord_jax.pool import read_pool
from cord_jax.run_directory import write_atomically
from cord_jax.statistics import Estimate
from cord_jax.student import StudentConfig, train
from cord_jax.synthesis import SynthesisConfig, synthesize

METHODS = ("curation", "cord")
# The longest solution of twelve steps has about 230 tokens in the longest vocabulary.
_MAX_REASONING, _MAX_RESPONSE, _MAX_STEP = 320, 48, 40
_ALL_DEVICES = "data:-1,model:1"
_LENGTHS = ((2, 4), (5, 7), (8, 10), (11, 12))


@dataclasses.dataclass(frozen=True)
class Run:
    """What one contestant did on its problems.

    Attributes:
        name: as the report calls it.
        accuracy: problem id -> fraction of its answers that are right.
        score: of the traces; None for answers that nobody scored.
    """

    name: str
    accuracy: dict[str, float]
    score: Estimate | None = None

    @property
    def estimate(self) -> Estimate:
        return statistics.estimate(list(self.accuracy.values()))


def quickstart(config: QuickstartConfig, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Runs everything and returns the report's numbers, as `summary.json` has them.

    Args:
        config: how much to run.
        say: is told one line at the start of every part, some lines during it, and the report.

    Raises: `UserError` if the output directory holds another run.
    """
    directory = Path(config.output_dir)
    start = time.monotonic()
    teachers = {proposer.name: proposer.checkpoint for proposer in read_pool(POOL).proposers}
    number = itertools.count(1)
    total = len(teachers) + 2 * len(METHODS) + len(METHODS) + 1

    def part(text: str) -> None:
        say(f"[{next(number)} of {total}, {time.monotonic() - start:.0f} s] {text}")

    alone, traces, students = [], {}, []
    for name, checkpoint in teachers.items():
        part(f"{name} solves {config.train_problems} puzzles alone")
        alone.append(_evaluate(config, name, checkpoint, TRAIN_PROBLEMS, directory / "teachers" / name))
    for method in METHODS:
        part(f"the three write traces of the same puzzles by {method}")
        traces[method] = _synthesize(config, method, directory / method, say)
    checkpoints = {"base": STUDENT}
    for method in METHODS:
        part(f"a student learns from the traces of {method}")
        checkpoints[f"after {method}"] = _train(
            config, directory / method, directory / f"student_after_{method}", say
        )
    for name, checkpoint in checkpoints.items():
        part(f"the student ({name}) solves {config.held_out_problems} held-out puzzles")
        out = directory / "students" / name.replace(" ", "_")
        students.append(_evaluate(config, f"student, {name}", checkpoint, HELD_OUT_PROBLEMS, out))
    writers = [_traces_run(method, rows) for method, rows in traces.items()]
    steps = _steps_by_problem(traces["cord"]), _steps_by_problem(_rows(HELD_OUT_PROBLEMS))
    summary = {
        "seconds": round(time.monotonic() - start, 1),
        "accuracy": {run.name: _numbers(run.estimate) for run in (*alone, *writers, *students)},
        "mean_score": {run.name: _numbers(run.score) for run in writers},
        "accuracy_by_steps": {
            run.name: _by_length(run, lengths)
            for lengths, runs in zip(steps, ((*alone, *writers), students))
            for run in runs
        },
        "share": json.loads((directory / "cord" / "summary.json").read_text())["share"],
        "wrong_equations": {method: count_wrong_equations(rows) for method, rows in traces.items()},
        "differences": {
            "cord - curation, traces": _difference(writers[1], writers[0]),
            "after cord - after curation, students": _difference(students[2], students[1]),
        },
    }
    write_atomically(directory / "summary.json", json.dumps(summary, indent=2) + "\n")
    report = write_report(config, summary, traces["cord"])
    write_atomically(directory / "report.txt", report)
    say("\n" + report)
    return summary


def _evaluate(config: QuickstartConfig, name: str, model: Path, problems: Path, output_dir: Path) -> Run:
    held_out = problems == HELD_OUT_PROBLEMS
    summary = evaluate(
        EvaluationConfig(
            model=model,
            problems=problems,
            output_dir=output_dir,
            samples=config.samples,
            max_tokens=_MAX_REASONING + _MAX_RESPONSE,
            seed=config.seed,
            slots=64,
            mesh=_ALL_DEVICES,
            grader="exact",
            limit=config.held_out_problems if held_out else config.train_problems,
        )
    )
    return Run(name, {key: n["correct"] / n["samples"] for key, n in summary["per_problem"].items()})


def _synthesize(
    config: QuickstartConfig, method: str, output_dir: Path, say: Callable[[str], None]
) -> list[dict]:
    def report(written: int, problems: int, trace: Any) -> None:
        if written % 50 == 0:
            say(f"    {written} of {problems} traces")

    synthesize(
        SynthesisConfig(
            pool=POOL,
            problems=TRAIN_PROBLEMS,
            output_dir=output_dir,
            method=method,
            **({} if method == "curation" else {"max_steps": 16, "max_step_tokens": _MAX_STEP}),
            max_thinking_tokens=_MAX_REASONING,
            max_answer_tokens=_MAX_RESPONSE,
            seed=config.seed,
            slots=16,
            mesh=_ALL_DEVICES,
            grader="exact",
            limit=config.train_problems,
        ),
        report,
    )
    return sorted(_rows(output_dir / "traces.jsonl"), key=lambda row: int(row["id"].rpartition("-")[2]))


def _train(config: QuickstartConfig, traces: Path, output_dir: Path, say: Callable[[str], None]) -> Path:
    def report(row: Mapping[str, Any]) -> None:
        if row["step"] % 50 == 0:
            say(f"    step {row['step']} of {row['steps']}, loss {row['loss']:.3f}")

    return train(
        StudentConfig(
            student=STUDENT,
            traces=traces / "traces.jsonl",
            output_dir=output_dir,
            max_length=512,
            epochs=5,
            batch_size=4,
            learning_rate=5e-4,
            seed=config.seed,
            mesh="data:1",
            checkpoint_every=0,
            log_every=10,
            plot=False,
        ),
        report,
    )


def _traces_run(method: str, rows: Sequence[Mapping[str, Any]]) -> Run:
    score = statistics.estimate([row["score"] or 0.0 for row in rows])
    return Run(method, {row["id"]: float(row["correct"]) for row in rows}, score)


def count_wrong_equations(traces: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many traces, equations and wrong ones there are, and how many right answers rest on a wrong equation."""
    right = [row for row in traces if row["correct"]]
    return {
        "traces": len(traces),
        "equations": sum(equations(row["reasoning"]) for row in traces),
        "wrong_equations": sum(wrong_equations(row["reasoning"]) for row in traces),
        "right_answers": len(right),
        "right_answers_with_a_wrong_equation": sum(wrong_equations(row["reasoning"]) > 0 for row in right),
    }


def write_report(
    config: QuickstartConfig, summary: Mapping[str, Any], cord: Sequence[Mapping[str, Any]]
) -> str:
    """The report as text: tables, the shares, a trace, and where the files lie."""
    ranges = [_range(*bounds) for bounds in _LENGTHS]
    lines = [
        "Accuracy (with its standard error over problems), and by the number of steps that a puzzle takes",
        "",
        f"{'':26}{'accuracy':>15}{'mean score':>15}" + "".join(f"{name:>9}" for name in ranges),
    ]
    for name, accuracy in summary["accuracy"].items():
        score = summary["mean_score"].get(name)
        by_steps = summary["accuracy_by_steps"][name]
        lines.append(
            f"{name:26}{_show(accuracy):>15}{_show(score) if score else '':>15}"
            + "".join(f"{'-' if by_steps[r] is None else format(by_steps[r], '.2f'):>9}" for r in ranges)
        )
        if name == METHODS[-1]:
            lines.append("")
    proposals = len(read_pool(POOL).proposers) * 4
    lines += [
        "",
        f"Teachers: {config.samples} answers to each of {config.train_problems} puzzles. Curation: the best of "
        f"{proposals} whole traces; CoRD: the best of {proposals} next steps, four kept.",
        f"Students: {config.samples} answers to each of {config.held_out_problems} puzzles that nobody has seen.",
    ]
    for name, difference in summary["differences"].items():
        lines.append(
            f"{name}: {difference['difference']:+.3f} ± {difference['standard_error']:.3f} "
            f"(paired, p = {difference['p_value']:.2g})"
        )
    lines += [
        "",
        "Who wrote the steps that CoRD kept",
        "",
        " " * 12 + "".join(f"{p:>12}" for p in summary["share"]),
    ]
    for teacher in summary["share"]["all"]:
        lines.append(
            f"{teacher:12}"
            + "".join(f"{by_teacher[teacher]:12.0%}" for by_teacher in summary["share"].values())
        )
    lines += ["", "Wrong equations: the score rewards landing on the answer, not every line on the way", ""]
    for method, count in summary["wrong_equations"].items():
        lines.append(
            f"{method}: {count['wrong_equations']} of {count['equations']} equations are wrong; "
            f"{count['right_answers_with_a_wrong_equation']} of {count['right_answers']} right answers "
            "follow from a reasoning that contains one"
        )
    directory = Path(config.output_dir)
    lines += [
        "",
        *show_trace(choose_trace(cord)),
        "",
        f"Traces: {directory}/cord/traces.jsonl, every candidate: {directory}/cord/tree.jsonl",
        f"Students: {directory}/student_after_cord/hf, {directory}/student_after_curation/hf",
        f"This report: {directory}/report.txt, its numbers: {directory}/summary.json",
        f"{summary['seconds']:.0f} seconds",
    ]
    return "\n".join(lines) + "\n"


def choose_trace(traces: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """A right one of five steps or more, by as many teachers as possible; the first among equals."""
    fit = [row for row in traces if row["correct"] and len(row["steps"]) >= 5] or list(traces)
    return max(fit, key=lambda row: len({step["teacher"] for step in row["steps"]}))


def show_trace(trace: Mapping[str, Any]) -> list[str]:
    """The question and the steps, each with its author and its score."""
    lines = [f"A trace written together ({trace['id']})", "", *trace["question"].splitlines(), ""]
    for step in trace["steps"]:
        text = " ".join(step["text"].split()) or "(nothing to add)"
        lines.append(f"{step['teacher']:>10} {step['score']:.3f}  {text}")
    lines.append(f"{trace['steps'][-1]['teacher']:>10}        {trace['response']}")
    return [*lines, f"{'answer':>10}        {trace['answer']}"]


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _steps_by_problem(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """problem id -> the number of steps that the puzzle takes, as its solution counts them."""
    return {row["id"]: len(row["solution"].splitlines()) for row in rows}


def _by_length(run: Run, steps: Mapping[str, int]) -> dict[str, float | None]:
    """Accuracy on the problems of each range of lengths; None where there is none."""
    means = {}
    for low, high in _LENGTHS:
        values = [accuracy for problem, accuracy in run.accuracy.items() if low <= steps[problem] <= high]
        means[_range(low, high)] = round(sum(values) / len(values), 4) if values else None
    return means


def _range(low: int, high: int) -> str:
    return f"{low}-{high}"


def _difference(first: Run, second: Run) -> dict[str, float]:
    problems = sorted(first.accuracy)
    difference = statistics.paired_difference(
        [first.accuracy[problem] for problem in problems], [second.accuracy[problem] for problem in problems]
    )
    return {name: round(value, 6) for name, value in dataclasses.asdict(difference).items()}


def _numbers(estimate: Estimate) -> dict[str, float]:
    return {"mean": round(estimate.mean, 6), "standard_error": round(estimate.standard_error, 6)}


def _show(numbers: Mapping[str, float]) -> str:
    return f"{numbers['mean']:.3f} ± {numbers['standard_error']:.3f}"
