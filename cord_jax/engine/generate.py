"""Sampling whole texts of one model with the search's own token loop: many prompts, several samples each.

Prompts sit in slots; the samples of a slot share the keys and values of their prompt. Where a prompt has more samples
than are decoded at a time, it takes several slots, a part of its samples each. A slot is refilled when all its samples
have ended. There is no search here: what is needed of it are slots, the reading of prompts and the token loop.
"""

import dataclasses
import functools
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import models
from cord_jax.engine.encoded_problems import EncodedPrompts, problem_digest
from cord_jax.engine.engine import free_rows
from cord_jax.engine.limits import bytes_per_device, check_room
from cord_jax.engine.plan import ReaderParts, plan_sampling
from cord_jax.engine.tables import make_tables
from cord_jax.engine.teachers import reader_constants
from cord_jax.search import loop, readers
from cord_jax.search.insertion import Insertion, insert_prompts, prompt_task
from cord_jax.search.jax_tools import axes, pytree
from cord_jax.search.proposals import sampled_tokens
from cord_jax.search.sampling import SamplingSettings
from cord_jax.search.slots import SubBatch, choose
from cord_jax.search.state import FREE, READING, SEARCHING, SlotPlan, SlotState, state_shardings
from cord_jax.search.tasks import Start, perform
from cord_jax.text.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class SampleSettings:
    """Settings of sampling.

    Attributes:
      samples: continuations of each prompt.
      temperature, top_k, top_p: as in `sampling.SamplingSettings`.
      max_tokens: tokens of a continuation, EOS included.
      seed: of all draws.
      slots: continuations decoded at a time; changes no sample.
    """

    samples: int
    temperature: float
    top_k: int
    top_p: float
    max_tokens: int
    seed: int
    slots: int


