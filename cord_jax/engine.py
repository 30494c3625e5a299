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
import hashlib
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cord_jax import packing, search
from cord_jax.errors import UserError
from cord_jax.exchange import Exchange, ReaderText, ReadStep
from cord_jax.insertion import Insertion, insert
from cord_jax.problems import Problem
from cord_jax.prompts import render_prompt
from cord_jax.scoring import Closings
from cord_jax.shards import Shards
from cord_jax.state import DONE, FREE, History, SearchPlan, SearchState
from cord_jax.teachers import Teachers, compile_reader

CLOSING = "</think>\n\nThe final answer is "
CHUNK = (
    64  # tokens of a row in one prefill or scoring step on accelerators; small models waste less with it too
)


@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """How to search; see the flags of `launch.synthesize`. All but `slots` decide the traces.

    Attributes:
      segmentation: "prompt", "line_break" or "prefix"; "whole" writes whole traces (curation).
      beam_width: B; with "whole", traces a proposer.
      max_steps, max_step_tokens, max_thinking_tokens, max_answer_tokens: limits (design, section 3.6).
      closing: text between the reasoning and the answer when a candidate is scored.
      seed: of all draws.
      slots: problems searched at a time.
      quantum: tokens that proposers write in a round; changes no trace.
    """

    segmentation: str = "prompt"
    beam_width: int = 4
    max_steps: int = 128
    max_step_tokens: int = 1024
    max_thinking_tokens: int = 16384
    max_answer_tokens: int = 4096
    closing: str = CLOSING
    seed: int = 0
    slots: int = 8
    quantum: int = 32

    @property
    def whole(self) -> bool:
        """Whether proposers write whole traces instead of steps."""
        return self.segmentation == "whole"


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
      proposed, scored: tokens by proposer.
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
    proposed: list[int]
    scored: list[int]
    texts: list[list[ReadStep | None]]
    seconds: float


