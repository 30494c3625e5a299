"""Problems as the search takes them: prompts in every reader's tokens, closings in the meta-prover's."""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence

import numpy as np

from cord_jax.engine.plan import ProblemSizes
from cord_jax.engine.teachers import Teachers
from cord_jax.problems import Problem
from cord_jax.search.closings import Closings
from cord_jax.search.insertion import Insertion
from cord_jax.text.prompts import encode_prompts
from cord_jax.text.reward_text import RewardText


class EncodedProblems:
    """The encoded problems of a run; arrays of the host.

    Attributes:
      sizes: what they need room for.
    """

    def __init__(
        self,
        teachers: Teachers,
        problems: Sequence[Problem],
        closing: str,
        reviewed: bool,
        decoys: Sequence[Sequence[str]],
        draws: str = "",
    ):
        """Encodes all problems.

        Args:
          closing: text between the reasoning and an answer.
          reviewed: whether the right answers are scored after the winners' reasoning.
          decoys: wrong answers that are, of each problem.
          draws: as in `SearchSettings`.

        Raises: `UserError` if an answer cannot be scored or a chat template fails.
        """
        digests = [problem_digest(problem.id + draws) for problem in problems]
        prompts = [
            encode_prompts(reader.vocabulary, reader.prompt, problems, reader.more)
            for reader in teachers.readers
        ]
        if teachers.reward is not None:
            reads = teachers.readers[teachers.reward]
            prompts[teachers.reward] = RewardText(reads.vocabulary).encode_prompts(
                reads.prompt.system_prompt, problems
            )
        self._prompts = EncodedPrompts(prompts, digests)
        encode = functools.partial(teachers.readers[teachers.meta].vocabulary.encode_with_answer, closing)
        self._closings = _Closings([[encode(form) for form in problem.forms] for problem in problems])
        self._reviewed = None
        if reviewed:
            of_decoys = [[encode(answer) for answer in answers] for answers in decoys]
            self._reviewed = _Closings(
                [of_one + more for of_one, more in zip(self._closings.forms, of_decoys, strict=True)]
            )
        self.sizes = ProblemSizes(
            self._prompts.width, *self._closings.sizes, prompt_widths=self._prompts.widths
        )
        if self._reviewed is not None:
            width, scored_width, forms = self._reviewed.sizes
            self.sizes = dataclasses.replace(
                self.sizes, review_width=width, review_scored_width=scored_width, review_forms=forms
            )

    def closing_tokens(self, problem: int) -> int:
        """Tokens of all closings of a problem."""
        return sum(len(ids) for ids, _ in self._closings.forms[problem])

    def insertion(self, slot_r, problem_r, replayed_r) -> Insertion:
        """The problems of a sub-batch, -1 for none, for `insertion.insert`; `replayed_r` as in `Insertion`."""
        insertion = self._prompts.insertion(slot_r, problem_r, replayed_r)
        reviewed = None if self._reviewed is None else self._reviewed.of(problem_r)
        return dataclasses.replace(insertion, closings=self._closings.of(problem_r), reviewed=reviewed)


class _Closings:
    """The closings of all problems, one for each form of the answer.

    Attributes:
      forms: for each problem, for each form, the ids of the closing and which of them are scored.
      sizes: most tokens of all closings of a problem, most scored tokens among them, most forms.
    """

    def __init__(self, forms: list[list[tuple[list[int], list[bool]]]]):
        self.forms = forms
        self.sizes = (
            max(1, max(sum(len(ids) for ids, _ in of_one) for of_one in forms)),
            max(1, max(sum(sum(scored) for _, scored in of_one) for of_one in forms)),
            max(1, max(map(len, forms))),
        )

    def of(self, problem_r) -> Closings:
        """Those of the problems of a sub-batch, -1 for none."""
        rows, (width, scored_width, _) = len(problem_r), self.sizes
        closings = Closings(
            token_na=np.zeros((rows, width), np.int32),
            form_na=np.zeros((rows, width), np.int32),
            offset_na=np.zeros((rows, width), np.int32),
            length_n=np.zeros(rows, np.int32),
            scored_nz=np.zeros((rows, scored_width), np.int32),
            scored_form_nz=np.zeros((rows, scored_width), np.int32),
        )
        for row in np.flatnonzero(problem_r >= 0):
            _lay_out(closings, row, self.forms[int(problem_r[row])])
        return closings


class EncodedPrompts:
    """The prompts of a run in every reader's tokens; arrays of the host.

    Attributes:
      widths: most tokens of one, of each reader; width: of any.
    """

    def __init__(self, prompts: Sequence[Sequence[Sequence[int]]], digests: Sequence[np.ndarray]):
        """Args: prompts: token ids, by reader and problem; digests: `problem_digest` of each problem."""
        self._prompts, self._digests = prompts, digests
        self.widths = tuple(max(map(len, of_reader)) for of_reader in prompts)
        self.width = max(self.widths)

    def insertion(self, slot_r, problem_r, replayed_r) -> Insertion:
        """The prompts of a sub-batch, -1 for none."""
        rows = len(slot_r)
        prompt_rt = [np.zeros((rows, self.width), np.int32) for _ in self._prompts]
        prompt_length_r = [np.zeros(rows, np.int32) for _ in self._prompts]
        digest_r2 = np.zeros((rows, 2), np.uint32)
        for row in np.flatnonzero(problem_r >= 0):
            problem = int(problem_r[row])
            digest_r2[row] = self._digests[problem]
            for tokens_rt, length_r, prompts in zip(prompt_rt, prompt_length_r, self._prompts):
                tokens_rt[row, : len(prompts[problem])] = prompts[problem]
                length_r[row] = len(prompts[problem])
        return Insertion(
            slot_r=slot_r,
            valid_r=problem_r >= 0,
            problem_r=problem_r,
            digest_r2=digest_r2,
            prompt_rt=tuple(prompt_rt),
            prompt_length_r=tuple(prompt_length_r),
            replayed_r=replayed_r,
        )


def problem_digest(name: str) -> np.ndarray:
    """64 bits of a hash of a problem's id, uint32 [2]: what its random draws depend on."""
    return np.frombuffer(hashlib.blake2b(name.encode(), digest_size=8).digest(), "<u4")


def _lay_out(closings: Closings, row: int, forms) -> None:
    """Writes a problem's closings into a row of the arrays, one form behind another."""
    start = scored_at = 0
    for number, (ids, scored) in enumerate(forms, start=1):
        span = slice(start, start + len(ids))
        closings.token_na[row, span] = ids
        closings.form_na[row, span] = number
        closings.offset_na[row, span] = np.arange(len(ids))
        places = start + np.flatnonzero(scored)
        closings.scored_nz[row, scored_at : scored_at + len(places)] = places
        closings.scored_form_nz[row, scored_at : scored_at + len(places)] = number
        start, scored_at = span.stop, scored_at + len(places)
    closings.length_n[row] = start
