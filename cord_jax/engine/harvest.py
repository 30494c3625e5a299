"""From a finished search to its trace and its tree: the winner is followed back from its last step to its
first.
"""

from collections.abc import Sequence

import numpy as np

from cord_jax.engine.engine import Finished
from cord_jax.engine.teachers import Teachers
from cord_jax.grading import Grader, Submission, predicted_answer
from cord_jax.problems import Problem
from cord_jax.search.round_record import ABSENT, DROPPED, ENDED
from cord_jax.traces import Candidate, Step, Trace, Usage


def winning_path(finished: Finished, num_proposers: int) -> list[tuple[int, int]]:
    """The winner's candidates as (step index, candidate), first step first.

    For a stuck search it is the path of the beam that had nothing left.
    """
    rank_mj = finished.history.rank_nmj
    candidates = rank_mj.shape[1]
    if finished.stuck >= 0:
        step, beam = finished.steps - 1, finished.stuck
    else:
        step, candidate = divmod(finished.origin, candidates)
        beam = candidate // num_proposers
    path = [] if finished.stuck >= 0 else [(step, candidate)]
    while step > 0:
        step -= 1
        candidate = int(np.flatnonzero(rank_mj[step] == beam)[0])
        beam = candidate // num_proposers
        path.append((step, candidate))
    return path[::-1]


def read_tree(finished: Finished, problem: Problem, names: Sequence[str]) -> list[Candidate]:
    """Every candidate of the search, in the order of step, beam and proposer."""
    history, rows = finished.history, []
    for step in range(finished.steps):
        for j in np.flatnonzero(history.dropped_nmj[step] != ABSENT):
            beam, proposer = divmod(int(j), len(names))
            dropped = DROPPED[history.dropped_nmj[step, j]]
            rank = int(history.rank_nmj[step, j])
            rows.append(
                Candidate(
                    problem=problem.id,
                    step=step + 1,
                    beam=beam,
                    teacher=names[proposer],
                    text=finished.texts[step][j].text,
                    score=None if dropped else float(history.score_nmj[step, j]),
                    kept=rank >= 0,
                    rank=rank if rank >= 0 else None,
                    dropped=dropped,
                    ended=ENDED[history.ended_nmj[step, j]],
                )
            )
    return rows


def read_trace(finished: Finished, problem: Problem, teachers: Teachers, grader: Grader) -> Trace:
    """The trace of a finished search, its answer graded."""
    names, history = teachers.names, finished.history
    path = winning_path(finished, len(names))
    steps = tuple(
        Step(
            text=finished.texts[step][j].text,
            teacher=names[j % len(names)],
            score=float(history.score_nmj[step, j]),
            tokens=int(history.tokens_nmj[step, j]),
            ended=ENDED[history.ended_nmj[step, j]],
        )
        for step, j in path
    )
    committed = dict.fromkeys(names, 0)
    for step, j in path:
        committed[names[j % len(names)]] += finished.texts[step][j].own_tokens
    present_mj = (history.dropped_nmj != ABSENT) * history.sampled_nmj
    read_mj = (history.dropped_nmj == 0) * (history.tokens_nmj + finished.closing_tokens)
    usage = {
        name: Usage(
            int(present_mj[:, k :: len(names)].sum()), committed[name], int(read_mj[:, k :: len(names)].sum())
        )
        for k, name in enumerate(names)
    }
    if finished.stuck >= 0:
        status, response, predicted, correct = "stuck", None, None, False
    else:
        status = {"think_end": "complete", "eos": "complete", "budget": "budget"}.get(
            steps[-1].ended, "max_steps"
        )
        vocabulary = next(r.vocabulary for r in teachers.readers if finished.writer in r.proposers)
        answer = finished.answer[:-1] if finished.answer[-1] in vocabulary.eos_ids else finished.answer
        response = vocabulary.text(answer)
        predicted = predicted_answer(response)
        (correct,) = grader.grade_responses([Submission(problem, response, predicted)])
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
        extra=extra,
    )
