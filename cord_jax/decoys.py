"""Decoys: wrong answers that a trace should not lead to (method, section 3.18)."""

import hashlib
import unicodedata
from collections.abc import Sequence

from cord_jax.grading import Grader, Submission
from cord_jax.problems import Problem


def choose_decoys(
    problem: Problem, others: Sequence[Problem], count: int, seed: int, grader: Grader
) -> tuple[str, ...]:
    """Chooses distinct answers of other problems that are wrong for this one.

    They come in the order of the SHA-256 of `{seed} {problem id} {other id}`, the least first.

    Args:
      others: the problems of the whole file; the problem itself may be among them.
      count: how many, at most.
    """
    if not problem.forms:
        return ()

    def order(other: Problem) -> bytes:
        return hashlib.sha256(f"{seed} {problem.id} {other.id}".encode()).digest()

    chosen: dict[str, None] = {}
    for other in sorted((o for o in others if o.id != problem.id and o.answer is not None), key=order):
        if len(chosen) == count:
            break
        answer = unicodedata.normalize("NFC", str(other.answer))
        if answer in chosen:
            continue
        (right,) = grader.grade_responses([Submission(problem, answer, answer)])
        if not right:
            chosen[answer] = None
    return tuple(chosen)
