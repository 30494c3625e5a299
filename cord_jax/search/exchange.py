"""The exchange of steps between vocabularies: text is the teachers' shared currency (design, sections 3.1,
3.4-3.6).

Once a round the device hands over the sampled ids of finished proposals and gets back, for every vocabulary,
the ids of their canonical steps. Everything here runs on the host: it must not call jax, and what it returns
has fixed shapes.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from cord_jax.filters import Filter, drop_reasons
from cord_jax.search.readers import BOUNDARY, EOS, LIMIT
from cord_jax.search.round_record import ABSENT, CONCLUDING, DROPPED, ENDED, VALID, ReadStep, SettledStep
from cord_jax.text import segmentation
from cord_jax.text.vocabulary import Vocabulary

_CONCLUDED = np.array([name in CONCLUDING for name in ENDED])
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


class Exchange:
    """Turns finished proposals into canonical steps in all vocabularies.

    Attributes:
      texts: canonical steps by (problem number, step), a list of `ReadStep | None` in the order j = beam *
        proposers + proposer. A repeated call writes the same again, so a callback that runs twice does no
        harm.
      origins: for each beam, by the same keys, the candidate that it ended in before that step, int32, `step index
        * J + j`, -1 at the start.
      settled: what an earlier run has settled, by the same keys; it is given instead of what proposals say.
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
        filters: Mapping[str, Filter] = {},
    ):
        self.vocabularies = vocabularies
        self.readers = readers
        self.meta_vocabulary = meta_vocabulary
        self.num_beams = num_beams
        self.num_proposers = sum(len(reader.proposers) for reader in readers)
        self.segmentation = segmentation_name
        self.max_step_tokens = max_step_tokens
        self.max_thinking_tokens = max_thinking_tokens
        self.filters = filters
        self.texts: dict[tuple[int, int], list[ReadStep | None]] = {}
        self.origins: dict[tuple[int, int], np.ndarray] = {}
        self.settled: dict[tuple[int, int], SettledStep] = {}

    def __call__(self, width, problem_r, step_r, valid_r, open_rb, thinking_rb, origin_rb, proposals):
        """Reads the proposals of a sub-batch.

        Args:
          width: capacity of a canonical step in tokens.
          problem_r, step_r, valid_r: the rows' problems and step numbers (from 1), and which rows count.
          open_rb: beams that proposed.
          thinking_rb: meta-prover's tokens of each beam's reasoning.
          origin_rb: the candidate that each beam ends in, as in `SearchState`.
          proposals: for each reader `(token_rqt, count_rq, stopped_rq)`.

        Returns:
          A dict of the fields of `settling.Candidates`, and `longest` int32, tokens of the longest step. If it
          exceeds `width`, the call must be made again with more.
        """
        problem_r, step_r, valid_r, open_rb, thinking_rb, origin_rb = map(
            np.asarray, (problem_r, step_r, valid_r, open_rb, thinking_rb, origin_rb)
        )
        proposals = [tuple(map(np.asarray, proposal)) for proposal in proposals]
        rows, candidates = len(problem_r), self.num_beams * self.num_proposers
        arrays = {
            "token_urjt": np.zeros((len(self.vocabularies), rows, candidates, width), np.int32),
            "length_urj": np.zeros((len(self.vocabularies), rows, candidates), np.int32),
            "ended_rj": np.zeros((rows, candidates), np.int8),
            "dropped_rj": np.full((rows, candidates), ABSENT, np.int8),
            "sampled_rj": np.zeros((rows, candidates), np.int32),
            "replayed_r": np.zeros(rows, bool),
            "score_rj": np.full((rows, candidates), -np.inf, np.float32),
        }
        for row in np.flatnonzero(valid_r):
            place = int(problem_r[row]), int(step_r[row])
            self.origins[place] = origin_rb[row]
            settled = self.settled.get(place)
            if settled is None:
                encoded = self._read_row(arrays, proposals, row, place, open_rb[row], thinking_rb[row])
            else:
                encoded = self._read_again(arrays, row, place, settled)
            for u, by_candidate in enumerate(encoded):
                for j, ids in by_candidate.items():
                    arrays["length_urj"][u, row, j] = len(ids)
                    arrays["token_urjt"][u, row, j, : len(ids)] = ids[:width]
        arrays["concluded_rj"] = _CONCLUDED[arrays["ended_rj"]]
        arrays["longest"] = arrays["length_urj"].max()
        return arrays

    def _encode(self, texts: dict[int, str]) -> list[dict[int, list[int]]]:
        """The texts of candidates in every vocabulary."""
        return [
            dict(zip(texts, vocabulary.encode_batch(list(texts.values()))))
            for vocabulary in self.vocabularies
        ]

    def _read_row(self, arrays, proposals, row, place, open_b, thinking_b):
        """Reads the proposals of a problem into the arrays; returns the steps in every vocabulary."""
        steps = self._steps(proposals, row, place[1], open_b, thinking_b)
        encoded = self._encode({j: step.text for j, step in enumerate(steps) if step is not None})
        self._mark(steps, {j: len(ids) for j, ids in encoded[self.meta_vocabulary].items()}, thinking_b)
        self._filter(steps, place)
        record: list[ReadStep | None] = [None] * len(steps)
        for j in encoded[0]:
            step = steps[j]
            arrays["ended_rj"][row, j] = ENDED.index(step.ended)
            arrays["dropped_rj"][row, j] = VALID if step.dropped is None else DROPPED
            own_tokens = len(encoded[self._writer_vocabulary(j)][j])
            record[j] = ReadStep(step.text, own_tokens, step.dropped)
        for reader, (_, count_rq, _) in zip(self.readers, proposals):
            for q in range(count_rq.shape[1]):
                arrays["sampled_rj"][row, self._candidate(reader, q)] = count_rq[row, q]
        self.texts[place] = record
        return encoded

    def _read_again(self, arrays, row, place, settled: SettledStep):
        """Writes what was settled before into the arrays; returns the steps in every vocabulary."""
        arrays["ended_rj"][row], arrays["dropped_rj"][row] = settled.ended_j, settled.dropped_j
        arrays["sampled_rj"][row], arrays["score_rj"][row] = settled.sampled_j, settled.score_j
        arrays["replayed_r"][row] = True
        self.texts[place] = list(settled.texts)
        return self._encode({j: step.text for j, step in enumerate(settled.texts) if step is not None})

    def _candidate(self, reader: ReaderText, q: int) -> int:
        """The candidate j that a reader's row q writes."""
        beam, place = divmod(q, len(reader.proposers))
        return beam * self.num_proposers + reader.proposers[place]

    def _writer_vocabulary(self, j: int) -> int:
        proposer = j % self.num_proposers
        return next(reader.vocabulary for reader in self.readers if proposer in reader.proposers)

    def _steps(self, proposals, row, step, open_b, thinking_b):
        """The proposals of one problem as text, in the order of candidates; None where the beam was not open."""
        read: list[segmentation.Proposal | None] = [None] * (self.num_beams * self.num_proposers)
        for reader, (token_rqt, count_rq, stopped_rq) in zip(self.readers, proposals):
            vocabulary = self.vocabularies[reader.vocabulary]
            for q in range(count_rq.shape[1]):
                j = self._candidate(reader, q)
                beam = j // self.num_proposers
                if not open_b[beam]:
                    continue
                ids = token_rqt[row, q, : count_rq[row, q]].tolist()
                stopped = _STOPPED[int(stopped_rq[row, q])]
                if stopped == "eos":
                    ids = ids[:-1]
                remaining = self.max_thinking_tokens - int(thinking_b[beam])
                read[j] = segmentation.read_proposal(
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

    def _filter(self, steps, place):
        """Marks, in place, what the filters drop of those that are still valid."""
        if not self.filters:
            return
        beams = [range(j, j + self.num_proposers) for j in range(0, len(steps), self.num_proposers)]
        groups = [range(len(steps))] if self.segmentation == "whole" else beams
        for group in groups:
            valid = [j for j in group if steps[j] is not None and steps[j].dropped is None]
            bodies = [segmentation.body(self.segmentation, place[1], steps[j].text) for j in valid]
            earlier = [self._earlier(place, j // self.num_proposers) for j in valid]
            for j, reason in zip(valid, drop_reasons(self.filters, list(zip(bodies, earlier)))):
                steps[j] = dataclasses.replace(steps[j], dropped=reason)

    def _earlier(self, place, beam: int) -> list[str]:
        """The steps of a beam so far, without their headings."""
        problem, step = place
        bodies = []
        while (origin := int(self.origins[problem, step][beam])) >= 0:
            index, j = divmod(origin, self.num_beams * self.num_proposers)
            beam, step = j // self.num_proposers, index + 1
            bodies.append(segmentation.body(self.segmentation, step, self.texts[problem, step][j].text))
        return bodies[::-1]

    def take(self, problem: int, steps: int) -> list[list[ReadStep | None]]:
        """The texts of a finished problem, for each step; they are forgotten here."""
        places = [(problem, step) for step in range(1, steps + 1)]
        for place in places:
            self.origins.pop(place, None)
            self.settled.pop(place, None)
        return [self.texts.pop(place, []) for place in places]