@dataclasses.dataclass(frozen=True)
class _Parts:
    """The division of a prompt's samples among slots.

    Attributes:
      samples: of a prompt.
      width: of them in one slot, at most.
    """

    samples: int
    width: int

    @property
    def count(self) -> int:
        """Slots that a prompt takes, one after the other or at a time."""
        return -(-self.samples // self.width)

    def samples_of(self, part: int) -> range:
        """The samples of a part, the first at place 0 of its slot."""
        return range(part * self.width, min((part + 1) * self.width, self.samples))

    def labelled(self, start: Start, problem_r: jax.Array) -> Start:
        """Numbers what rows write by the part's samples, which draws depend on, and not by places.

        Args:
          problem_r: int32, prompt times `count` plus part.
        """
        label_rb = start.label_rb + (problem_r % self.count * self.width)[:, None]
        return dataclasses.replace(
            start, label_rb=label_rb, open_rb=start.open_rb & (label_rb < self.samples)
        )


@pytree
class _Sampled:
    """Contents of the slots whose samples have all ended (`done_n`)."""

    done_n: jax.Array = axes("slot")
    problem_n: jax.Array = axes("slot")
    count_nq: jax.Array = axes("slot", "text")
    stopped_nq: jax.Array = axes("slot", "text")
    token_nqt: jax.Array = axes("slot", "text", "token")


def generate(
    model: models.Decoder,
    vocabulary: Vocabulary,
    prompts: Sequence[Sequence[int]],
    keys: Sequence[str],
    settings: SampleSettings,
    mesh: Mesh,
    on_look: Callable[[], None] = lambda: None,
) -> Iterator[tuple[int, int, list[int], str]]:
    """Samples continuations of prompts.

    Args:
      on_look: is called every few quanta of tokens.
      prompts: token ids; `keys`: what identifies each prompt, for its random draws.

    Returns: `(prompt index, sample index, token ids with EOS, "eos" or "cap")`, in the order in which slots finish, as they
      are asked for.

    Raises: `UserError` if there is no room for so many samples; at once, before anything is sampled.
    """
    parts = _Parts(settings.samples, min(settings.samples, settings.slots))
    digests = [problem_digest(key) for key in keys]
    encoded = EncodedPrompts(
        [[prompt for prompt in prompts for _ in range(parts.count)]],
        [digest for digest in digests for _ in range(parts.count)],
    )
    tables = make_tables(vocabulary, model.config.vocab_size, "line_break", 1)
    sampling = SamplingSettings((settings.temperature,), (settings.top_k,), (settings.top_p,))
    slots = max(1, min(settings.slots // parts.width, len(prompts) * parts.count))
    execution = models.execution_of(model.config, mesh, model.dtype, decodes=True)
    plan = plan_sampling(
        ReaderParts(model, execution, 0, (0,), sampling, tables),
        parts.width,
        settings.max_tokens,
        slots,
        settings.seed,
        encoded.width,
        mesh,
    )
    constants = (reader_constants(model, tables, mesh),)
    empty = functools.partial(loop.empty_slots, plan, prompt_width=encoded.width)
    shapes = jax.eval_shape(empty, constants)
    sharding = state_shardings(shapes, mesh)
    check_room(
        mesh,
        f"{plan.slots * parts.width} samples at a time",
        bytes_per_device(shapes, sharding),
        "lower --slots or --max_tokens, or use more devices (--mesh)",
    )
    put_in = jax.jit(functools.partial(_insert, plan), donate_argnums=0, out_shardings=sharding)
    replicated = NamedSharding(mesh, PartitionSpec())
    write = jax.jit(
        functools.partial(_write, plan, parts),
        donate_argnums=1,
        out_shardings=(sharding, replicated),
        compiler_options=execution.compiler_options,
    )
    take_out = jax.jit(_take_out, donate_argnums=0, out_shardings=(sharding, replicated))

    def samples() -> Iterator[tuple[int, int, list[int], str]]:
        state = jax.jit(empty, out_shardings=sharding)(constants)
        waiting, free = deque(range(len(prompts) * parts.count)), list(range(plan.slots))
        while waiting or len(free) < plan.slots:
            while waiting and free:
                slot_r, prompt_r, free = free_rows(plan, free, waiting)
                state = put_in(state, encoded.insertion(slot_r, prompt_r, np.zeros_like(prompt_r)))
            state, finished = write(constants, state)
            on_look()
            if not jax.device_get(finished):
                continue
            state, sampled = take_out(state)
            sampled = jax.device_get(sampled)
            for slot in np.flatnonzero(sampled.done_n):
                prompt, part = divmod(int(sampled.problem_n[slot]), parts.count)
                for place, sample in enumerate(parts.samples_of(part)):
                    ids = sampled.token_nqt[slot, place, : sampled.count_nq[slot, place]].tolist()
                    ended = "eos" if sampled.stopped_nq[slot, place] == readers.EOS else "cap"
                    yield prompt, sample, ids, ended
            free = sorted(free + np.flatnonzero(sampled.done_n).tolist())

    return samples()


def _insert(plan: SlotPlan, state: SlotState, insertion: Insertion) -> SlotState:
    def of_shard(_, state, insertion):
        return insert_prompts(plan, state, insertion)

    return plan.shards.each(of_shard, None, state, insertion)


def _all_ended(state: SlotState):
    return (state.clock.phase_n == SEARCHING) & ~loop.rows_running(state)


def _write(plan: SlotPlan, parts: _Parts, constants, state: SlotState):
    """Reads prompts and writes quanta of tokens until all samples of some slot have ended; at most 16 quanta a call."""

    def going(carry):
        quanta, state = carry
        busy = loop.rows_running(state) | (state.clock.phase_n == READING)
        return (quanta < 16) & busy.any() & ~_all_ended(state).any()

    def of_shard(constants, state):
        def reads(state):
            return plan.shards.agreed((state.clock.phase_n == READING).any())

        def read(state):
            slot_r = choose((state.clock.phase_n == READING).astype(jnp.int32), plan.shards.rows)
            batch = SubBatch(slot_r, state.clock.phase_n[slot_r] == READING)
            task = prompt_task(plan, state, batch)
            start = parts.labelled(task.start, batch.take(state.clock.problem_n))
            return perform(plan, constants, state, batch, dataclasses.replace(task, start=start))

        state = lax.while_loop(reads, read, state)
        return loop.write(plan, constants, state, plan.quantum)

    def body(carry):
        quanta, state = carry
        return quanta + 1, plan.shards.each(of_shard, constants, state)

    state = lax.while_loop(going, body, (jnp.int32(0), state))[1]
    return state, _all_ended(state).any()


def _take_out(state: SlotState) -> tuple[SlotState, _Sampled]:
    """Frees the slots whose samples have all ended; returns what they hold."""
    done_n, rows = _all_ended(state), state.readers[0].rows
    sampled = _Sampled(done_n, state.clock.problem_n, rows.count_nq, rows.stopped_nq, sampled_tokens(rows))
    clock = dataclasses.replace(state.clock, phase_n=jnp.where(done_n, FREE, state.clock.phase_n))
    return dataclasses.replace(state, clock=clock), sampled
