"""Runs as the report reads them: finished or not, from their files alone, which are left as they are."""

import abc
import dataclasses
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cord_jax.errors import UserError
from cord_jax.files import read_object
from cord_jax.fingerprints import fingerprint
from cord_jax.json_lines import read_lines
from cord_jax.problems import Problem, read_problems
from cord_jax.run_directory import read_run_config
from cord_jax.settings import show
from cord_jax.traces import SUMMARY, TRACES, TREE, Candidate, Trace

SAMPLES, METRICS, JOURNAL = "samples.jsonl", "metrics.jsonl", "journal.jsonl"


@dataclasses.dataclass(frozen=True)
class Run(abc.ABC):
    """What runs of all jobs have.

    Attributes:
      name: the shortest end of its path that no other run of its kind has.
      path: the run directory.
      config: the content of `config.json`.
      summary: the content of `summary.json`; empty while there is none.
    """

    name: str
    path: Path
    config: Mapping[str, Any]
    summary: Mapping[str, Any]

    @property
    @abc.abstractmethod
    def state(self) -> str:
        """A phrase that says how far an unfinished run has come; empty for a finished one."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings that decide its results."""
        return self.config["settings"]


@dataclasses.dataclass(frozen=True)
class SynthesisRun(Run):
    """A run that writes traces.

    Attributes:
      traces: in the order in which they were finished.
      total: the number of its problems; None if neither summary nor problem file tells.
      under_way: problems with settled rounds and no trace yet.
    """

    traces: tuple[Trace, ...]
    total: int | None
    under_way: int

    @property
    def state(self) -> str:
        """As in `Run`."""
        if self.summary.get("problems") == len(self.traces):
            return ""
        of = f" of {self.total}" if self.total else ""
        under_way = f", {self.under_way} under way" if self.under_way else ""
        return f"not finished: {len(self.traces)}{of} problems{under_way}"

    @property
    def teachers(self) -> tuple[str, ...]:
        """The proposers' names, in the pool's order, and whoever else has written, such as an integrator."""
        pool = [proposer["name"] for proposer in self.settings.get("proposers", ())]
        others = [name for trace in self.traces for name in trace.usage]
        return tuple(
            dict.fromkeys([*pool, *others, *(s.teacher for trace in self.traces for s in trace.steps)])
        )

    def trees(self) -> Iterator[tuple[Trace, tuple[Candidate, ...]]]:
        """Each trace with the candidates of its search, in the order of `tree.jsonl`; one without any comes last."""
        missing = {trace.id: trace for trace in self.traces}
        rows = _rows(self.path / TREE, {"problem": str, "node": int}, ("problem", "node"))
        for problem, of_problem in itertools.groupby(rows, key=lambda row: row["problem"]):
            candidates = tuple(_record(self.path / TREE, Candidate, row) for row in of_problem)
            if problem in missing:
                yield missing.pop(problem), candidates
        yield from ((trace, ()) for trace in missing.values())


@dataclasses.dataclass(frozen=True)
class EvaluationRun(Run):
    """A run that measures a model.

    Attributes:
      samples: problem id -> its rows of `samples.jsonl`, by their index.
      problems: id -> problem; empty if its file is no longer where it was, or has changed.
    """

    samples: Mapping[str, tuple[Mapping[str, Any], ...]]
    problems: Mapping[str, Problem]

    @property
    def correct(self) -> dict[str, list[bool]]:
        """Problem id -> whether each of its samples is right."""
        return {problem: [row["correct"] for row in rows] for problem, rows in self.samples.items()}

    @property
    def state(self) -> str:
        """As in `Run`."""
        if self.summary:
            return ""
        count = sum(map(len, self.samples.values()))
        of = f" of {len(self.problems) * self.settings['samples']}" if self.problems else ""
        return f"not finished: {count}{of} samples"


@dataclasses.dataclass(frozen=True)
class TrainingRun(Run):
    """A run that trains a student.

    Attributes:
      metrics: the rows of `metrics.jsonl`.
      exported: whether the student has been written.
    """

    metrics: tuple[Mapping[str, Any], ...]
    exported: bool

    @property
    def state(self) -> str:
        """As in `Run`."""
        if self.exported:
            return ""
        return f"not finished: {self.metrics[-1]['step'] if self.metrics else 0} steps"


@dataclasses.dataclass(frozen=True)
class Runs:
    """The runs of a report, by kind, each in the order in which they were named."""

    synthesis: tuple[SynthesisRun, ...]
    evaluation: tuple[EvaluationRun, ...]
    training: tuple[TrainingRun, ...]

    def __iter__(self) -> Iterator[Run]:
        return iter((*self.synthesis, *self.evaluation, *self.training))


