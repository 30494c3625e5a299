"""Problems that overlap with those that models are tested on.

A question is its words: letters and digits, in lower case after NFKC, a Chinese character or a kana being a word of its
own. Two questions overlap if their words are the same, or if 13 words in a row of the one stand in the other (Brown et
al. 2020, appendix C, count so). A context belongs to its question.
"""

import dataclasses
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

from cord_jax.problems import Problem

LENGTH = 13
_WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+"
)


@dataclasses.dataclass(frozen=True)
class Overlap:
    """A reason to leave a problem out.

    Attributes:
      problem: its id.
      reason: `question` if the whole question is the same, else `13-gram`.
      file, other: name of the file and id of the problem in it that it overlaps with.
      words: the words that both have.
    """

    problem: str
    reason: str
    file: str
    other: str
    words: str


class Questions:
    """The questions of problem files, to be looked up."""

    def __init__(self, files: Iterable[tuple[str, Sequence[Problem]]]):
        """Args: files: name and problems of each."""
        self._whole: dict[tuple[str, ...], tuple[str, str]] = {}
        self._parts: dict[tuple[str, ...], tuple[str, str]] = {}
        for name, problems in files:
            for problem in problems:
                words = words_of(problem.question, problem.context)
                self._whole.setdefault(words, (name, problem.id))
                for part in _parts(words):
                    self._parts.setdefault(part, (name, problem.id))

    def overlap(self, problem: str, question: str, context: str | None) -> Overlap | None:
        """The first overlap of a problem; None if there is none."""
        words = words_of(question, context)
        if words in self._whole:
            return Overlap(problem, "question", *self._whole[words], " ".join(words))
        for part in _parts(words):
            if part in self._parts:
                return Overlap(problem, f"{LENGTH}-gram", *self._parts[part], " ".join(part))
        return None


def words_of(question: str, context: str | None = None) -> tuple[str, ...]:
    """The words of a question, after those of its context."""
    text = f"{context}\n{question}" if context else question
    return tuple(_WORD.findall(unicodedata.normalize("NFKC", text).lower()))


def _parts(words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    return (words[i : i + LENGTH] for i in range(len(words) - LENGTH + 1))
