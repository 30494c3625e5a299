"""The grader `exact`: equality of text."""

from collections.abc import Sequence

from cord_jax.grading.agreement import verbatim
from cord_jax.grading.grader import TextGrader


class ExactGrader(TextGrader):
    """An answer is right if it is an accepted form, after NFC normalisation and without white space around it."""

    def grade(self, pairs: Sequence[tuple[str | None, tuple[str, ...]]]) -> list[bool]:
        """Whether each prediction is one of the accepted forms beside it."""
        return [
            predicted is not None and verbatim(predicted) in map(verbatim, forms)
            for predicted, forms in pairs
        ]


GRADER = ExactGrader
