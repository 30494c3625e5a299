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
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cord_jax.engine.encoded_problems import Requests
from cord_jax.engine.plan import SearchSettings, capacities, plan_search
from cord_jax.engine.teachers import Teachers, compile_reader
from cord_jax.errors import UserError
from cord_jax.problems import Problem
from cord_jax.search import loop, packing
from cord_jax.search.exchange import Exchange, ReaderText
from cord_jax.search.insertion import insert
from cord_jax.search.round_record import ReadStep, SettledStep
from cord_jax.search.state import (
    ANSWERING,
    DONE,
    FREE,
    SEARCHING,
    History,
    SearchPlan,
    SearchState,
    state_shardings,
    with_columns,
)


@dataclasses.dataclass(frozen=True)
class Finished:
    """What is left of a problem's search when its slot is given back; arrays of the host.

    Attributes:
      problem: index of the problem.
      history: `History` without the slot axis.
      steps: rounds that were settled.
      origin: `step index * J + j` of the winner's last candidate.
      score: of the winner.
      stuck: the beam of the trace if nothing was left, else -1.
      writer: the proposer that wrote the answer.
      answer: its tokens, EOS included.
      closing_tokens: the meta-prover's tokens of all its closings.
      texts: for each step the candidates as text, in the order j.
      seconds: from insertion to harvest.
    """

    problem: int
    history: History
    steps: int
    origin: int
    score: float
    stuck: int
    writer: int
    answer: list[int]
    closing_tokens: int
    texts: list[list[ReadStep | None]]
    seconds: float


