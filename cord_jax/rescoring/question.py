"""A question to a run: the rules and the scores by which its recorded trees are searched again."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cord_jax.config import SynthesisConfig
from cord_jax.errors import UserError
from cord_jax.filters import parse_filters
from cord_jax.rescoring.config import RescoringConfig
from cord_jax.rescoring.recorded_run import RecordedRun
from cord_jax.rescoring.recorded_tree import Budget, Child, RecordedTree
from cord_jax.rescoring.rules import Found, NodeScores, Rules, Scores
from cord_jax.rescoring.search import search
from cord_jax.rescoring.shares import Ending, endings
from cord_jax.traces import decimal

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class DrawnScores:
    """The scores of the selector `random`, which belong to step, beam and proposer and not to a text.

    Attributes:
      draw_sbk: float32, by step (from 1), beam and proposer.
      teachers: the proposers in their order, which is their number.
    """

    draw_sbk: np.ndarray
    teachers: Sequence[str]

    def __call__(self, tree: RecordedTree, child: Child) -> float:
        """As `Scores` says."""
        proposer = self.teachers.index(child.candidate.teacher)
        return float(self.draw_sbk[child.candidate.step - 1, child.beam, proposer])


@dataclasses.dataclass(frozen=True)
class Question:
    """What a run is asked.

    Attributes:
      run: the run.
      config: its settings, with the selector that is asked for.
      rules: of the searches over its trees.
      anew: whether models score its candidates anew.
      judge_temperature: of the meta-prover that scores anew; None for the run's.
      another_vocabulary: whether the meta-prover counts tokens in another vocabulary than the run's.
    """

    run: RecordedRun
    config: SynthesisConfig
    rules: Rules
    anew: bool
    judge_temperature: float | None = None
    another_vocabulary: bool = False

    @property
    def drawn(self) -> bool:
        """Whether the scores are those of the selector `random`."""
        return self.config.selector == "random"

    @property
    def teachers(self) -> tuple[str, ...]:
        """Those who take part, in the run's order."""
        return self.run.teachers if self.rules.teachers is None else self.rules.teachers

    @property
    def searched(self) -> str | None:
        """Why there are no winners to be found in such trees; None if there are."""
        if self.config.method == "integration":
            return "the trace of a run of integration is no candidate"
        return None

    def scores(self, problem: str, rows: Sequence[Row], teachers: Sequence[str]) -> Scores:
        """The scores of a problem's candidates, of its rows of `scores.jsonl`, in a pool of some teachers."""
        if self.drawn:
            return DrawnScores(self.draws(problem, len(teachers)), teachers)
        return NodeScores({row["node"]: row["new_score"] for row in rows if row["new_score"] is not None})

    def draws(self, problem: str, proposers: int) -> np.ndarray:
        """All draws that a problem may ask for, as `DrawnScores` takes them."""
        from cord_jax.rescoring.scoring import draw_scores

        candidates = self.run.trees[problem]
        steps = max(c.step for c in candidates)
        beams = max(self.rules.beam_width, 1 + max(c.beam for c in candidates))
        return draw_scores(self.config.seed, problem, steps, beams, proposers)

    def find(self, problem: str, rows: Sequence[Row], teachers: tuple[str, ...]) -> Found:
        """Searches the tree of a problem, with the candidates of some teachers alone."""
        if self.searched is not None:
            return Found(None, None, None, self.searched, False)
        everybody = teachers == self.run.teachers
        rules = dataclasses.replace(self.rules, teachers=None if everybody else teachers)
        budget = None
        if self.another_vocabulary:
            thinking = {row["node"]: row["thinking_tokens"] for row in rows}
            budget = Budget(thinking, self.config.max_step_tokens, self.config.max_thinking_tokens)
        return search(self.run.tree(problem), rules, self.scores(problem, rows, teachers), budget)

    def endings(self, problem: str, rows: Sequence[Row]) -> list[Ending]:
        """The complete traces in the tree of a problem, with their scores."""
        scores = {row["node"]: row["new_score"] for row in rows if row["new_score"] is not None}
        max_steps = 1 if self.config.method != "cord" else self.rules.max_steps
        return endings(self.run.tree(problem), scores, max_steps)

    def exact(self, found: Found) -> bool:
        """Whether a run would have found the same: its proposals, too, do not depend on draws, or on the same ones."""
        temperature = self.judge_temperature
        if temperature is None:
            temperature = self.run.described["settings"]["meta_prover"]["temperature"]
        judged = self.config.selector == "binary_judgment" and temperature != 0
        numbered_alike = self.teachers == self.run.teachers[: len(self.teachers)]
        alike = not (self.run.draws_matter or judged) or (found.same_places and numbered_alike)
        return found.covered and alike

    def winner(self, problem: str, rows: Sequence[Row]) -> dict[str, Any]:
        """The row of `winners.jsonl`."""
        found, recorded = self.find(problem, rows, self.teachers), self.run.winner(problem)
        trace = self.run.traces[problem]
        same = found.covered and (found.winner, found.status) == (recorded, trace.status)
        of_node = {row["node"]: row for row in rows}

        def score(node: int | None, name: str) -> float | None:
            return of_node[node][name] if node else None

        row: dict[str, Any] = {"problem": problem, "covered": found.covered, "why": found.why}
        row |= {"exact": self.exact(found), "same": same, "correct": trace.correct if same else None}
        row |= {"old_node": recorded, "old_status": trace.status, "old_score": decimal(trace.score)}
        row |= {"old_node_new_score": score(recorded, "new_score")}
        row |= {"new_node": found.winner, "new_status": found.status, "new_score": decimal(found.score)}
        row |= {"new_node_old_score": score(found.winner, "old_score")}
        row["steps"] = [
            {"text": c.candidate.text, "teacher": c.candidate.teacher, "ended": c.ended} for c in found.steps
        ]
        return row


def ask(config: RescoringConfig, run: RecordedRun) -> Question:
    """The question that the settings put to a run. Raises: `UserError` for one that it has no answer to."""
    selector = config.selector or run.config.selector
    changes = {"selector": selector, "mesh": config.mesh, "slots": config.slots}
    synthesis = run.config_with(**changes)
    anew = bool(config.pool or config.selector) and selector != "random"
    expands = synthesis.method == "cord" and synthesis.decoding == "mcts"
    rules = Rules(
        whole=synthesis.method == "curation",
        segmentation=synthesis.segmentation,
        beam_width=config.beam_width or synthesis.beam_width,
        max_steps=synthesis.max_steps,
        max_expansions=synthesis.max_expansions if expands else None,
        exploration=synthesis.exploration,
        filters=parse_filters(synthesis.filters),
        teachers=_some_teachers(config.teachers, run),
    )
    question = Question(run, synthesis, rules, anew)
    if question.searched is not None and (config.beam_width or config.teachers):
        raise UserError(
            f"--run: {run.path}: {question.searched}; leave --beam_width and --teachers out: its candidates are scored"
        )
    return question


def _some_teachers(names: str, run: RecordedRun) -> tuple[str, ...] | None:
    if not names:
        return None
    wanted = names.split(",")
    unknown = [name for name in wanted if name not in run.teachers]
    if unknown:
        raise UserError(
            f"--teachers={names}: {unknown[0]!r} is no proposer of {run.path}; there are {', '.join(run.teachers)}"
        )
    return tuple(name for name in run.teachers if name in wanted)
