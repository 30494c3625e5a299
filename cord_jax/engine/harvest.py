"""From a finished search to its trace and its tree: the winner is followed back from its last step to its first."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from cord_jax.endings import ENDINGS
from cord_jax.engine.engine import Finished
from cord_jax.engine.teachers import Teachers
from cord_jax.grading import Grader, Submission, predicted_answer
from cord_jax.problems import Problem
from cord_jax.search.round_record import ABSENT, VALID
from cord_jax.search.tree import LOST
from cord_jax.traces import Candidate, Provenance, Step, Trace, Usage


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A problem whose trace is found, as one search found it; methods of several searches make subclasses.

    Texts are known in one process of a job, which alone asks for traces and trees.

    Attributes:
      problem: the problem.
      finished: the search; teachers: who wrote in it.
    """

    problem: Problem
    finished: Finished
    teachers: Teachers

    def grade(self, grader: Grader) -> None:
        """Grades the response; a grader that lies on the devices of all processes asks for it in all of them."""
        read_response(self.finished, self.problem, self.teachers, grader)

    def trace(self, grader: Grader, provenance: Provenance) -> Trace:
        """The trace, its answer graded."""
        return read_trace(self.finished, self.problem, self.teachers, grader, provenance)

    def tree(self) -> list[Candidate]:
        """All candidates of the search."""
        return read_tree(self.finished, self.problem, self.teachers.names)


def winning_path(finished: Finished) -> list[tuple[int, int]]:
    """The nodes from the root to the winner, without the root, as (round, candidate)."""
    parent_mj, path, node = finished.tree.parent_nmj, [], finished.winner
    while node > 0:
        path.append(divmod(node - 1, parent_mj.shape[1]))
        node = int(parent_mj[path[-1]])
    return path[::-1]


def read_tree(finished: Finished, problem: Problem, names: Sequence[str]) -> list[Candidate]:
    """Every candidate of the search, in the order of round, place and proposer."""
    tree, rows = finished.tree, []
    present = [tuple(map(int, index)) for index in np.argwhere(tree.dropped_nmj != ABSENT)]
    # Nodes are numbered by their rows; on the device, by their rounds and candidates.
    row_of = {0: 0} | {1 + m * tree.parent_nmj.shape[1] + j: n for n, (m, j) in enumerate(present, start=1)}
    for number, (m, j) in enumerate(present, start=1):
        candidate, rank = finished.texts[m][j], int(tree.rank_nmj[m, j])
        rows.append(
            Candidate(
                node=number,
                parent=row_of[int(tree.parent_nmj[m, j])],
                problem=problem.id,
                step=int(tree.depth_nmj[m, j]),
                beam=int(tree.beam_nmj[m, j]),
                teacher=names[j % len(names)],
                text=candidate.text,
                score=None if candidate.dropped else float(tree.score_nmj[m, j]),
                kept=rank != LOST,
                rank=rank if rank >= 0 else None,
                dropped=candidate.dropped,
                ended=ENDINGS[tree.ended_nmj[m, j]],
            )
        )
    return rows


def read_response(
    finished: Finished, problem: Problem, teachers: Teachers, grader: Grader
) -> tuple[str | None, str | None, bool | None]:
    """The response of a finished search, the answer that it states, and whether it is right.

    Without a response it is wrong, and without a gold answer nobody knows.
    """
    correct = False if problem.forms else None
    if finished.stuck:
        return None, None, correct
    writer = (finished.winner - 1) % len(teachers.names)
    vocabulary = next(r.vocabulary for r in teachers.readers if writer in r.proposers)
    answer = finished.answer[:-1] if finished.answer[-1] in vocabulary.eos_ids else finished.answer
    response = vocabulary.text(answer)
    predicted = predicted_answer(response)
    if problem.forms:
        (correct,) = grader.grade_responses([Submission(problem, response, predicted)])
    return response, predicted, correct


def read_trace(
    finished: Finished, problem: Problem, teachers: Teachers, grader: Grader, provenance: Provenance
) -> Trace:
    """The trace of a finished search, its answer graded."""
    names, tree = teachers.names, finished.tree
    path = winning_path(finished)
    steps = tuple(
        Step(
            text=finished.texts[m][j].text,
            teacher=names[j % len(names)],
            score=float(tree.score_nmj[m, j]),
            tokens=int(tree.tokens_nmj[m, j]),
            ended=ENDINGS[tree.ended_nmj[m, j]],
        )
        for m, j in path
    )
    committed = dict.fromkeys(names, 0)
    for m, j in path:
        committed[names[j % len(names)]] += finished.texts[m][j].own_tokens
    present_mj = (tree.dropped_nmj != ABSENT) * tree.sampled_nmj
    read_mj = (tree.dropped_nmj == VALID) * (tree.tokens_nmj + finished.closing_tokens)
    usage = {
        name: Usage(
            int(present_mj[:, k :: len(names)].sum()), committed[name], int(read_mj[:, k :: len(names)].sum())
        )
        for k, name in enumerate(names)
    }
    status = "stuck"
    if not finished.stuck:
        status = {"think_end": "complete", "eos": "complete", "budget": "budget"}.get(
            steps[-1].ended, "max_steps"
        )
    response, predicted, correct = read_response(finished, problem, teachers, grader)
    perplexity, decoy_scores = None, None
    if problem.forms and any(step.text for step in steps):
        if finished.review is None:
            perplexity = steps[-1].score
        else:
            known = len(problem.forms)
            perplexity = float(finished.review[:known].max())
            decoys = finished.review[known:]
            decoy_scores = tuple(float(score) for score in decoys[np.isfinite(decoys)])
    extra = dict(problem.extra)
    for name in ("context", "solution"):
        if getattr(problem, name) is not None:
            extra[name] = getattr(problem, name)
    if problem.answers:
        extra["answers"] = list(problem.answers)
    return Trace(
        id=problem.id,
        question=problem.question,
        answer=problem.answer,
        status=status,
        score=steps[-1].score if steps else None,
        reasoning="".join(step.text for step in steps),
        response=response,
        predicted_answer=predicted,
        correct=correct,
        steps=steps,
        usage=usage,
        seconds=finished.seconds,
        predictive_perplexity=perplexity,
        decoy_scores=decoy_scores,
        provenance=provenance,
        extra=extra,
    )
