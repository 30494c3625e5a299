"""Grading: the answer that a response gives, and whether it is right (docs/method.md, section 3.9).

    with open_grader("auto") as grader:
        grader.grade_responses([Submission(problem, response, predicted_answer(response))])  # -> [True]
        grader.grade([("1 1/2", ("3/2",))])  # -> [True]; without a problem, not with a judge

A grader is a module here, whose class is its `GRADER`, and a line in `names.GRADERS`.
"""

import importlib
from pathlib import Path
from typing import Any

from cord_jax import names
from cord_jax.errors import UserError
from cord_jax.grading.extraction import predicted_answer as predicted_answer
from cord_jax.grading.grader import Grader as Grader
from cord_jax.grading.grader import Submission as Submission
from cord_jax.grading.grader import TextGrader as TextGrader


def check_judge(checkpoint: str | Path | None) -> None:
    """Checks a judge, if there is one, by its configuration and vocabulary alone, before anything else is loaded.

    Raises: `UserError` or `models.CheckpointError` if it cannot judge.
    """
    if checkpoint is not None:
        importlib.import_module(f"{__name__}.judge").read_judge(checkpoint)


def grader_options(judge: str | Path | None, mesh: Any) -> dict[str, Any]:
    """The options of `open_grader` for a job on a mesh."""
    return {} if judge is None else {"checkpoint": judge, "mesh": mesh}


def open_grader(name: str, **options: Any) -> Grader:
    """The grader of a name, to be used as a context manager.

    Args:
      options: of its class: none for most, `checkpoint` and `mesh` for `judge`.

    Raises: `UserError` if there is none of that name or it cannot work here.
    """
    if name not in names.GRADERS:
        raise UserError(
            f"--grader={name}: there is none of that name; give one of {', '.join(names.GRADERS)}"
        )
    return importlib.import_module(f"{__name__}.{name}").GRADER(**options)
