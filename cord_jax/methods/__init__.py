"""The methods: how a problem becomes a trace (paper, section 4; method, section 3.15).

A method is one file and one line of `names.METHODS`. The file has a function `method`, which makes a `Method` of a run's
settings: `OneSearch` for those that are one search, or one of its own, which searches more than once.
"""

import abc
import dataclasses
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from jax.sharding import Mesh

from cord_jax.config import SynthesisConfig
from cord_jax.engine.engine import Engine
from cord_jax.engine.harvest import Outcome
from cord_jax.engine.meter import Meter
from cord_jax.engine.plan import SearchSettings
from cord_jax.engine.teachers import Teachers
from cord_jax.grading import Grader
from cord_jax.pool import PoolSpec, ProposerSpec
from cord_jax.problems import Problem
from cord_jax.search.round_record import SettledRound
from cord_jax.search.scorers import make_scorer
from cord_jax.tree_shape import TreeShape

# (problem, round from 1, what was settled) of problems that are under way
Settled = list[tuple[int, int, SettledRound]]


@dataclasses.dataclass(frozen=True)
class Job:
    """The input of a method.

    Attributes:
      teachers: the loaded pool.
      problems: those of the run.
      mesh: its devices.
      decoys: wrong answers of each problem, which are scored after its winner's reasoning; None for none.
      grader: of what the selector asks the meta-prover; None for selectors that ask nothing.
      on_look: is told, every few seconds of a search, how it stands.
    """

    teachers: Teachers
    problems: Sequence[Problem]
    mesh: Mesh
    decoys: Sequence[Sequence[str]] | None = None
    grader: Grader | None = None
    on_look: Callable[[Meter], None] = lambda meter: None

    def engine(self, search: SearchSettings) -> Engine:
        """The engine of a search of the job's problems by its pool."""
        return Engine(self.teachers, self.problems, search, self.mesh, self.decoys, self.grader, self.on_look)


class Run(Protocol):
    """A method that has been prepared for a job."""

    def __call__(
        self,
        pending: Sequence[int],
        recorded: Mapping[int, Sequence[SettledRound]],
        on_settled: Callable[[Settled], None] | None = None,
    ) -> Iterator[Outcome]:
        """Yields the outcomes of problems as they are found.

        Args:
          pending: indices of the problems.
          recorded: what an earlier run has told `on_settled`, by problem, in the order of rounds.
          on_settled: is told what has been settled of problems that are under way; given in process 0 alone.
        """


class Method(abc.ABC):
    """A way from problems to traces.

    Attributes:
      search: its first search, which says what the selector needs.
    """

    search: SearchSettings

    def roles(self, spec: PoolSpec) -> dict[str, ProposerSpec]:
        """Those who write beside the proposers of a pool, by what they are to the method."""
        return {}

    def new_tokens(self, spec: PoolSpec) -> int:
        """Tokens of a sequence, at most, beyond the prompt of a problem."""
        return self.search.max_thinking_tokens + self.search.max_answer_tokens

    def tree_shape(self, spec: PoolSpec) -> TreeShape:
        """The shape of its trees, which those of the first search are."""
        decoding = self.search.decoding
        groups = decoding.places if self.search.whole_traces else 0
        return TreeShape(len(spec.proposers), groups, self.search.max_steps, decoding.goes_back)

    @abc.abstractmethod
    def prepare(self, job: Job) -> Run:
        """Encodes the problems and lays out what is needed. Raises: `UserError` for input that cannot be used."""

    def writers(self, spec: PoolSpec) -> tuple[str, ...]:
        """The names that traces may tell of, proposers first."""
        everybody = [*spec.proposers, *self.roles(spec).values()]
        return tuple(dict.fromkeys(writer.name for writer in everybody))


@dataclasses.dataclass(frozen=True)
class OneSearch(Method):
    """A method that is one search."""

    search: SearchSettings

    def prepare(self, job: Job) -> Run:
        """As `Method.prepare` says."""
        engine = job.engine(self.search)

        def run(pending, recorded, on_settled=None):
            for finished in engine.run(pending, recorded=recorded, on_settled=on_settled):
                yield Outcome(job.problems[finished.problem], finished, job.teachers)

        return run


def make_method(config: SynthesisConfig) -> Method:
    """The method of a run."""
    return importlib.import_module(f"{__name__}.{config.method}").method(config.resolved)


def search_settings(config: SynthesisConfig) -> SearchSettings:
    """The search of a run's method, or its first one."""
    return make_method(config).search


def settings_of(config: SynthesisConfig, **of_method) -> SearchSettings:
    """The settings that all methods take from a resolved configuration as they are, and those of a method."""
    of_all: dict[str, Any] = dict(
        scorer=make_scorer(config),
        max_thinking_tokens=config.max_thinking_tokens,
        max_answer_tokens=config.max_answer_tokens,
        closing=config.closing,
        filters=config.filters,
        seed=config.seed,
        slots=config.slots,
    )
    return SearchSettings(**of_all | of_method)


def search_of(*, quantum: int | None = None, **settings) -> SearchSettings:
    """The search that a `SynthesisConfig` with these settings asks for, for engines that are run without its files.

    Args:
      quantum: as in `SearchSettings`.
    """
    config = SynthesisConfig(pool="-", problems="-", output_dir="-", **settings)
    return dataclasses.replace(search_settings(config), quantum=quantum)
