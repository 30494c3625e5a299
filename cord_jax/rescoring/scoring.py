"""Scoring recorded candidates: the search's own program reads them, and nothing is proposed.

The engine is given the recorded rounds of every problem (as when it continues a run) and a decoding that follows them. So
texts are encoded, read and scored by the code that scores in a search, whatever the selector, and each step is read once.
Of the pool only those models are loaded that score.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

import models
from cord_jax.config import SynthesisConfig
from cord_jax.engine.encoded_problems import problem_digest
from cord_jax.engine.engine import Engine
from cord_jax.engine.teachers import load_teachers
from cord_jax.errors import UserError
from cord_jax.grading import check_judge, grader_options, open_grader
from cord_jax.mesh import parse_mesh
from cord_jax.methods import make_method
from cord_jax.pool import PoolSpec, ProposerSpec
from cord_jax.problems import Problem
from cord_jax.progress import Progress, announced
from cord_jax.rescoring.decoding import Followed, Record, Recorded, record_of
from cord_jax.search.insertion import Insertion
from cord_jax.search.sampling import problem_key, row_key
from cord_jax.traces import Candidate

# As `open_scoring` says.
NewScores = tuple[str, Mapping[int, float], Mapping[int, int]]


class _Engine(Engine):
    """An engine that follows records."""

    def __init__(self, records: Sequence[Record], *arguments: Any, **options: Any):
        self._records = records
        super().__init__(*arguments, **options)

    def _insertion(self, slot_r, problem_r, replayed_r) -> Insertion:
        memory = jax.tree.map(np.array, self.plan.decoding.empty_memory(len(problem_r), self.plan.nodes))
        for row in np.flatnonzero(problem_r >= 0):
            after_mb = self._records[int(problem_r[row])].after_mb
            memory.after_nmb[row, : len(after_mb)] = after_mb
        insertion = super()._insertion(slot_r, problem_r, replayed_r)
        return dataclasses.replace(insertion, memory=Followed(memory.after_nmb))

    def score(self, pending: Sequence[str], log: Callable[[str], None]) -> Iterator[NewScores]:
        """Scores the candidates of problems (ids), and yields them as they are done."""
        index = {problem.id: i for i, problem in enumerate(self.problems)}
        recorded = {index[problem]: self._records[index[problem]].rounds for problem in pending}
        done, progress = 0, Progress(log)
        self._on_look = lambda meter: progress.tell(
            lambda: f"rescore: {done} of {len(pending)} problems scored"
        )
        log("rescore: compiling the search; half a minute for small networks, minutes for large ones")
        for finished in self.run(list(recorded), recorded=recorded):
            record, tree = self._records[finished.problem], finished.tree
            problem = self.problems[finished.problem].id
            if len(finished.texts) != len(record.rounds):
                raise UserError(f"problem {problem!r}: its tree lacks a round; the file is damaged")
            placed = record.place_of.items()
            scores = {node: float(tree.score_nmj[place]) for node, place in placed}
            thinking = {node: int(tree.thinking_nmj[place]) for node, place in placed}
            done += 1
            yield problem, {node: s for node, s in scores.items() if np.isfinite(s)}, thinking
        progress.clear()


def scoring_pool(spec: PoolSpec, teachers: Sequence[str]) -> PoolSpec:
    """The pool that is loaded: the meta-prover, and the reward model, with the run's proposers in name only."""
    judge = spec.meta_prover
    proposers = tuple(
        ProposerSpec(
            name=name,
            checkpoint=judge.checkpoint,
            temperature=0.0,
            system_prompt=judge.system_prompt,
            dtype=judge.dtype,
            weights=judge.weights,
            user_prompt=judge.user_prompt,
            template_arguments=judge.template_arguments,
        )
        for name in teachers
    )
    return dataclasses.replace(spec, proposers=proposers, integrator=None)


@contextlib.contextmanager
def open_scoring(
    config: SynthesisConfig,
    spec: PoolSpec,
    problems: Sequence[Problem],
    trees: Mapping[str, Sequence[Candidate]],
    teachers: Sequence[str],
) -> Iterator[Callable[[Sequence[str], Callable[[str], None]], Iterator[NewScores]]]:
    """Loads what scores the candidates of a run, and gives a function that scores those of some problems (ids) and logs.

    It yields, as problems are done: the id; node -> score, of candidates that were not dropped; node -> the meta-prover's
    tokens of the reasoning that ends with it.

    Args:
      config: the run's, with the new selector.
      spec: the pool whose meta-prover or reward model scores.
      problems: all of the run; trees: their candidates; teachers: their proposers, in their order.

    Raises: `UserError` or `models.CheckpointError` for models that cannot score these problems.
    """
    method = make_method(config)
    search, by_expansion = method.search, config.method == "cord" and config.decoding == "mcts"
    if search.scorer.needs_answer and (without := [p.id for p in problems if not p.forms]):
        raise UserError(
            f"--selector={config.selector} needs answers, and problem {without[0]!r} has none; give another selector"
        )
    check_judge(config.judge)
    mesh = parse_mesh(config.mesh)
    records = [_record(trees[p.id], teachers, search.decoding.places, by_expansion) for p in problems]
    decoding = Recorded(
        places=search.decoding.places,
        opened_first=search.decoding.opened_first,
        max_rounds=max(len(record.rounds) for record in records),
        kept=search.decoding.kept,
        goes_back=by_expansion,
    )
    pool, rewards = scoring_pool(spec, teachers), search.scorer.needs_reward_model
    new_tokens = method.new_tokens(pool)
    with announced("rescore: loading the models that score"):
        loaded = load_teachers(pool, mesh, problems, new_tokens, models.execution_of, rewards)
    search = dataclasses.replace(
        search, decoding=decoding, filters="", answers=False, rescores=True, max_answer_tokens=1
    )
    with open_grader(config.grader, **grader_options(config.judge, mesh)) as grader:
        yield _Engine(records, loaded, problems, search, mesh, grader=grader).score


def _record(
    candidates: Sequence[Candidate], teachers: Sequence[str], places: int, by_expansion: bool
) -> Record:
    try:
        return record_of(candidates, teachers, places, by_expansion)
    except (KeyError, IndexError, ValueError):
        problem = candidates[0].problem
        raise UserError(f"problem {problem!r}: its tree is not one that the run can have written") from None


def draw_scores(seed: int, problem: str, steps: int, beams: int, proposers: int) -> np.ndarray:
    """The scores of the selector `random` (docs/method.md, section 3.13): float32 [step, beam, proposer]."""
    key_2 = problem_key(seed, problem_digest(problem))

    def draw(step, beam, proposer):
        return jax.random.uniform(jax.random.wrap_key_data(row_key(key_2, step, beam, proposer)))

    each: Callable = jax.vmap(jax.vmap(jax.vmap(draw, (None, None, 0)), (None, 0, None)), (0, None, None))
    return np.asarray(jax.jit(each)(np.arange(1, steps + 1), np.arange(beams), np.arange(proposers)))
