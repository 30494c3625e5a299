"""Problems that overlap with those that models are tested on.

A question is its words: letters and digits, in lower case after NFKC, a Chinese character or a kana being a word of its
own. Two questions overlap if their words are the same, or if 13 words in a row of the one stand in the other (Brown et
al. 2020, appendix C, count so). A context belongs to its question.
"""

import dataclasses
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from cord_jax.problems import Problem

Words = tuple[str, ...]
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
      file, other: name of the file and id of the problem in it that it overlaps with. What both have in common is not
        told: a list of it, published, would hold the questions of tests.
    """

    problem: str
    reason: str
    file: str
    other: str


class Questions:
    """The questions of problem files, to be looked up."""

    def __init__(self, files: Iterable[tuple[str, Sequence[Problem]]]):
        """Args: files: name and problems of each."""
        self._whole: dict[Words, tuple[str, str]] = {}
        self._parts: dict[Words, tuple[str, str]] = {}
        for name, problems in files:
            for problem in problems:
                words = words_of(problem.question, problem.context)
                self._whole.setdefault(words, (name, problem.id))
                for part in _parts(words):
                    self._parts.setdefault(part, (name, problem.id))

    def overlaps(
        self, problems: Iterable[tuple[str, Words]], common: int = 0
    ) -> tuple[dict[str, Overlap], int]:
        """The first overlap of every problem that has one, by its id.

        Args:
          problems: id and words of each.
          common: 13 words in a row that stand in more problems than this are a turn of phrase, and no overlap; 0: none are.

        Returns: also in how many problems those 13 words of the files stand that stand in most.
        """
        found, shared, counts = {}, {}, Counter[Words]()
        for problem, words in problems:
            if words and words in self._whole:  # signs alone say nothing
                found[problem] = Overlap(problem, "question", *self._whole[words])
                continue
            parts = list(dict.fromkeys(part for part in _parts(words) if part in self._parts))
            counts.update(parts)
            if parts:
                shared[problem] = parts
        for problem, parts in shared.items():
            telling = [part for part in parts if not common or counts[part] <= common]
            if telling:
                found[problem] = Overlap(problem, f"{LENGTH}-gram", *self._parts[telling[0]])
        return found, max(counts.values(), default=0)


def words_of(question: str, context: str | None = None) -> Words:
    """The words of a question, after those of its context."""
    text = f"{context}\n{question}" if context else question
    return tuple(_WORD.findall(unicodedata.normalize("NFKC", text).lower()))


def _parts(words: Words) -> Iterator[Words]:
    return (words[i : i + LENGTH] for i in range(len(words) - LENGTH + 1))
