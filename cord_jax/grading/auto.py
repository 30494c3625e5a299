"""The grader `auto`: words, choices, numbers with units and mathematics, each in their own way (`agreement`)."""

import importlib.util
from collections.abc import Sequence

from cord_jax.errors import UserError
from cord_jax.grading.agreement import same, verbatim
from cord_jax.grading.grader import TextGrader
from cord_jax.grading.workers import Workers

# A longer answer is compared in a worker, which has a deadline.
_LONGEST_HERE = 300
_REMEMBERED = 100_000


class _NeedsMathematics(Exception):
    """Formulas are left to compare."""


class AutoGrader(TextGrader):
    """Decides at once where it can; formulas go to math-verify in worker processes (`workers.Workers`).

    Verdicts are remembered: the samples of a problem tend to give the same answers.
    """

    def __init__(self, *, workers: int | None = None, deadline_seconds: float = 10.0):
        """Starts no worker yet.

        Args:
          workers: number of processes; None means up to four, as there are cores.
          deadline_seconds: for one pair, all its forms together; a later one counts as wrong.

        Raises:
          UserError: math-verify is not installed.
        """
        if importlib.util.find_spec("math_verify") is None:
            raise UserError(
                'math-verify is not installed; install "math-verify[antlr4-13-2]" or use --grader=exact'
            )
        self._workers = Workers(workers, deadline_seconds)
        self._verdicts: dict[tuple[str, tuple[str, ...]], bool] = {}

    def grade(self, pairs: Sequence[tuple[str | None, tuple[str, ...]]]) -> list[bool]:
        """Whether each prediction agrees with one of the accepted forms beside it."""
        if len(self._verdicts) > _REMEMBERED:
            self._verdicts.clear()
        asked = dict.fromkeys(
            (predicted, tuple(forms)) for predicted, forms in pairs if predicted is not None
        )
        undecided = []
        for pair in asked:
            if pair not in self._verdicts:
                verdict = _decide_here(*pair)
                if verdict is None:
                    undecided.append(pair)
                else:
                    self._verdicts[pair] = verdict
        self._verdicts.update(zip(undecided, self._workers.compare(undecided), strict=True))
        return [
            predicted is not None and self._verdicts[predicted, tuple(forms)] for predicted, forms in pairs
        ]

    def close(self) -> None:
        """Ends the worker processes."""
        self._workers.close()


GRADER = AutoGrader


def _decide_here(predicted: str, forms: tuple[str, ...]) -> bool | None:
    """The verdict, if it takes neither mathematics nor long texts."""
    if verbatim(predicted) in map(verbatim, forms):
        return True
    if max(map(len, (predicted, *forms))) > _LONGEST_HERE:
        return None
    undecided = False
    for form in forms:
        try:
            if same(predicted, form, _ask):
                return True
        except _NeedsMathematics:
            undecided = True
    return None if undecided else False


def _ask(predicted: str, form: str, places: int | None) -> bool:
    raise _NeedsMathematics
