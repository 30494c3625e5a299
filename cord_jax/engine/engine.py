"""The host's side of a search: problems go into free slots, finished ones come out.

    engine = Engine(teachers, problems, settings, mesh)
    for finished in engine.run(range(len(problems))):
        ...

The engine owns the compiled programs `insert`, `advance` and `harvest` and the device state between them. It
widens what turns out too narrow (a pool without room even after compaction, a step longer in another
vocabulary than its writer could make it) and goes on with the same problems.
"""

import dataclasses
import functools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cord_jax.engine.encoded_problems import EncodedProblems
from cord_jax.engine.kept_programs import compile_or_load
from cord_jax.engine.limits import bytes_per_device, check_room
from cord_jax.engine.meter import Meter, Rounds
from cord_jax.engine.plan import SearchSettings, plan_judging, plan_search
from cord_jax.engine.programs import (
    Peek,
    advance_program,
    harvest_program,
    insert_program,
    mark_graded_program,
)
from cord_jax.engine.teachers import Teachers, reader_parts
from cord_jax.errors import UserError
from cord_jax.filters import parse_filters
from cord_jax.grading import Grader, Submission
from cord_jax.problems import Problem
from cord_jax.search import loop, packing
from cord_jax.search.exchange import Exchange, ExchangeRules, ReaderText
from cord_jax.search.insertion import Insertion
from cord_jax.search.proposals import sampled_tokens
from cord_jax.search.round_record import CandidateText, SettledRound
from cord_jax.search.scorers.predictive_perplexity import PredictivePerplexity
from cord_jax.search.state import (
    ANSWERING,
    DONE,
    JUDGING,
    RECALLING,
    REVIEWING,
    SEARCHING,
    SearchPlan,
    SlotPlan,
    state_shardings,
    with_columns,
)
from cord_jax.search.texts import SearchTexts
from cord_jax.search.tree import Tree


@dataclasses.dataclass(frozen=True)
class Finished:
    """A finished search of one problem; arrays of the host.

    Attributes:
      problem: index of the problem.
      tree: `Tree` without the slot axis, of the rounds that were settled.
      texts: for each round the candidates as text, in the order j.
      winner: the node whose trace it is.
      stuck: nothing could be extended, and the winner is the first node that had nothing left.
      answer: the response's tokens, EOS included; its writer is the winner's.
      review: float32, the scores of every form of the answer and of each decoy after the winner's reasoning; None where
        winners are not reviewed.
      closing_tokens: the meta-prover's tokens of all its closings.
      judged_tokens: those of all judgments that it wrote.
      seconds: from insertion to harvest.
    """

    problem: int
    tree: Tree
    texts: list[list[CandidateText | None]]
    winner: int
    stuck: bool
    answer: list[int]
    review: np.ndarray | None
    closing_tokens: int
    judged_tokens: int
    seconds: float

    @property
    def rounds(self) -> list[SettledRound]:
        """All that was settled, for a journal."""
        return [settled_round(self.tree, number, texts) for number, texts in enumerate(self.texts)]