class Engine:
    """Searches problems with a loaded pool."""

    def __init__(self, teachers: Teachers, problems: Sequence[Problem], settings: SearchSettings, mesh: Mesh):
        """Encodes the prompts and closings of all problems and lays out the state.

        Raises: `UserError` if a problem's answer cannot be scored, or the mesh does not fit the slots.
        """
        self.teachers, self.problems, self.settings, self.mesh = teachers, problems, settings, mesh
        chunk = max(reader.execution.chunk for reader in teachers.readers)
        self._requests = Requests(teachers, problems, settings.closing, chunk)
        room = capacities(settings, self._requests.sizes)
        compiled = [
            compile_reader(reader, teachers.spec, settings.segmentation, room.max_steps, room.columns, mesh)
            for reader in teachers.readers
        ]
        self._constants = tuple(constants for _, constants in compiled)
        plan = plan_search(
            [plan for plan, _ in compiled],
            teachers.meta,
            settings,
            room,
            self._requests.sizes,
            mesh,
        )
        self.exchange = Exchange(
            list(teachers.vocabularies),
            [ReaderText(r.vocabulary_index, r.proposers) for r in teachers.readers if r.proposers],
            meta_vocabulary=teachers.readers[teachers.meta].vocabulary_index,
            num_beams=settings.beam_width,
            segmentation_name=settings.segmentation,
            max_step_tokens=room.step_tokens,
            max_thinking_tokens=settings.max_thinking_tokens,
        )
        self.idle_row_share = 0.0
        self.lay_out(plan)

    def lay_out(self, plan: SearchPlan) -> None:
        """Starts anew with a plan of other capacities; they change no trace."""
        self._make_programs(plan)
        self._state = self._empty()

    def _make_programs(self, plan: SearchPlan) -> None:
        """Makes the programs for a plan; they compile when they first run."""
        self.plan = plan
        empty = functools.partial(
            loop.empty_state,
            self.plan,
            prompt_width=self._requests.sizes.prompt_width,
            closing_width=self._requests.sizes.closing_width,
            scored_width=self._requests.sizes.scored_width,
        )
        shapes = jax.eval_shape(empty, self._constants)
        self._replicated = NamedSharding(self.mesh, PartitionSpec())
        sharding = state_shardings(shapes, self.mesh)
        self._empty = lambda: jax.jit(empty, out_shardings=sharding)(self._constants)
        self._insert = insert_program(self.plan, sharding)
        self._advance = advance_program(self.plan, self.exchange, sharding)
        self._replicate = jax.jit(lambda x: x, out_shardings=self._replicated)
        self._harvest = jax.jit(_harvest, donate_argnums=0, out_shardings=(sharding, self._replicated))

    def lower(self):
        """The search program as lowered for this mesh, for inspection (`.as_text()`, `.compile()`)."""
        return self._advance.lower(self._constants, self._state, np.int32(1))

    def run(
        self,
        indices: Iterable[int],
        *,
        recorded: Mapping[int, Sequence[SettledStep]] = {},
        on_settled: Callable[[list[tuple[int, int, SettledStep]]], None] | None = None,
        max_rounds: int = 64,
    ) -> Iterator[Finished]:
        """Searches the problems of these indices and yields them as they finish.

        Args:
          recorded: steps that an earlier run has settled, by problem; they are only read, and not searched again.
          on_settled: is told, every `max_rounds` rounds, what has been settled in searches that are under
            way: (problem, step from 1, what was settled).
          max_rounds: rounds after which the host gets a look at the state, finished or not.
        """
        waiting = deque(indices)
        inserted_at: dict[int, float] = {}
        told = {problem: len(steps) for problem, steps in recorded.items()}
        free = list(range(self.plan.slots))
        while waiting or len(free) < self.plan.slots:
            while waiting and free:
                slot_r, problem_r, free = free_rows(self.plan, free, waiting)
                self._insert_problems(slot_r, problem_r, recorded)
                inserted_at.update({int(p): time.monotonic() for p in problem_r[problem_r >= 0]})
            self._state, peek = self._advance(self._constants, self._state, np.int32(max_rounds))
            peek = jax.device_get(peek)
            if peek["short_yx"].any() or peek["longest"] > self.plan.step_width:
                self._widen(peek["longest"], peek["short_yx"].any(0))
            elif (peek["phase_n"] == DONE).any():
                yield from self._collect(inserted_at)
                free = sorted(free + np.flatnonzero(peek["phase_n"] == DONE).tolist())
            if on_settled is not None:
                on_settled(self._newly_settled(peek, told))
            self.idle_row_share = 1 - float(peek["busy_y"].sum()) / max(1.0, float(peek["ticked_y"].sum()))

    def _insert_problems(self, slot_r, problem_r, recorded: Mapping[int, Sequence[SettledStep]]) -> None:
        """Inserts problems; what was settled of them before, the exchange will say again."""
        replayed_r = np.zeros_like(problem_r)
        for row, problem in enumerate(problem_r.tolist()):
            for step, settled in enumerate(recorded.get(problem, ()), start=1):
                self.exchange.settled[problem, step] = settled
                replayed_r[row] = step
        insertion = self._requests.insertion(slot_r, problem_r >= 0, problem_r, replayed_r)
        self._state = self._insert(self._state, insertion)

    def _newly_settled(self, peek, told: dict[int, int]) -> list[tuple[int, int, SettledStep]]:
        """What has been settled since the last look, of problems that are not done; `told` counts it."""
        under_way = np.isin(peek["phase_n"], (SEARCHING, ANSWERING))
        settled_n = np.where(peek["phase_n"] == SEARCHING, peek["step_n"] - 1, peek["step_n"])
        new = [(slot, int(peek["problem_n"][slot])) for slot in np.flatnonzero(under_way)]
        new = [(slot, problem) for slot, problem in new if settled_n[slot] > told.get(problem, 0)]
        if not new:
            return []
        history = jax.device_get(self._replicate(self._state.history))
        steps = []
        for slot, problem in new:
            for step in range(told.get(problem, 0), int(settled_n[slot])):
                row = jax.tree.map(lambda x: x[slot, step], history)
                settled = SettledStep(
                    texts=self.exchange.texts.get((problem, step + 1), ()),
                    score_j=row.score_nmj,
                    ended_j=row.ended_nmj,
                    dropped_j=row.dropped_nmj,
                    sampled_j=row.sampled_nmj,
                )
                steps.append((problem, step + 1, settled))
            told[problem] = int(settled_n[slot])
        return steps

    def _collect(self, inserted_at: dict[int, float]) -> Iterator[Finished]:
        """Takes the finished problems out of their slots."""
        self._state, record = self._harvest(self._state)
        record = jax.device_get(record)
        for slot in np.flatnonzero(record["done_n"]):
            problem, steps = int(record["problem_n"][slot]), int(record["step_n"][slot])
            history = jax.tree.map(lambda x: x[slot, :steps], record["history"])
            if np.isnan(history.score_nmj).any():
                raise UserError(
                    f"problem {self.problems[problem].id!r}: the meta-prover gives scores that are not "
                    'numbers; check its checkpoint, or load it with dtype = "float32"'
                )
            texts = [self.exchange.texts.pop((problem, step), []) for step in range(1, steps + 1)]
            for step in range(1, steps + 1):
                self.exchange.settled.pop((problem, step), None)
            yield Finished(
                problem=problem,
                history=history,
                steps=steps,
                origin=int(record["origin_n"][slot]),
                score=float(record["score_n"][slot]),
                stuck=int(record["stuck_n"][slot]),
                writer=int(record["writer_n"][slot]),
                answer=record["answer_nu"][slot, : record["answer_count_n"][slot]].tolist(),
                closing_tokens=self._requests.closing_tokens(problem),
                texts=texts,
                seconds=time.monotonic() - inserted_at.pop(problem),
            )

    def _widen(self, longest, short) -> None:
        """Makes room for what did not fit and compiles the programs anew. Rare: capacities are estimates."""
        plan = self.plan
        if longest > plan.step_width:
            plan = dataclasses.replace(plan, step_width=packing.round_up(int(longest) * 5 // 4, 16))
        readers = tuple(
            reader.widened(reader.columns // 3) if is_short else reader
            for reader, is_short in zip(plan.readers, short)
        )
        wider = dataclasses.replace(plan, readers=readers)
        widen = functools.partial(with_columns, plan, wider)
        shapes = jax.eval_shape(widen, self._state)
        self._state = jax.jit(widen, out_shardings=state_shardings(shapes, self.mesh))(self._state)
        self._make_programs(wider)


def free_rows(
    plan: SearchPlan, free: list[int], waiting: deque[int]
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


def advance_program(plan: SearchPlan, exchange: Exchange, sharding: SearchState):
    """The jitted search: `(constants, state, rounds) -> (state, what the host looks at)`.

    It consumes the state, which lies as `sharding` (from `state_shardings`) says.
    """
    replicated = NamedSharding(sharding.phase_n.mesh, PartitionSpec())
    return jax.jit(
        functools.partial(_advance_and_peek, plan, exchange),
        donate_argnums=1,
        out_shardings=(sharding, replicated),
        compiler_options=plan.readers[plan.meta].execution.compiler_options,
    )


def insert_program(plan: SearchPlan, sharding: SearchState):
    """The jitted `insertion.insert`: `(state, insertion) -> state`. It consumes the state."""
    return jax.jit(functools.partial(insert, plan), donate_argnums=0, out_shardings=sharding)


def _advance_and_peek(plan, exchange, constants, state, max_rounds):
    state = loop.advance(plan, exchange, constants, state, max_rounds)
    names = (
        "phase_n",
        "problem_n",
        "step_n",
        "short_yx",
        "longest",
        "ticked_y",
        "busy_y",
    )
    return state, {name: getattr(state, name) for name in names}


def _harvest(state: SearchState):
    """Frees the slots of finished problems; returns what is known of them."""
    done_n = state.phase_n == DONE
    names = (
        "problem_n",
        "step_n",
        "stuck_n",
        "writer_n",
        "answer_nu",
        "answer_count_n",
        "history",
    )
    record = {name: getattr(state, name) for name in names}
    record |= {"done_n": done_n, "origin_n": state.origin_nb[:, 0], "score_n": state.score_nb[:, 0]}
    return dataclasses.replace(state, phase_n=jnp.where(done_n, FREE, state.phase_n)), record