class Engine:
    """Searches problems with a loaded pool."""

    def __init__(self, teachers: Teachers, problems: Sequence[Problem], settings: SearchSettings, mesh: Mesh):
        """Encodes the prompts and closings of all problems and lays out the state.

        Raises: `UserError` if a problem's answer cannot be scored, or the mesh does not fit the slots.
        """
        self.teachers, self.problems, self.settings, self.mesh = teachers, problems, settings, mesh
        data = mesh.shape.get("data", 1)
        slots = packing.round_up(settings.slots, data)
        proposers, beams = len(teachers.names), settings.beam_width
        self._prompts = [
            [
                reader.vocabulary.encode_prompt(
                    render_prompt(reader.vocabulary, reader.system_prompt, p.question, p.context)
                )
                for p in problems
            ]
            for reader in teachers.readers
        ]
        meta_vocabulary = teachers.readers[teachers.meta].vocabulary
        self._closings = [
            _encode_closings(meta_vocabulary, settings.closing, problem) for problem in problems
        ]
        max_steps = 1 if settings.whole else settings.max_steps
        step_tokens = settings.max_thinking_tokens if settings.whole else settings.max_step_tokens
        step_tokens = min(step_tokens, settings.max_thinking_tokens)
        self._prompt_width = packing.round_up(
            max(len(ids) for prompts in self._prompts for ids in prompts), CHUNK
        )
        step_width = packing.round_up(step_tokens + step_tokens // 8 + 16, 16)
        columns = (
            self._prompt_width
            + settings.max_thinking_tokens
            + (1 if settings.whole else beams) * step_width
            + settings.max_answer_tokens
        )
        compiled = [
            compile_reader(
                reader,
                teachers.spec,
                settings.segmentation,
                max_steps,
                packing.round_up(columns, CHUNK),
                mesh,
            )
            for reader in teachers.readers
        ]
        self._constants = tuple(constants for _, constants in compiled)
        plan = SearchPlan(
            readers=tuple(plan for plan, _ in compiled),
            meta=teachers.meta,
            num_proposers=proposers,
            num_beams=beams,
            slots=slots,
            whole=settings.whole,
            max_steps=max_steps,
            max_step_tokens=step_tokens,
            max_thinking_tokens=settings.max_thinking_tokens,
            max_answer_tokens=settings.max_answer_tokens,
            step_width=step_width,
            num_forms=max(len(forms) for _, forms in self._closings),
            shards=Shards(data, max(1, min(4, slots // data))),
            chunk=CHUNK,
            quantum=settings.quantum,
            score_group=1 if settings.whole else beams * proposers,
            seed=settings.seed,
        )
        self._closing_width = max(sum(len(ids) for ids, _ in forms) for _, forms in self._closings)
        self._scored_width = max(
            sum(int(np.sum(scored)) for _, scored in forms) for _, forms in self._closings
        )
        self.exchange = Exchange(
            list(teachers.vocabularies),
            [ReaderText(r.vocabulary_index, r.proposers) for r in teachers.readers if r.proposers],
            meta_vocabulary=teachers.readers[teachers.meta].vocabulary_index,
            num_beams=beams,
            segmentation_name=settings.segmentation,
            max_step_tokens=step_tokens,
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
            search.empty_state, self.plan, closing_width=self._closing_width, scored_width=self._scored_width
        )
        shapes = jax.eval_shape(empty, self._constants)
        self._replicated = NamedSharding(self.mesh, PartitionSpec())
        sharding = state_shardings(shapes, self.mesh)
        self._empty = lambda: jax.jit(empty, out_shardings=sharding)(self._constants)
        self._insert = jax.jit(functools.partial(insert, self.plan), donate_argnums=1, out_shardings=sharding)
        self._advance = jax.jit(
            functools.partial(_advance_and_peek, self.plan, self.exchange),
            donate_argnums=1,
            out_shardings=(sharding, self._replicated),
        )
        self._harvest = jax.jit(_harvest, donate_argnums=0, out_shardings=(sharding, self._replicated))

    def lower(self):
        """The search program as lowered for this mesh, for inspection (`.as_text()`, `.compile()`)."""
        return self._advance.lower(self._constants, self._state, np.int32(1))

    def run(self, indices: Iterable[int], max_rounds: int = 64) -> Iterator[Finished]:
        """Searches the problems of these indices and yields them as they finish.

        Args:
          max_rounds: rounds after which the host gets a look at the state, finished or not.
        """
        waiting = deque(indices)
        inserted_at: dict[int, float] = {}
        free = list(range(self.plan.slots))
        while waiting or len(free) < self.plan.slots:
            while waiting and free:
                free = self._fill(waiting, free, inserted_at)
            self._state, peek = self._advance(self._constants, self._state, np.int32(max_rounds))
            peek = jax.device_get(peek)
            if peek["short_of_columns"].any() or peek["longest"] > self.plan.step_width:
                self._widen(peek)
            elif (peek["phase_n"] == DONE).any():
                yield from self._collect(inserted_at)
                free = sorted(free + np.flatnonzero(peek["phase_n"] == DONE).tolist())
            self.idle_row_share = 1 - float(peek["busy_row_ticks"]) / max(1.0, float(peek["row_ticks"]))

    def _fill(self, waiting: deque[int], free: list[int], inserted_at: dict[int, float]) -> list[int]:
        """Inserts one batch of problems into free slots; returns the slots that are still free."""
        slot_r, problem_r, free = free_rows(self.plan, free, waiting)
        valid_r = problem_r >= 0
        now = time.monotonic()
        inserted_at.update({int(problem): now for problem in problem_r[valid_r]})
        self._state = self._insert(self._constants, self._state, self._insertion(slot_r, valid_r, problem_r))
        return free

    def _insertion(self, slot_r, valid_r, problem_r) -> Insertion:
        rows = len(slot_r)
        closings = Closings(
            token_na=np.zeros((rows, self._closing_width), np.int32),
            form_na=np.zeros((rows, self._closing_width), np.int32),
            offset_na=np.zeros((rows, self._closing_width), np.int32),
            length_n=np.zeros(rows, np.int32),
            scored_nz=np.zeros((rows, self._scored_width), np.int32),
            scored_form_nz=np.zeros((rows, self._scored_width), np.int32),
        )
        prompt_rt = [np.zeros((rows, self._prompt_width), np.int32) for _ in self._prompts]
        prompt_length_r = [np.zeros(rows, np.int32) for _ in self._prompts]
        digest_r2 = np.zeros((rows, 2), np.uint32)
        for row in np.flatnonzero(valid_r):
            problem = int(problem_r[row])
            _lay_out_closings(closings, row, self._closings[problem][1])
            digest_r2[row] = problem_digest(self.problems[problem].id)
            for tokens_rt, length_r, prompts in zip(prompt_rt, prompt_length_r, self._prompts):
                tokens_rt[row, : len(prompts[problem])] = prompts[problem]
                length_r[row] = len(prompts[problem])
        return Insertion(
            slot_r, valid_r, problem_r, digest_r2, closings, tuple(prompt_rt), tuple(prompt_length_r)
        )

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
            yield Finished(
                problem=problem,
                history=history,
                steps=steps,
                origin=int(record["origin_n"][slot]),
                score=float(record["score_n"][slot]),
                stuck=int(record["stuck_n"][slot]),
                writer=int(record["writer_n"][slot]),
                answer=record["answer_nu"][slot, : record["answer_count_n"][slot]].tolist(),
                proposed=record["proposed_nk"][slot].tolist(),
                scored=record["scored_nk"][slot].tolist(),
                texts=texts,
                seconds=time.monotonic() - inserted_at.pop(problem),
            )

    def _widen(self, peek) -> None:
        """Makes room for what did not fit, and compiles the programs anew. Rare: capacities are estimated
        ahead.
        """
        plan = self.plan
        if peek["longest"] > plan.step_width:
            plan = dataclasses.replace(plan, step_width=packing.round_up(int(peek["longest"]) * 5 // 4, 16))
        grown = [
            dataclasses.replace(reader, columns=packing.round_up(reader.columns * 3 // 2, plan.chunk))
            if short
            else reader
            for reader, short in zip(plan.readers, peek["short_of_columns"])
        ]
        added = [new.columns - old.columns for new, old in zip(grown, plan.readers)]
        self._make_programs(dataclasses.replace(plan, readers=tuple(grown)))
        shapes = jax.eval_shape(functools.partial(_with_columns, added=added), self._state)
        self._state = jax.jit(
            functools.partial(_with_columns, added=added), out_shardings=state_shardings(shapes, self.mesh)
        )(self._state)


def problem_digest(name: str) -> np.ndarray:
    """64 bits of a hash of a problem's id, uint32 [2]: what its random draws depend on."""
    return np.frombuffer(hashlib.blake2b(name.encode(), digest_size=8).digest(), "<u4")


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


def state_shardings(shapes: SearchState, mesh: Mesh):
    """Slots over `data`, key-value heads over `model` where they divide; the rest is replicated.

    An array leads with slots if the shape letters at the end of its name begin with n; keys and values are
    the leaves under `pool` `[l, n, g, s, e]` and `local` `[l, n, q, g, t, e]`, their layer axis absent unless
    stacked.
    """

    def sharding(path, leaf):
        names = [str(getattr(key, "name", "")) for key in path]
        spec = [None] * leaf.ndim
        if "pool" in names or "local" in names:
            slots = leaf.ndim - (4 if "pool" in names else 5)
            heads = leaf.ndim - 3
            spec[slots] = "data"
            if leaf.shape[heads] % mesh.shape["model"] == 0:
                spec[heads] = "model"
        elif names[-1].rpartition("_")[2].startswith("n") and "_" in names[-1]:
            spec[0] = "data"
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree_util.tree_map_with_path(sharding, shapes)


def _advance_and_peek(plan, exchange, constants, state, max_rounds):
    state = search.advance(plan, exchange, constants, state, max_rounds)
    names = ("phase_n", "step_n", "short_of_columns", "longest", "row_ticks", "busy_row_ticks")
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
        "proposed_nk",
        "scored_nk",
        "history",
    )
    record = {name: getattr(state, name) for name in names}
    record |= {"done_n": done_n, "origin_n": state.origin_nb[:, 0], "score_n": state.score_nb[:, 0]}
    return dataclasses.replace(state, phase_n=jnp.where(done_n, FREE, state.phase_n)), record


def _with_columns(state: SearchState, added: Sequence[int]) -> SearchState:
    """The state with wider pools, and nothing short any more."""
    readers = []
    for reader, more in zip(state.readers, added):

        def last(x, more=more):
            return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, more)])

        def columns(x, more=more):
            return jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, more), (0, 0)])

        readers.append(
            dataclasses.replace(
                reader,
                pool=jax.tree.map(columns, reader.pool),
                token_ns=last(reader.token_ns),
                depth_ns=last(reader.depth_ns),
                path_nbs=last(reader.path_nbs),
                view_nbs=last(reader.view_nbs),
            )
        )
    return dataclasses.replace(
        state,
        readers=tuple(readers),
        longest=jnp.zeros_like(state.longest),
        short_of_columns=jnp.zeros_like(state.short_of_columns),
    )


def _encode_closings(vocabulary, closing: str, problem: Problem):
    """The problem's id and, for each accepted form of its answer, `(ids, scored)` of closing + form + full
    stop.
    """
    return problem.id, [vocabulary.encode_with_answer(closing, form) for form in problem.forms]


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