class Engine:
    """Searches problems with a loaded pool."""

    def __init__(
        self,
        teachers: Teachers,
        problems: Sequence[Problem],
        settings: SearchSettings,
        mesh: Mesh,
        decoys: Sequence[Sequence[str]] | None = None,
        grader: Grader | None = None,
        on_look: Callable[[Meter], None] = lambda meter: None,
    ):
        """Encodes the prompts and closings of all problems and lays out the state.

        Args:
          decoys: wrong answers of each problem that are scored after its winner's reasoning; None for none.
          grader: of judgments, for a scorer that asks for them.
          on_look: is told, every few seconds of a search, how it stands.

        Raises: `UserError` if a problem's answer cannot be scored, or the mesh does not fit the slots.
        """
        self.teachers, self.problems, self.settings, self.mesh = teachers, problems, settings, mesh
        self._encoded = self._encode(decoys)
        # What the compiled search calls outlives the engine in jax's caches, so it must not hold the state or weights.
        self._grade = functools.partial(grade_answers, problems, grader)
        judging = plan_judging(
            settings.scorer, teachers.spec.meta_prover, grader is not None and grader.needs_devices
        )
        parts, self._constants = reader_parts(
            teachers, settings.segmentation, settings.max_steps, mesh, settings.closing if judging else None
        )
        reward = None
        if teachers.reward is not None:
            reward = teachers.reward, teachers.vocabularies[-1].separator
        plan = plan_search(parts, teachers.meta, settings, self._encoded.sizes, mesh, reward, judging)
        self._texts = SearchTexts(plan.num_proposers, plan.candidates)
        self.exchange = Exchange(
            list(teachers.vocabularies),
            [ReaderText(r.vocabulary_index, r.proposers) for r in teachers.readers if r.proposers],
            exchange_rules(plan, settings),
            self._texts,
            None if judging is None or judging.graded_outside else self._grade,
        )
        self.meter, self._on_look = Meter(), on_look
        self.lay_out(plan)

    def _encode(self, decoys: Sequence[Sequence[str]] | None) -> EncodedProblems:
        """The encoded problems; winners are reviewed where their score is not their predictive perplexity already."""
        settings = self.settings
        perplexity = isinstance(settings.scorer, PredictivePerplexity)
        asked = decoys is not None or (not perplexity and any(problem.forms for problem in self.problems))
        return EncodedProblems(
            self.teachers,
            self.problems,
            settings.closing,
            asked and settings.answers,
            [()] * len(self.problems) if decoys is None else decoys,
            settings.draws,
        )

    def lay_out(self, plan: SearchPlan) -> None:
        """Starts anew with a plan of other capacities; they change no trace."""
        self._make_programs(plan)
        self._state = self._empty()

    def _make_programs(self, plan: SearchPlan) -> None:
        """Makes the programs for a plan; they compile when they first run."""
        self.plan = plan
        empty = functools.partial(loop.empty_state, self.plan, sizes=self._encoded.sizes)
        shapes = jax.eval_shape(empty, self._constants)
        self._replicated = NamedSharding(self.mesh, PartitionSpec())
        sharding = state_shardings(shapes, self.mesh)
        check_room(
            self.mesh,
            f"a search of {plan.slots} problems with {plan.candidates} candidates a round",
            bytes_per_device(shapes, sharding),
            "lower --slots, --beam_width, --max_thinking_tokens or --max_step_tokens, or use more devices (--mesh)",
        )
        constants = self._constants
        self._empty = lambda: jax.jit(empty, out_shardings=sharding)(constants)
        self._insert = insert_program(self.plan, sharding)
        self._jitted = advance_program(self.plan, self.exchange, sharding)
        self._advance = self._compile_and_advance
        self._replicate = jax.jit(lambda x: x, out_shardings=self._replicated)
        self._harvest = harvest_program(sharding)
        self._mark_graded = mark_graded_program(sharding)

    def _compile_and_advance(self, constants, state, rounds):
        """The first call of the search compiles it, or loads what was compiled before."""
        self._advance = compile_or_load(self._jitted.lower(constants, state, rounds))
        return self._advance(constants, state, rounds)

    def lower(self):
        """The search program as lowered for this mesh, for inspection (`.as_text()`, `.compile()`)."""
        return self._jitted.lower(self._constants, self._state, np.int32(1))

    def run(
        self,
        indices: Iterable[int],
        *,
        recorded: Mapping[int, Sequence[SettledRound]] = {},
        on_settled: Callable[[list[tuple[int, int, SettledRound]]], None] | None = None,
        max_rounds: int = 64,
    ) -> Iterator[Finished]:
        """Searches the problems of these indices and yields them as they finish.

        Args:
          recorded: rounds that an earlier run has settled, by problem; they are only read, and not searched again.
          on_settled: is told, whenever the host has looked at the state, what has been settled in searches that are
            under way: (problem, round from 1, what was settled).
          max_rounds: rounds after which the host looks at the state, finished or not; fewer if they take long.
        """
        rounds = Rounds(max_rounds)
        waiting = deque(indices)
        inserted_at: dict[int, float] = {}
        told = {problem: len(rounds) for problem, rounds in recorded.items()}
        free = list(range(self.plan.slots))
        while waiting or len(free) < self.plan.slots:
            while waiting and free:
                slot_r, problem_r, free = free_rows(self.plan, free, waiting)
                self._insert_problems(slot_r, problem_r, recorded)
                inserted_at.update({int(p): time.monotonic() for p in problem_r[problem_r >= 0]})
            begun = time.monotonic()
            self._state, peek = self._advance(self._constants, self._state, rounds.next)
            peek = jax.device_get(peek)
            self.meter.looked(peek, rounds.took(int(peek.rounds), time.monotonic() - begun))
            done_n, short_x = peek.clock.phase_n == DONE, peek.meters.short_yx.any(0)
            if short_x.any() or peek.longest > self.plan.step_width:
                self._widen(peek.longest, short_x)
                rounds.compiles()
            elif done_n.any():
                yield from self._collect(inserted_at)
                free = sorted(free + np.flatnonzero(done_n).tolist())
            if self.plan.judging is not None and self.plan.judging.graded_outside:
                self._grade_outside()
            self._tell_settled(peek, told, on_settled)
            self._on_look(self.meter)

    def close(self) -> None:
        """Gives the memory of the slots back; the engine cannot be used any more."""
        del self._state

    def _insert_problems(self, slot_r, problem_r, recorded: Mapping[int, Sequence[SettledRound]]) -> None:
        """Inserts problems; what was settled of them before, the exchange will say again."""
        replayed_r = np.zeros_like(problem_r)
        for row in np.flatnonzero(problem_r >= 0):
            rounds = recorded.get(int(problem_r[row]), ())
            self._texts.begin(int(problem_r[row]), rounds)
            replayed_r[row] = len(rounds)
        self._state = self._insert(self._state, self._insertion(slot_r, problem_r, replayed_r))

    def _insertion(self, slot_r, problem_r, replayed_r) -> Insertion:
        """The problems of a sub-batch, -1 for none, as the program takes them."""
        return self._encoded.insertion(slot_r, problem_r, replayed_r)

    def _grade_outside(self) -> None:
        """Grades judgments that have been written; every process does, since the grader needs the devices of all."""
        judgments, clock, progress = self._state.judgments, self._state.clock, self._state.progress
        rows = judgments.rows.small()
        looked_at = loop.judged(self._state), judgments.graded_n, clock.problem_n, progress.round_n
        written = sampled_tokens(rows), rows.count_nq, rows.stopped_nq
        (judged_n, graded_n, problem_n, round_n), (token_nqt, count_nq, stopped_nq) = jax.device_get(
            self._replicate((looked_at, written))
        )
        marked_n = judged_n & ~graded_n
        for slot in np.flatnonzero(marked_n):
            problem = int(problem_n[slot])
            running_j = count_nq[slot].reshape(self.plan.candidates, -1).any(1)
            texts = self.exchange.judgment_texts(
                token_nqt[slot], count_nq[slot], stopped_nq[slot], np.flatnonzero(running_j)
            )
            right = self._grade(problem, [text for of_one in texts for text in of_one])
            self._texts.note_grades(problem, int(round_n[slot]), right)
        if marked_n.any():
            self._state = self._mark_graded(self._state)

    def _tell_settled(
        self,
        peek: Peek,
        told: dict[int, int],
        on_settled: Callable[[list[tuple[int, int, SettledRound]]], None] | None,
    ) -> None:
        """Tells what has been settled since the last look, of problems that are not done; `told` counts it.

        Of a job's processes all take part, since the tree lies on the devices of all; texts has the one that is asked.
        """
        under_way = np.isin(peek.clock.phase_n, (SEARCHING, JUDGING, RECALLING, REVIEWING, ANSWERING))
        settled_n = peek.progress.round_n
        new = [(slot, int(peek.clock.problem_n[slot])) for slot in np.flatnonzero(under_way)]
        new = [(slot, problem) for slot, problem in new if settled_n[slot] > told.get(problem, 0)]
        if not new or (on_settled is None and jax.process_count() == 1):
            return
        tree = jax.device_get(self._replicate(self._state.tree))
        rounds = []
        for slot, problem in new:
            of_slot = jax.tree.map(lambda x: x[slot], tree)
            self._refuse_nan(problem, of_slot.score_nmj[: int(settled_n[slot])])
            first, told[problem] = told.get(problem, 0), int(settled_n[slot])
            if on_settled is not None:
                for number in range(first, told[problem]):
                    texts = self._texts.of_round(problem, number)
                    rounds.append((problem, number + 1, settled_round(of_slot, number, texts)))
        if on_settled is not None:
            on_settled(rounds)

    def _collect(self, inserted_at: dict[int, float]) -> Iterator[Finished]:
        """Takes the finished problems out of their slots."""
        self._state, harvest = self._harvest(self._state)
        harvest = jax.device_get(harvest)
        for slot in np.flatnonzero(harvest.done_n):
            problem, rounds = int(harvest.clock.problem_n[slot]), int(harvest.progress.round_n[slot])
            tree = jax.tree.map(lambda x: x[slot, :rounds], harvest.tree)
            self._refuse_nan(problem, tree.score_nmj)
            yield Finished(
                problem=problem,
                tree=tree,
                texts=self._texts.take(problem, rounds),
                winner=int(harvest.frontier.node_nb[slot, 0]),
                stuck=int(harvest.progress.stuck_n[slot]) >= 0,
                answer=harvest.answer.token_na[slot, : harvest.answer.count_n[slot]].tolist(),
                review=None if harvest.review is None else harvest.review.score_nf[slot],
                closing_tokens=self._encoded.closing_tokens(problem),
                judged_tokens=0 if harvest.judged_n is None else int(harvest.judged_n[slot]),
                seconds=time.monotonic() - inserted_at.pop(problem),
            )

    def _refuse_nan(self, problem: int, score_mj: np.ndarray) -> None:
        """Raises: `UserError` if a score is no number: logits of weights in float16 overflow in some models."""
        if np.isnan(score_mj).any():
            raise UserError(
                f"problem {self.problems[problem].id!r}: the meta-prover "
                f"({self.teachers.readers[self.teachers.meta].checkpoint}) gives scores that are not numbers; check its "
                'checkpoint, or load it with dtype = "float32"'
            )

    def _widen(self, longest, short) -> None:
        """Makes room for what did not fit and compiles the programs anew. Rare: capacities are estimates."""
        plan = self.plan
        if longest > plan.step_width:
            width = packing.round_up(int(longest) * 5 // 4, 16)
            plan = dataclasses.replace(plan, step_width=width, read_width=max(plan.read_width, width))
        readers = tuple(
            reader.widened(reader.columns // 3) if is_short else reader
            for reader, is_short in zip(plan.readers, short)
        )
        wider = dataclasses.replace(plan, readers=readers)
        widen = functools.partial(with_columns, plan, wider)
        shapes = jax.eval_shape(widen, self._state)
        self._state = jax.jit(widen, out_shardings=state_shardings(shapes, self.mesh))(self._state)
        self._make_programs(wider)


def grade_answers(
    problems: Sequence[Problem], grader: Grader | None, problem: int, answers: list[str]
) -> list[bool]:
    """Whether each of these answers to a problem is right; one without text never is."""
    if grader is None:
        raise ValueError("an engine without a grader was asked to grade")
    of = problems[problem]
    return grader.grade_responses([Submission(of, text, text or None) for text in answers])


def settled_round(tree: Tree, number: int, texts: Sequence[CandidateText | None]) -> SettledRound:
    """A round (from 0) of a tree without the slot axis, with its candidates as text."""
    return SettledRound(
        texts=texts,
        score_j=tree.score_nmj[number],
        ended_j=tree.ended_nmj[number],
        dropped_j=tree.dropped_nmj[number],
        sampled_j=tree.sampled_nmj[number],
    )


def exchange_rules(plan: SearchPlan, settings: SearchSettings) -> ExchangeRules:
    """Makes the rules by which the proposals of a search become candidates."""
    return ExchangeRules(
        meta_vocabulary=plan.readers[plan.meta].vocabulary,
        places=plan.places,
        segmentation=settings.segmentation,
        max_step_tokens=plan.max_step_tokens,
        max_thinking_tokens=plan.max_thinking_tokens,
        filters=parse_filters(settings.filters),
        whole_traces=settings.whole_traces,
        judged=plan.judging is not None,
        graded=plan.judging is not None and settings.scorer.judgments.graded,
        rescores=settings.rescores,
    )


def free_rows(
    plan: SlotPlan, free: list[int], waiting: deque[int]
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Takes waiting problems into free slots, as many of each shard as a sub-batch has rows.

    Returns:
      `(slot_r, problem_r, free)`: local slots, the problems put there (-1 for a row without), and what is
      still free.
    """
    shards = plan.shards
    per_shard = plan.slots // shards.count
    slot_r = np.zeros(shards.count * shards.rows, np.int32)
    problem_r = np.full(len(slot_r), -1, np.int32)
    taken = set()
    for shard in range(shards.count):
        mine = [slot for slot in free if slot // per_shard == shard][: shards.rows]
        for row, slot in enumerate(mine, start=shard * shards.rows):
            if waiting:
                slot_r[row], problem_r[row] = slot % per_shard, waiting.popleft()
                taken.add(slot)
    return slot_r, problem_r, [slot for slot in free if slot not in taken]
