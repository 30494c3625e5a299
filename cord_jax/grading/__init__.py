"""Grading: the answer that a response gives, and whether it is right (docs/method.md, section 3.9).

    with open_grader("auto") as grader:
        grader.grade_responses([Submission(problem, response, predicted_answer(response))])  # -> [True]
        grader.grade([("1 1/2", ("3/2",))])  # -> [True]; without a problem, not with a judge

A grader is a module here, whose class is its `GRADER`, and a line in `names.GRADERS`.
"""

import importlib
from typing import Any

from cord_jax import names
from cord_jax.errors import UserError
from cord_jax.grading.extraction import predicted_answer as predicted_answer
from cord_jax.grading.grader import Grader as Grader
from cord_jax.grading.grader import Submission as Submission
from cord_jax.grading.grader import TextGrader as TextGrader


def open_grader(name: str, **options: Any) -> Grader:
    """The grader of a name, to be used as a context manager.

    Args:
      options: of its class.

    Raises: `UserError` if there is none of that name or it cannot work here.
    """
    if name not in names.GRADERS:
        raise UserError(
            f"--grader={name}: there is none of that name; give one of {', '.join(names.GRADERS)}"
        )
    return importlib.import_module(f"{__name__}.{name}").GRADER(**options)
