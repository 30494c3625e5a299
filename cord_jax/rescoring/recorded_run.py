"""A run of `launch.synthesize` as its directory tells of it: settings, traces and trees."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cord_jax import settings as settings_of
from cord_jax.config import SynthesisConfig
from cord_jax.errors import UserError
from cord_jax.files import read_object
from cord_jax.json_lines import read_lines
from cord_jax.problems import Problem
from cord_jax.rescoring.recorded_tree import RecordedTree
from cord_jax.run_directory import CONFIG
from cord_jax.traces import SUMMARY, TRACES, TREE, Candidate, Trace
from cord_jax.typed_rows import checked


@dataclasses.dataclass(frozen=True)
class RecordedRun:
    """A run, as far as it has got.

    Attributes:
      path: its directory.
      described: its `config.json`.
      config: its settings; paths in it are those that it was given.
      traces: problem id -> its trace.
      trees: problem id -> its candidates, in the order of nodes.
      finished: whether it has ended.
    """

    path: Path
    described: Mapping[str, Any]
    config: SynthesisConfig
    traces: Mapping[str, Trace]
    trees: Mapping[str, Sequence[Candidate]]
    finished: bool

    @property
    def teachers(self) -> tuple[str, ...]:
        """The proposers' names, in their order."""
        return tuple(proposer["name"] for proposer in self.described["settings"]["proposers"])

    @property
    def draws_matter(self) -> bool:
        """Whether what some proposer writes depends on random draws."""
        return any(proposer["temperature"] != 0 for proposer in self.described["settings"]["proposers"])

    def config_with(self, **changes: Any) -> SynthesisConfig:
        """Its settings with some changed."""
        return settings_of.recorded(SynthesisConfig, vars(self.config) | changes)

    @functools.cached_property
    def problems(self) -> list[Problem]:
        """The problems that have a trace, as far as prompts and answers need them."""
        return [_problem(trace) for trace in self.traces.values()]

    def tree(self, problem: str) -> RecordedTree:
        """The tree of a problem."""
        return RecordedTree(self.trees[problem])

    def winner(self, problem: str) -> int | None:
        """The node of the recorded winner; None if the trace is no candidate (integration)."""
        steps = [(step.text, step.teacher) for step in self.traces[problem].steps]
        return None if self.config.method == "integration" else self.tree(problem).find(steps)


@dataclasses.dataclass(frozen=True)
class _Writer:
    """What is read of a proposer or a meta-prover in a run's `config.json`."""

    name: str
    temperature: float


def read_run(path: Path) -> RecordedRun:
    """Reads the directory of a run.

    Raises: `UserError` if it holds none, or none that has written a trace, or rows that no run writes.
    """
    missing = [name for name in (CONFIG, TRACES, TREE) if not (path / name).is_file()]
    if missing:
        raise UserError(
            f"--run: {path} has no {missing[0]}; give the --output_dir of a run of launch.synthesize that has "
            "written a trace"
        )
    described = read_object(path / CONFIG)
    if described.get("job") != "synthesize":
        raise UserError(f"--run: {path} holds a run of {described.get('job')}; give one of launch.synthesize")
    traces = {trace.id: trace for trace in _rows(path / TRACES, Trace.from_row)}
    if not traces:
        raise UserError(f"--run: {path} has no trace yet; let its run go on first")
    trees: dict[str, list[Candidate]] = {}
    for candidate in _rows(path / TREE, Candidate.from_row):
        trees.setdefault(candidate.problem, []).append(candidate)
    for problem in traces:
        try:
            RecordedTree(trees[problem])
        except KeyError:
            raise UserError(
                f"{path / TREE}: holds no candidate of problem {problem!r}; it is damaged"
            ) from None
        except ValueError as error:
            raise UserError(f"{path / TREE}: {error}; it is damaged") from None
    try:
        values = described["environment"] | described["settings"]
        config = settings_of.recorded(SynthesisConfig, values | {"output_dir": path})
        settings = described["settings"]
        for writer in (*settings["proposers"], settings["meta_prover"] | {"name": ""}):
            checked(_Writer, {name: writer[name] for name in ("name", "temperature")})
    except (KeyError, TypeError, UserError) as error:
        raise UserError(f"{path / CONFIG}: not as this version writes it ({error})") from None
    return RecordedRun(path, described, config, traces, trees, (path / SUMMARY).exists())


def _rows(path: Path, from_row):
    for number, row in enumerate(read_lines(path), start=1):
        try:
            yield from_row(row)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise UserError(f"{path}, row {number}: not as this version writes it ({error})") from None


def _problem(trace: Trace) -> Problem:
    extra = trace.extra
    answers = tuple(extra.get("answers") or ())
    return Problem(trace.id, trace.question, trace.answer, extra.get("context"), answers=answers)
