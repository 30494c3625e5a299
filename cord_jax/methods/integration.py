"""Integration: every teacher writes a whole trace, and one model makes one of them all (paper, baselines; method, section
3.15).

It is two searches. In the first the proposers write, and what they have written is scored. In the second one proposer
writes, the integrator, whose prompt holds those traces; its text is scored, reviewed and answered like any other winner.
The journal has both as rounds 1 and 2 of a problem.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import numpy as np

from cord_jax.config import SynthesisConfig
from cord_jax.endings import ENDINGS
from cord_jax.engine.engine import Engine, Finished
from cord_jax.engine.harvest import Outcome
from cord_jax.engine.journal import agree_on
from cord_jax.engine.plan import SearchSettings
from cord_jax.engine.teachers import Teachers
from cord_jax.grading import Grader
from cord_jax.methods import Job, Method, Run, Settled
from cord_jax.methods.curation import whole_traces
from cord_jax.pool import PoolSpec, ProposerSpec
from cord_jax.search.round_record import VALID, CandidateText, SettledRound
from cord_jax.search.tree import empty_tree
from cord_jax.traces import Candidate, Provenance, Trace, Usage

# What the integrator's draws depend on beside the problem's id (method, section 3.10).
DRAWS = "\0integration"


def integrator_of(spec: PoolSpec) -> ProposerSpec:
    """The integrator of a pool: the proposer that it names, else the meta-prover at the usual temperature."""
    for proposer in spec.proposers:
        if proposer.name == spec.integrator:
            return proposer
    judge = spec.meta_prover
    return ProposerSpec(
        name=judge.name or "meta_prover",
        checkpoint=judge.checkpoint,
        system_prompt=judge.system_prompt,
        dtype=judge.dtype,
        weights=judge.weights,
        user_prompt=judge.user_prompt,
        template_arguments=judge.template_arguments,
    )


@dataclasses.dataclass(frozen=True)
class WholeTraces:
    """The whole traces of a problem, one of each proposer.

    Attributes:
      settled: the traces, in the pool's order.
      seconds: from the problem's insertion to them; 0 if an earlier run has written them.
    """

    settled: SettledRound
    seconds: float

    @property
    def texts(self) -> list[CandidateText]:
        """All of them as text."""
        return [text for text in self.settled.texts if text is not None]

    @property
    def remaining(self) -> list[str]:
        """Those that were not dropped."""
        return [text.text for text in self.texts if text.dropped is None]

    def request(self, instruction: str) -> str:
        """The text that follows the question in the integrator's prompt."""
        numbered = enumerate(self.remaining, start=1)
        return "".join(f"\n\n### Solution {k}\n{text}" for k, text in numbered) + f"\n\n{instruction}"

    def usage(self, teachers: Teachers, closing_tokens: int) -> dict[str, Usage]:
        """The tokens that they cost, by proposer.

        Args:
          closing_tokens: the meta-prover's tokens of the problem's closings.
        """
        vocabulary = teachers.readers[teachers.meta].vocabulary
        lengths = vocabulary.encode_pieces([text.text for text in self.texts], "whole")
        cost = {}
        for j, (name, text, ids) in enumerate(zip(teachers.names, self.texts, lengths, strict=True)):
            scored = 0 if text.dropped else len(ids) + closing_tokens
            cost[name] = Usage(proposed=int(self.settled.sampled_j[j]), scored=scored)
        return cost

    def rows(self, problem: str, names: Sequence[str]) -> list[Candidate]:
        """Their rows in the tree; the best is kept, as in curation."""
        score_j = np.where(self.settled.dropped_j == VALID, self.settled.score_j, -np.inf)
        best, rows = int(score_j.argmax()), []
        for j, (name, text) in enumerate(zip(names, self.texts, strict=True)):
            kept = text.dropped is None and j == best
            rows.append(
                Candidate(
                    node=j + 1,
                    parent=0,
                    problem=problem,
                    step=1,
                    beam=0,
                    teacher=name,
                    text=text.text,
                    score=None if text.dropped else float(score_j[j]),
                    kept=kept,
                    rank=0 if kept else None,
                    dropped=text.dropped,
                    ended=ENDINGS[self.settled.ended_j[j]],
                )
            )
        return rows


@dataclasses.dataclass(frozen=True)
class Integrated(Outcome):
    """The integrator's text, and what it was made of.

    Attributes:
      pool: who wrote the whole traces.
      whole: those traces; the tree is theirs.
    """

    pool: Teachers
    whole: WholeTraces

    def trace(self, grader: Grader, provenance: Provenance) -> Trace:
        """The trace, its answer graded; tokens and seconds are those of both searches."""
        trace = super().trace(grader, provenance)
        usage = self.whole.usage(self.pool, self.finished.closing_tokens)
        for name, of_integrator in trace.usage.items():
            usage[name] = usage.get(name, Usage()) + of_integrator
        return dataclasses.replace(trace, usage=usage, seconds=self.whole.seconds + trace.seconds)

    def tree(self) -> list[Candidate]:
        """The whole traces."""
        return self.whole.rows(self.problem.id, self.pool.names)


