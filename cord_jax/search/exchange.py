"""The exchange of steps between vocabularies: text is the teachers' shared currency (method, sections 3.1, 3.4 to 3.6
and 3.16).

Once a round the device hands over the sampled ids of finished proposals and gets back, for every vocabulary, the ids of
their canonical steps. `exchange_steps` is the device's side. `Exchange` is the host's: it must not call jax, and what it
returns has fixed shapes.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cord_jax.endings import CONCLUDING, ENDINGS
from cord_jax.filters import Filter, drop_reasons
from cord_jax.search import proposals
from cord_jax.search.jax_tools import axes, pytree
from cord_jax.search.readers import BOUNDARY, EOS, LIMIT, Rows
from cord_jax.search.round_record import (
    ABSENT,
    DROPPED,
    VALID,
    CandidateText,
    SettledRound,
)
from cord_jax.search.slots import SubBatch
from cord_jax.search.state import JUDGING, RECALLING, SearchPlan, SearchState
from cord_jax.search.texts import SearchTexts
from cord_jax.search.tree import of_node
from cord_jax.text import segmentation
from cord_jax.text.vocabulary import Vocabulary

_CONCLUDED = np.array([name in CONCLUDING for name in ENDINGS])
_STOPPED = {EOS: "eos", BOUNDARY: "boundary", LIMIT: "limit"}


@pytree
class Candidates:
    """The candidates of a sub-batch after the exchange.

    Of a row that recalls nodes, the first candidate of each place has the step of the place's node, and all are absent.

    Attributes:
      token_urjt, length_urj: int32, the canonical steps in every vocabulary u.
      ended_rj, dropped_rj: int8, as in `SettledRound`.
      concluded_rj: bool, complete hypotheses.
      sampled_rj: int32, tokens that their writers sampled.
      replayed_r: bool, rows that an earlier run has settled; score_rj: float32, their scores.
    """

    token_urjt: jax.Array = axes("vocabulary", "row", "candidate", "token")
    length_urj: jax.Array = axes("vocabulary", "row", "candidate")
    ended_rj: jax.Array = axes("row", "candidate")
    dropped_rj: jax.Array = axes("row", "candidate")
    concluded_rj: jax.Array = axes("row", "candidate")
    sampled_rj: jax.Array = axes("row", "candidate")
    replayed_r: jax.Array = axes("row")
    score_rj: jax.Array = axes("row", "candidate")

    def remaining(self, batch: SubBatch):
        """The candidates that were not dropped, of the rows that count, bool [r, j]."""
        return (self.dropped_rj == VALID) & batch.valid_r[:, None]


@pytree
class Request:
    """Finished proposals as the device hands them over; rows r of all shards.

    Attributes:
      problem_r, round_r: int32, the problems and their rounds (from 0); valid_r: bool, rows that count.
      recalls_r: bool, rows that ask for the steps of their frontier's nodes.
      judged_r: bool, rows whose candidates were exchanged before, and have been judged.
      node_rb, open_rb: the frontier; depth_rb: int32, steps of its traces; thinking_rb: int32, the meta-prover's tokens
        of them.
      written: for each proposing reader `(token_rqt, count_rq, stopped_rq)`; judgments: the same of the meta-prover's
        judgments, None where nothing is judged.
    """

    problem_r: jax.Array
    round_r: jax.Array
    valid_r: jax.Array
    recalls_r: jax.Array
    judged_r: jax.Array
    node_rb: jax.Array
    open_rb: jax.Array
    depth_rb: jax.Array
    thinking_rb: jax.Array
    written: list[tuple[jax.Array, jax.Array, jax.Array]]
    judgments: tuple[jax.Array, jax.Array, jax.Array] | None


@jax.named_scope("exchange")
def exchange_steps(
    plan: SearchPlan, exchange: "Exchange", state: SearchState, batch: SubBatch
) -> tuple[Candidates, jax.Array]:
    """Turns ids of finished proposals into canonical steps in every vocabulary, by one callback.

    Args:
      batch: rows of all shards, their slots numbered among all.

    Returns:
      The `Candidates`, and the tokens of the longest step; if it exceeds `step_width`, the candidates are cut short
      and must not be used. Where no row counts, there is no callback.
    """

    def texts(rows: Rows) -> tuple[jax.Array, jax.Array, jax.Array]:
        mine = jax.tree.map(batch.take, rows.small())
        return proposals.sampled_tokens(mine), mine.count_nq, mine.stopped_nq

    written = [texts(reader.rows) for reader in state.readers if reader.rows is not None]
    shapes = candidate_shapes(plan, len(exchange.vocabularies), len(batch.slot_r))
    shapes = shapes, jax.ShapeDtypeStruct((), jnp.int32)
    tree, frontier = (jax.tree.map(batch.take, part) for part in (state.tree, state.frontier))
    request = Request(
        problem_r=batch.take(state.clock.problem_n),
        round_r=batch.take(state.progress.round_n),
        valid_r=batch.valid_r,
        recalls_r=batch.take(state.clock.phase_n) == RECALLING,
        judged_r=batch.take(state.clock.phase_n) == JUDGING,
        node_rb=frontier.node_nb,
        open_rb=frontier.open_nb,
        depth_rb=of_node(tree.depth_nmj, frontier.node_nb),
        thinking_rb=of_node(tree.thinking_nmj, frontier.node_nb),
        written=written,
        judgments=None if state.judgments is None else texts(state.judgments.rows),
    )
    # The callback runs on one device: what it takes and gives is whole on all.
    exchanged = lax.cond(
        batch.valid_r.any(),
        lambda request: jax.pure_callback(functools.partial(exchange, plan.step_width), shapes, request),
        lambda request: jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes),
        plan.shards.replicated(request),
    )
    return plan.shards.replicated(exchanged)


def candidate_shapes(plan: SearchPlan, vocabularies: int, rows: int) -> Candidates:
    """`Candidates` of `rows` rows as shapes."""
    of_row = functools.partial(jax.ShapeDtypeStruct, (rows, plan.candidates))
    of_vocabulary = (vocabularies, rows, plan.candidates)
    return Candidates(
        token_urjt=jax.ShapeDtypeStruct((*of_vocabulary, plan.step_width), jnp.int32),
        length_urj=jax.ShapeDtypeStruct(of_vocabulary, jnp.int32),
        ended_rj=of_row(jnp.int8),
        dropped_rj=of_row(jnp.int8),
        concluded_rj=of_row(jnp.bool_),
        sampled_rj=of_row(jnp.int32),
        replayed_r=jax.ShapeDtypeStruct((rows,), jnp.bool_),
        score_rj=of_row(jnp.float32),
    )


@dataclasses.dataclass(frozen=True)
class ReaderText:
    """One proposing reader as the exchange knows it.

    Attributes:
      vocabulary: index of its vocabulary.
      proposers: the proposers that write through it.
    """

    vocabulary: int
    proposers: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class ExchangeRules:
    """Rules by which proposals become candidates.

    Attributes:
      meta_vocabulary: index of the meta-prover's vocabulary, which counts the thinking budget.
      places: of a frontier.
      segmentation: one of `segmentation.SEGMENTATIONS`.
      max_step_tokens, max_thinking_tokens: limits (method, section 3.6).
      filters: by name, in the order in which they apply.
      whole_traces: candidates are whole traces: equal ones are no duplicates, and those of a problem are filtered as one
        group.
      judged: candidates are judged before they are scored; graded: their scores are how many judgments are right.
      rescores: rounds that an earlier run has settled are scored anew.
    """

    meta_vocabulary: int
    places: int
    segmentation: str
    max_step_tokens: int
    max_thinking_tokens: int
    filters: Mapping[str, Filter]
    whole_traces: bool
    judged: bool = False
    graded: bool = False
    rescores: bool = False


class Exchange:
    """Turns finished proposals into canonical steps in all vocabularies; on the host."""

    def __init__(
        self,
        vocabularies: list[Vocabulary],
        readers: list[ReaderText],
        rules: ExchangeRules,
        texts: SearchTexts,
        grade: Callable[[int, list[str]], list[bool]] | None = None,
    ):
        """Makes the host's side.

        Args:
          texts: where the steps of every round are noted.
          grade: whether answers to a problem are right; must not call jax.
        """
        self.vocabularies, self.readers, self.rules, self.texts = vocabularies, readers, rules, texts
        self.grade = grade
        self.num_proposers = sum(len(reader.proposers) for reader in readers)

    def __call__(self, width: int, request: Request) -> tuple[Candidates, np.int32]:
        """Reads the proposals of a sub-batch.

        Args:
          width: capacity of a canonical step in tokens.

        Returns:
          The candidates, and the tokens of the longest step. If it exceeds `width`, the call must be made again with
          more.
        """
        request = jax.tree.map(np.asarray, request)
        rows, candidates = len(request.problem_r), self.rules.places * self.num_proposers
        found = Candidates(
            token_urjt=np.zeros((len(self.vocabularies), rows, candidates, width), np.int32),
            length_urj=np.zeros((len(self.vocabularies), rows, candidates), np.int32),
            ended_rj=np.zeros((rows, candidates), np.int8),
            dropped_rj=np.full((rows, candidates), ABSENT, np.int8),
            concluded_rj=np.zeros((rows, candidates), bool),
            sampled_rj=np.zeros((rows, candidates), np.int32),
            replayed_r=np.zeros(rows, bool),
            score_rj=np.full((rows, candidates), -np.inf, np.float32),
        )
        for row in np.flatnonzero(request.valid_r):
            problem, number = int(request.problem_r[row]), int(request.round_r[row])
            if request.recalls_r[row]:
                encoded = self._recall(request, row, problem)
            elif request.judged_r[row]:
                encoded = self._judged(found, request, row)
            elif (recorded := self.texts.recorded(problem, number)) is not None:
                encoded = self._replay(found, request, row, recorded)
                if self.rules.rescores:
                    found.replayed_r[row] = False
                    if self.rules.judged:
                        self.texts.wait(problem, number, recorded)
            else:
                encoded = self._read(found, request, row)
            for u, by_candidate in enumerate(encoded):
                for j, ids in by_candidate.items():
                    found.length_urj[u, row, j] = len(ids)
                    found.token_urjt[u, row, j, : len(ids)] = ids[:width]
        found.concluded_rj[:] = _CONCLUDED[found.ended_rj]
        return found, np.int32(found.length_urj.max())

    def _encode(self, texts: dict[int, str]) -> list[dict[int, list[int]]]:
        """The texts of candidates in every vocabulary."""
        return [
            dict(zip(texts, vocabulary.encode_pieces(list(texts.values()), self.rules.segmentation)))
            for vocabulary in self.vocabularies
        ]

    def _recall(self, request: Request, row: int, problem: int):
        """The steps of the nodes of the frontier, in every vocabulary, as the first candidates of their places."""
        nodes = enumerate(request.node_rb[row].tolist())
        return self._encode(
            {
                place * self.num_proposers: self.texts.of_node(problem, node)
                for place, node in nodes
                if node > 0
            }
        )

    def _replay(self, found: Candidates, request: Request, row: int, recorded: SettledRound):
        """Writes what was settled before into the candidates; returns the steps in every vocabulary."""
        found.ended_rj[row], found.dropped_rj[row] = recorded.ended_j, recorded.dropped_j
        found.sampled_rj[row], found.score_rj[row] = recorded.sampled_j, recorded.score_j
        found.replayed_r[row] = True
        self._note(request, row, list(recorded.texts))
        return self._encode({j: step.text for j, step in enumerate(recorded.texts) if step is not None})

    def _judged(self, found: Candidates, request: Request, row: int):
        """Writes the candidates of the round that have been judged; returns their steps in every vocabulary."""
        problem, number = int(request.problem_r[row]), int(request.round_r[row])
        pending = self.texts.pending(problem, number)
        encoded = self._replay(found, request, row, pending)
        found.replayed_r[row] = self.rules.graded
        if self.rules.graded:
            valid = np.flatnonzero(pending.dropped_j == VALID)
            right = self.texts.graded(problem, number)
            if right is None:
                token_qt, count_q, stopped_q = (x[row] for x in request.judgments)
                written = self.judgment_texts(token_qt, count_q, stopped_q, valid)
                right = self.grade(problem, [text for texts in written for text in texts])
            share_j = np.asarray(right, np.float32).reshape(len(valid), -1).mean(1, dtype=np.float32)
            found.score_rj[row, valid] = share_j
        return encoded

    def judgment_texts(self, token_qt, count_q, stopped_q, candidates) -> list[list[str]]:
        """The judgments of some candidates as text, without what ended them (method, section 3.13)."""
        vocabulary, total = (
            self.vocabularies[self.rules.meta_vocabulary],
            self.rules.places * self.num_proposers,
        )
        texts_of = len(count_q) // total
        read = []
        for j in candidates:
            texts = []
            for q in range(j * texts_of, (j + 1) * texts_of):
                ids = token_qt[q, : count_q[q]].tolist()
                text = vocabulary.text(ids[:-1] if stopped_q[q] == EOS else ids)
                texts.append(text.split("\n", 1)[0].strip().removesuffix("."))
            read.append(texts)
        return read

    def _read(self, found: Candidates, request: Request, row: int):
        """Reads the proposals of a problem into the candidates; returns the steps in every vocabulary."""
        steps = self._steps(request, row)
        encoded = self._encode({j: step.text for j, step in enumerate(steps) if step is not None})
        self._mark_budget(steps, encoded[self.rules.meta_vocabulary], request.thinking_rb[row])
        if not self.rules.whole_traces:
            self._mark_duplicates(steps)
        self._filter(steps, request, row)
        texts: list[CandidateText | None] = [None] * len(steps)
        for j in encoded[0]:
            step = steps[j]
            found.ended_rj[row, j] = ENDINGS.index(step.ended)
            found.dropped_rj[row, j] = VALID if step.dropped is None else DROPPED
            own_tokens = len(encoded[self._writer_vocabulary(j)][j])
            texts[j] = CandidateText(step.text, own_tokens, step.dropped)
        for reader, (_, count_rq, _) in zip(self.readers, request.written):
            for q in range(count_rq.shape[1]):
                found.sampled_rj[row, self._candidate(reader, q)] = count_rq[row, q]
        self._note(request, row, texts)
        if self.rules.judged:
            settled = SettledRound(
                texts,
                score_j=found.score_rj[row].copy(),
                ended_j=found.ended_rj[row].copy(),
                dropped_j=found.dropped_rj[row].copy(),
                sampled_j=found.sampled_rj[row].copy(),
            )
            self.texts.wait(int(request.problem_r[row]), int(request.round_r[row]), settled)
        return encoded

    def _note(self, request: Request, row: int, texts: list[CandidateText | None]) -> None:
        problem, number = int(request.problem_r[row]), int(request.round_r[row])
        self.texts.note(problem, number, request.node_rb[row].copy(), texts)

    def _candidate(self, reader: ReaderText, q: int) -> int:
        """The candidate j that a reader's row q writes."""
        place, index = divmod(q, len(reader.proposers))
        return place * self.num_proposers + reader.proposers[index]

    def _writer_vocabulary(self, j: int) -> int:
        proposer = j % self.num_proposers
        return next(reader.vocabulary for reader in self.readers if proposer in reader.proposers)

    def _steps(self, request: Request, row: int) -> list[segmentation.Proposal | None]:
        """The proposals of one problem as text, in the order of candidates; None where the place was not open."""
        rules = self.rules
        read: list[segmentation.Proposal | None] = [None] * (rules.places * self.num_proposers)
        for reader, (token_rqt, count_rq, stopped_rq) in zip(self.readers, request.written):
            vocabulary = self.vocabularies[reader.vocabulary]
            for q in range(count_rq.shape[1]):
                j = self._candidate(reader, q)
                place = j // self.num_proposers
                if not request.open_rb[row, place]:
                    continue
                ids = token_rqt[row, q, : count_rq[row, q]].tolist()
                stopped = _STOPPED[int(stopped_rq[row, q])]
                if stopped == "eos":
                    ids = ids[:-1]
                remaining = rules.max_thinking_tokens - int(request.thinking_rb[row, place])
                depth = int(request.depth_rb[row, place])
                read[j] = segmentation.read_proposal(
                    rules.segmentation,
                    depth + 1,
                    vocabulary.join(ids),
                    stopped,
                    remaining <= rules.max_step_tokens,
                    depth > 0,
                )
        return read

    def _mark_budget(self, steps, encoded_meta, thinking_b) -> None:
        """Marks, in place, the candidates that use up the thinking budget."""
        for j, ids in encoded_meta.items():
            step = steps[j]
            used = int(thinking_b[j // self.num_proposers]) + len(ids)
            if (
                step.dropped is None
                and step.ended not in CONCLUDING
                and used >= self.rules.max_thinking_tokens
            ):
                steps[j] = dataclasses.replace(step, ended="budget", complete=True)

    def _mark_duplicates(self, steps) -> None:
        """Drops, in place, steps that equal an earlier one of their place in text and in whether they conclude."""
        for group in self._groups():
            seen = set()
            for j in group:
                if steps[j] is None or steps[j].dropped is not None:
                    continue
                key = steps[j].text, steps[j].complete
                if key in seen:
                    steps[j] = dataclasses.replace(steps[j], dropped="duplicate")
                seen.add(key)

    def _filter(self, steps, request: Request, row: int) -> None:
        """Drops, in place, what the filters drop of those that are still valid."""
        if not self.rules.filters:
            return
        depth_b = request.depth_rb[row].tolist()
        body = functools.partial(segmentation.body, self.rules.segmentation)
        for group in self._groups():
            valid = [j for j in group if steps[j] is not None and steps[j].dropped is None]
            texts = []
            for j in valid:
                place = j // self.num_proposers
                trace = self.texts.trace(int(request.problem_r[row]), int(request.node_rb[row, place]))
                earlier = [body(number, text) for number, text in enumerate(trace, start=1)]
                texts.append((body(depth_b[place] + 1, steps[j].text), earlier))
            for j, reason in zip(valid, drop_reasons(self.rules.filters, texts)):
                steps[j] = dataclasses.replace(steps[j], dropped=reason)

    def _groups(self) -> list[range]:
        """The candidates of each place, or all of them where they are whole traces."""
        total = self.rules.places * self.num_proposers
        size = total if self.rules.whole_traces else self.num_proposers
        return [range(j, j + size) for j in range(0, total, size)]
