"""The interface of every grader."""

import abc
import dataclasses
from collections.abc import Sequence
from typing import Self

from cord_jax.problems import Problem


@dataclasses.dataclass(frozen=True)
class Submission:
    """The thing that is graded: a response to a problem, and the answer that it states, None if it states none."""

    problem: Problem
    response: str
    predicted: str | None


class Grader(abc.ABC):
    """Says whether responses are right. A context manager: what it holds is given back at the end.

    Attributes:
      needs_devices: whether it computes with jax, and so cannot be asked from within a program.
    """

    needs_devices = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *unused) -> None:
        self.close()

    @abc.abstractmethod
    def grade_responses(self, submissions: Sequence[Submission]) -> list[bool]:
        """Whether each response is right; one that states no answer never is."""

    def close(self) -> None:  # noqa: B027, most hold nothing
        """Gives back what the grader holds."""


class TextGrader(Grader):
    """A grader that needs to see no more than the predicted answer and the accepted forms."""

    @abc.abstractmethod
    def grade(self, pairs: Sequence[tuple[str | None, tuple[str, ...]]]) -> list[bool]:
        """Whether each prediction agrees with one of the accepted forms beside it; None is never right."""

    def grade_responses(self, submissions: Sequence[Submission]) -> list[bool]:
        """As `grade`, of what the responses state."""
        return self.grade([(submission.predicted, submission.problem.forms) for submission in submissions])