def integrating(teachers: Teachers, requests: Mapping[str, str]) -> Teachers:
    """The integrator as the only one who writes; what is scored, is scored after the plain prompts of problems.

    Args:
      requests: what follows the question in the integrator's prompt, by problem id.
    """
    integrator = integrator_of(teachers.spec)
    reader = next(r for r in teachers.readers if r.checkpoint == integrator.checkpoint)
    writes = dataclasses.replace(reader, prompt=integrator.prompt, proposers=(0,), more=requests)
    readers = [writes, dataclasses.replace(teachers.readers[teachers.meta], proposers=())]
    if teachers.reward is not None:
        readers.append(teachers.readers[teachers.reward])
    return dataclasses.replace(
        teachers,
        spec=dataclasses.replace(teachers.spec, proposers=(integrator,), integrator=integrator.name),
        readers=tuple(readers),
        meta=1,
        reward=None if teachers.reward is None else 2,
    )


@dataclasses.dataclass(frozen=True)
class Integration(Method):
    """Whole traces of all, and one that is made of them.

    Attributes:
      search: the proposers'.
      second: the integrator's.
      instruction: the end of its prompt.
    """

    search: SearchSettings
    second: SearchSettings
    instruction: str

    def roles(self, spec: PoolSpec) -> dict[str, ProposerSpec]:
        """The integrator."""
        return {"integrator": integrator_of(spec)}

    def new_tokens(self, spec: PoolSpec) -> int:
        """Those of the traces that the integrator reads, too."""
        return super().new_tokens(spec) + len(spec.proposers) * self.search.max_thinking_tokens

    def prepare(self, job: Job) -> Run:
        """As `Method.prepare` says. The second search is laid out when its prompts are known."""
        vocabulary = job.teachers.readers[job.teachers.meta].vocabulary
        for answers in job.decoys or ():
            for answer in answers:
                vocabulary.encode_with_answer(self.second.closing, answer)
        engine = dataclasses.replace(job, decoys=None).engine(self.search)

        def run(
            pending: Sequence[int],
            recorded: Mapping[int, Sequence[SettledRound]],
            on_settled: Callable[[Settled], None] | None = None,
        ) -> Iterator[Outcome]:
            whole = _whole_traces(engine, job, pending, recorded, on_settled)
            yield from self._integrate(job, whole, recorded, on_settled)

        return run

    def _integrate(
        self,
        job: Job,
        whole: Mapping[int, WholeTraces],
        recorded: Mapping[int, Sequence[SettledRound]],
        on_settled: Callable[[Settled], None] | None,
    ) -> Iterator[Outcome]:
        """Runs the second search for all problems of which a whole trace is left; the others are stuck."""
        problems = job.problems
        ready = [i for i, traces in whole.items() if traces.remaining]
        teachers = integrating(
            job.teachers, {problems[i].id: whole[i].request(self.instruction) for i in ready}
        )
        for i, traces in whole.items():
            if not traces.remaining:
                yield Integrated(problems[i], _nothing(i), teachers, job.teachers, traces)
        if not ready:
            return
        engine = dataclasses.replace(job, teachers=teachers).engine(self.second)

        def tell(settled: Settled) -> None:
            if on_settled is not None:
                on_settled([(i, 1 + number, of_round) for i, number, of_round in settled])

        later = {i: recorded[i][1:] for i in ready if i in recorded}
        for finished in engine.run(ready, recorded=later, on_settled=on_settled and tell):
            i = finished.problem
            yield Integrated(problems[i], finished, teachers, job.teachers, whole[i])


def _whole_traces(
    engine: Engine,
    job: Job,
    pending: Sequence[int],
    recorded: Mapping[int, Sequence[SettledRound]],
    on_settled: Callable[[Settled], None] | None,
) -> dict[int, WholeTraces]:
    """Runs the first search for the problems that no earlier run has settled; tells at once what it settles.

    The engine's memory is free then for the second search.
    """
    written: dict[int, Sequence[SettledRound]] = {i: recorded[i][:1] for i in pending if i in recorded}
    seconds: dict[int, float] = {}
    for finished in engine.run([i for i in pending if i not in written]):
        seconds[finished.problem] = finished.seconds
        if finished.texts[0]:  # known in process 0 alone
            written[finished.problem] = finished.rounds
            if on_settled is not None:
                on_settled([(finished.problem, 1, finished.rounds[0])])
    engine.close()
    agreed = agree_on(written, [problem.id for problem in job.problems])
    return {i: WholeTraces(settled, seconds.get(i, 0.0)) for i, (settled,) in agreed.items()}


def _nothing(problem: int) -> Finished:
    """The end of a search of which there is nothing."""
    tree = jax.tree.map(lambda x: np.asarray(x[0]), empty_tree(1, 0, 1))
    return Finished(
        problem=problem,
        tree=tree,
        texts=[],
        winner=0,
        stuck=True,
        answer=[],
        review=None,
        closing_tokens=0,
        judged_tokens=0,
        seconds=0.0,
    )


def method(config: SynthesisConfig) -> Integration:
    """The two searches of a run; `config` is resolved."""
    first = whole_traces(config, 1, answers=False)
    # Filters spare the last one that is left, and the integrator's text is the only one.
    second = whole_traces(config, 1, segmentation="free", filters="", draws=DRAWS)
    return Integration(first, second, config.integration_instruction)