def open_runs(paths: Sequence[Path]) -> Runs:
    """Reads the runs in directories; one that is no run itself stands for those below it, in the order of their names.

    Raises: `UserError` for a directory without a run, and for a file of a run that is damaged.
    """
    found: dict[Path, Mapping[str, Any]] = {}
    for path in paths:
        if not os.path.isdir(path):  # False, too, for a name that is too long
            what = "is a file" if os.path.exists(path) else "does not exist"
            raise UserError(f"--runs: {show(str(path))} {what}; name the output directory of a run")
        below = dict(_find(path.resolve()))
        if not below:
            raise UserError(
                f"--runs: {path} holds no run of synthesize, evaluate or train_student; name its output directory"
            )
        found |= {run: config for run, config in below.items() if run not in found}
    kinds: dict[type[Run], list[Path]] = {SynthesisRun: [], EvaluationRun: [], TrainingRun: []}
    for path, config in found.items():
        kinds[_kind(path, config)].append(path)
    opened: dict[type[Run], list[Any]] = {}
    for kind, members in kinds.items():
        opened[kind] = [
            _OPEN[kind](name, path, found[path], _summary(path))
            for name, path in zip(_names(members), members)
        ]
    return Runs(*(tuple(opened[kind]) for kind in kinds))


def _rows(path: Path, needs: Mapping[str, type], once: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The complete lines of a file that a process may be writing, as `read_lines`; none if there is no file."""
    return read_lines(path, needs, once) if path.exists() else iter(())


def _find(path: Path) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """The runs at and below a directory; nothing is looked for inside a run."""
    config = read_run_config(path)
    if config is not None:
        if _kind(path, config) is not None:
            yield path, config
        return
    for inside in sorted(path.iterdir()):
        if inside.is_dir() and not inside.is_symlink():
            yield from _find(inside)


def _kind(path: Path, config: Mapping[str, Any]) -> Any:
    """The class that reads a run; None for one of another job without traces."""
    if config["job"] == "synthesize" or (path / TRACES).exists():
        return SynthesisRun
    return {"evaluate": EvaluationRun, "train_student": TrainingRun}.get(config["job"])


def _names(paths: Sequence[Path]) -> list[str]:
    """The last part of each path, or as many as tell it from the others."""
    lengths = [1] * len(paths)
    while True:
        names = ["/".join(path.parts[-n:]) for path, n in zip(paths, lengths)]
        same = [i for i, name in enumerate(names) if names.count(name) > 1]
        if not same:
            return names
        for i in same:
            lengths[i] += 1


def _open_synthesis(
    name: str, path: Path, config: Mapping[str, Any], summary: Mapping[str, Any]
) -> SynthesisRun:
    traces = tuple(_record(path / TRACES, Trace, row) for row in _rows(path / TRACES, {"id": str}, ("id",)))
    total = summary.get("problems")
    if total != len(traces):
        limit = config["settings"].get("limit") or None
        problems = _problems(config, answers_needed=False)
        total = min(len(problems), limit or len(problems)) if problems else None
    done = {trace.id for trace in traces}
    under_way = {row["problem"] for row in _rows(path / JOURNAL, {"problem": str}, ())} - done
    return SynthesisRun(name, path, config, summary, traces, total, len(under_way))


def _open_evaluation(
    name: str, path: Path, config: Mapping[str, Any], summary: Mapping[str, Any]
) -> EvaluationRun:
    samples: dict[str, list[Mapping[str, Any]]] = {}
    for row in _rows(path / SAMPLES, {"problem": str, "sample": int, "correct": bool}, ("problem", "sample")):
        samples.setdefault(row["problem"], []).append(row)
    in_order = {
        problem: tuple(sorted(rows, key=lambda row: row["sample"])) for problem, rows in samples.items()
    }
    problems = _problems(config)[: config["settings"].get("limit") or None]
    return EvaluationRun(name, path, config, summary, in_order, {problem.id: problem for problem in problems})


def _open_training(
    name: str, path: Path, config: Mapping[str, Any], summary: Mapping[str, Any]
) -> TrainingRun:
    exported = (path / "hf" / "config.json").exists()
    metrics = tuple(_rows(path / METRICS, {"step": int}, ("step",)))
    return TrainingRun(name, path, config, summary, metrics, exported)


_OPEN: dict[type[Run], Any] = {
    SynthesisRun: _open_synthesis,
    EvaluationRun: _open_evaluation,
    TrainingRun: _open_training,
}


def _problems(config: Mapping[str, Any], answers_needed: bool = True) -> list[Problem]:
    """The problems of a run, if its file is still where it was and the same; else none."""
    path = config["environment"].get("problems")
    try:
        if not isinstance(path, str) or fingerprint(path) != config["inputs"].get("problems"):
            return []
        return read_problems(path, answers_needed=answers_needed)
    except UserError:
        return []


def _record(path: Path, kind: Any, row: Mapping[str, Any]) -> Any:
    try:
        return kind.from_row(row)
    except (KeyError, TypeError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{path}: a row {reason}; it was written by another version of the program") from None


def _summary(path: Path) -> dict[str, Any]:
    return read_object(path / SUMMARY) if (path / SUMMARY).exists() else {}
