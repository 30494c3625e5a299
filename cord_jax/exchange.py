"""The exchange of steps between vocabularies: text is the teachers' shared currency (design, sections 3.1,
3.4-3.6).

Once a round the device hands over the sampled ids of finished proposals and gets back, for every vocabulary,
the ids of their canonical steps. Everything here runs on the host: it must not call jax, and what it returns
has fixed shapes.
"""

import dataclasses

import numpy as np

from cord_jax import segmentation
from cord_jax.readers import BOUNDARY, EOS, LIMIT
from cord_jax.vocabulary import Vocabulary

ENDED = ("marker", "think_end", "eos", "cap", "budget")
CONCLUDING = ("think_end", "eos", "budget")
DROPPED = (None, "empty", "invalid_utf8", "duplicate")
_CONCLUDED = np.array([name in CONCLUDING for name in ENDED])
ABSENT = -1  # in place of a reason: the beam was not open, so there is no candidate
_STOPPED = {EOS: "eos", BOUNDARY: "boundary", LIMIT: "limit"}


@dataclasses.dataclass(frozen=True)
class ReaderText:
    """What the exchange needs to know of one proposing reader.

    Attributes:
      vocabulary: index of its vocabulary.
      proposers: the proposers that write through it.
    """

    vocabulary: int
    proposers: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class ReadStep:
    """A candidate as text: its canonical step, and the number of its tokens in its writer's vocabulary."""

    text: str
    own_tokens: int


