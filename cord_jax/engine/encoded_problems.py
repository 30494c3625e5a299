"""Problems as the search takes them: prompts in every reader's tokens, closings in the meta-prover's."""

import hashlib
from collections.abc import Sequence

import numpy as np

from cord_jax.engine.plan import ProblemSizes
from cord_jax.engine.teachers import Teachers
from cord_jax.problems import Problem
from cord_jax.search.closings import Closings
from cord_jax.search.insertion import Insertion
from cord_jax.text.prompts import encode_prompts


class EncodedProblems:
    """The encoded problems of a run; arrays of the host.

    Attributes:
      sizes: what they need room for.
    """

    def __init__(self, teachers: Teachers, problems: Sequence[Problem], closing: str):
        """Encodes all problems.

        Raises: `UserError` if an answer cannot be scored or a chat template fails.
        """
        digests = [problem_digest(problem.id) for problem in problems]
        prompts = [encode_prompts(reader.vocabulary, reader.prompt, problems) for reader in teachers.readers]
        self._prompts = EncodedPrompts(prompts, digests)
        meta_prover = teachers.readers[teachers.meta].vocabulary
        self._closings = [
            [meta_prover.encode_with_answer(closing, form) for form in problem.forms] for problem in problems
        ]
        self.sizes = ProblemSizes(
            prompt_width=self._prompts.width,
            closing_width=max(sum(len(ids) for ids, _ in forms) for forms in self._closings),
            scored_width=max(sum(map(sum, (scored for _, scored in forms))) for forms in self._closings),
            num_forms=max(map(len, self._closings)),
        )

    def closing_tokens(self, problem: int) -> int:
        """Tokens of all closings of a problem."""
        return sum(len(ids) for ids, _ in self._closings[problem])

    def insertion(self, slot_r, problem_r, replayed_r) -> Insertion:
        """The problems of a sub-batch, -1 for none, for `insertion.insert`; `replayed_r` as in `Insertion`."""
        rows, sizes = len(slot_r), self.sizes
        closings = Closings(
            token_na=np.zeros((rows, sizes.closing_width), np.int32),
            form_na=np.zeros((rows, sizes.closing_width), np.int32),
            offset_na=np.zeros((rows, sizes.closing_width), np.int32),
            length_n=np.zeros(rows, np.int32),
            scored_nz=np.zeros((rows, sizes.scored_width), np.int32),
            scored_form_nz=np.zeros((rows, sizes.scored_width), np.int32),
        )
        for row in np.flatnonzero(problem_r >= 0):
            _lay_out_closings(closings, row, self._closings[int(problem_r[row])])
        return self._prompts.insertion(slot_r, problem_r, replayed_r, closings)


class EncodedPrompts:
    """The prompts of a run in every reader's tokens; arrays of the host.

    Attributes:
      width: most tokens of one, of any reader.
    """

    def __init__(self, prompts: Sequence[Sequence[Sequence[int]]], digests: Sequence[np.ndarray]):
        """Args: prompts: token ids, by reader and problem; digests: `problem_digest` of each problem."""
        self._prompts, self._digests = prompts, digests
        self.width = max(len(ids) for of_reader in prompts for ids in of_reader)

    def insertion(self, slot_r, problem_r, replayed_r, closings: Closings | None = None) -> Insertion:
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
            closings=closings,
        )


def problem_digest(name: str) -> np.ndarray:
    """64 bits of a hash of a problem's id, uint32 [2]: what its random draws depend on."""
    return np.frombuffer(hashlib.blake2b(name.encode(), digest_size=8).digest(), "<u4")


def _lay_out_closings(closings: Closings, row: int, forms) -> None:
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