class Exchange:
    """Turns finished proposals into canonical steps in all vocabularies.

    Attributes:
      texts: canonical steps by (problem number, step), a list of `ReadStep | None` in the order j = beam *
        proposers + proposer. A repeated call writes the same again, so a callback that runs twice does no
        harm.
    """

    def __init__(
        self,
        vocabularies: list[Vocabulary],
        readers: list[ReaderText],
        *,
        meta_vocabulary: int,
        num_beams: int,
        segmentation_name: str,
        max_step_tokens: int,
        max_thinking_tokens: int,
    ):
        self.vocabularies = vocabularies
        self.readers = readers
        self.meta_vocabulary = meta_vocabulary
        self.num_beams = num_beams
        self.num_proposers = sum(len(reader.proposers) for reader in readers)
        self.segmentation = segmentation_name
        self.max_step_tokens = max_step_tokens
        self.max_thinking_tokens = max_thinking_tokens
        self.texts: dict[tuple[int, int], list[ReadStep | None]] = {}

    def __call__(self, width, problem_r, step_r, valid_r, open_rb, thinking_rb, proposals):
        """Reads the proposals of a sub-batch.

        Args:
          width: capacity of a canonical step in tokens.
          problem_r, step_r, valid_r: the rows' problems and step numbers (from 1), and which rows count.
          open_rb: beams that proposed.
          thinking_rb: meta-prover's tokens of each beam's reasoning.
          proposals: for each reader `(token_rqt, count_rq, stopped_rq)`.

        Returns:
          A dict: `token_urjt` and `length_urj` int32 by vocabulary u; `ended_rj` and `dropped_rj` int8,
          indices into `ENDED` and `DROPPED` (`ABSENT` where there is no candidate); `concluded_rj` bool; and
          `longest` int32, tokens of the longest step. If it exceeds `width`, the call must be made again
          with more.
        """
        problem_r, step_r, valid_r, open_rb, thinking_rb = map(
            np.asarray, (problem_r, step_r, valid_r, open_rb, thinking_rb)
        )
        proposals = [tuple(map(np.asarray, proposal)) for proposal in proposals]
        rows, candidates = len(problem_r), self.num_beams * self.num_proposers
        token_urjt = np.zeros((len(self.vocabularies), rows, candidates, width), np.int32)
        length_urj = np.zeros((len(self.vocabularies), rows, candidates), np.int32)
        ended_rj = np.zeros((rows, candidates), np.int8)
        dropped_rj = np.full((rows, candidates), ABSENT, np.int8)
        for row in np.flatnonzero(valid_r):
            steps = self._read_row(proposals, row, int(step_r[row]), open_rb[row], thinking_rb[row])
            present = [j for j, step in enumerate(steps) if step is not None]
            encoded = [
                vocabulary.encode_batch([steps[j].text for j in present]) for vocabulary in self.vocabularies
            ]
            thinking = {j: len(ids) for j, ids in zip(present, encoded[self.meta_vocabulary])}
            self._mark(steps, thinking, thinking_rb[row])
            record: list[ReadStep | None] = [None] * candidates
            for place, j in enumerate(present):
                step = steps[j]
                ended_rj[row, j] = ENDED.index(step.ended)
                dropped_rj[row, j] = DROPPED.index(step.dropped)
                record[j] = ReadStep(step.text, len(encoded[self._writer_vocabulary(j)][place]))
            for u, ids in enumerate(encoded):
                _lay_out(token_urjt[u, row], length_urj[u, row], present, ids)
            self.texts[int(problem_r[row]), int(step_r[row])] = record
        return {
            "token_urjt": token_urjt,
            "length_urj": length_urj,
            "ended_rj": ended_rj,
            "dropped_rj": dropped_rj,
            "concluded_rj": _CONCLUDED[ended_rj],
            "longest": length_urj.max(),
        }

    def encode_again(self, width, step, problem_r, settled_r):
        """The arrays of steps that were settled before, for a replay.

        Args:
          width: capacity of a canonical step in tokens.
          step: their number, from 1.
          problem_r: the rows' problems.
          settled_r: for each row a `journal.SettledStep`, or None.

        Returns:
          `(candidates, score_rj, longest)`: the fields of `settling.Candidates`, float32 scores, and the
          tokens of the longest step; if it exceeds `width`, the call must be made again with more.
        """
        rows, candidates = len(problem_r), self.num_beams * self.num_proposers
        token_urjt = np.zeros((len(self.vocabularies), rows, candidates, width), np.int32)
        length_urj = np.zeros((len(self.vocabularies), rows, candidates), np.int32)
        score_rj = np.full((rows, candidates), -np.inf, np.float32)
        ended_rj, sampled_rj = np.zeros((rows, candidates), np.int8), np.zeros((rows, candidates), np.int32)
        dropped_rj = np.full((rows, candidates), ABSENT, np.int8)
        for row, settled in enumerate(settled_r):
            if settled is None:
                continue
            present = [j for j, text in enumerate(settled.texts) if text is not None]
            texts = [settled.texts[j].text for j in present]
            for u, vocabulary in enumerate(self.vocabularies):
                _lay_out(token_urjt[u, row], length_urj[u, row], present, vocabulary.encode_batch(texts))
            score_rj[row], ended_rj[row] = settled.score_j, settled.ended_j
            dropped_rj[row], sampled_rj[row] = settled.dropped_j, settled.sampled_j
            self.texts[int(problem_r[row]), step] = list(settled.texts)
        arrays = {
            "token_urjt": token_urjt,
            "length_urj": length_urj,
            "ended_rj": ended_rj,
            "dropped_rj": dropped_rj,
            "concluded_rj": _CONCLUDED[ended_rj],
            "sampled_rj": sampled_rj,
        }
        return arrays, score_rj, int(length_urj.max())

    def _writer_vocabulary(self, j: int) -> int:
        proposer = j % self.num_proposers
        return next(reader.vocabulary for reader in self.readers if proposer in reader.proposers)

    def _read_row(self, proposals, row, step, open_b, thinking_b):
        """The proposals of one problem as text, in the order of candidates; None where the beam was not open.
        """
        read: list[segmentation.Proposal | None] = [None] * (self.num_beams * self.num_proposers)
        for reader, (token_rqt, count_rq, stopped_rq) in zip(self.readers, proposals):
            vocabulary = self.vocabularies[reader.vocabulary]
            for q in range(count_rq.shape[1]):
                beam, place = divmod(q, len(reader.proposers))
                if not open_b[beam]:
                    continue
                ids = token_rqt[row, q, : count_rq[row, q]].tolist()
                stopped = _STOPPED[int(stopped_rq[row, q])]
                if stopped == "eos":
                    ids = ids[:-1]
                remaining = self.max_thinking_tokens - int(thinking_b[beam])
                read[beam * self.num_proposers + reader.proposers[place]] = segmentation.read_proposal(
                    self.segmentation,
                    step,
                    vocabulary.join(ids),
                    stopped,
                    remaining <= self.max_step_tokens,
                    step > 1,
                )
        return read

    def _mark(self, steps, thinking, thinking_b):
        """Marks, in place, the candidates that use up the thinking budget, and then the duplicates."""
        for j, tokens in thinking.items():
            step = steps[j]
            used = int(thinking_b[j // self.num_proposers]) + tokens
            if step.dropped is None and step.ended not in CONCLUDING and used >= self.max_thinking_tokens:
                steps[j] = dataclasses.replace(step, ended="budget", complete=True)
        for beam in range(self.num_beams):
            seen = set()
            for j in range(beam * self.num_proposers, (beam + 1) * self.num_proposers):
                if steps[j] is None or steps[j].dropped is not None:
                    continue
                key = steps[j].text, steps[j].complete
                if key in seen:
                    steps[j] = dataclasses.replace(steps[j], dropped="duplicate")
                seen.add(key)


def _lay_out(token_jt, length_j, present, encoded) -> None:
    """Writes the ids of the present candidates into the arrays of one problem, in place, cut to their
    capacity.
    """
    for j, ids in zip(present, encoded):
        length_j[j] = len(ids)
        token_jt[j, : len(ids)] = ids[: token_jt.shape[1]]
