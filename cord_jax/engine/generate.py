"""Sampling whole texts of one model with the search's own token loop: many prompts, several samples each.

Prompts sit in slots; the samples of a prompt share its keys and values. A slot is refilled when all its
samples have ended.
"""

import dataclasses
import functools
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh

import models
from cord_jax.engine.encoded_problems import problem_digest
from cord_jax.engine.engine import free_rows
from cord_jax.engine.teachers import Reader, compile_reader
from cord_jax.pool import MetaProverSpec, PoolSpec, ProposerSpec
from cord_jax.search import loop, packing, readers
from cord_jax.search.insertion import Insertion, insert, prompt_task
from cord_jax.search.proposals import sampled_tokens
from cord_jax.search.scorers.predictive_perplexity import Closings
from cord_jax.search.shards import Shards
from cord_jax.search.slots import SubBatch, choose
from cord_jax.search.state import FREE, READING, SEARCHING, SearchPlan, SearchState, state_shardings
from cord_jax.search.tasks import perform
from cord_jax.text.vocabulary import Vocabulary


def generate(
    model: models.Decoder,
    vocabulary: Vocabulary,
    prompts: Sequence[Sequence[int]],
    *,
    samples: int,
    temperature: float,
    top_k: int,
    top_p: float,
    max_tokens: int,
    seed: int,
    keys: Sequence[str],
    slots: int,
    mesh: Mesh,
) -> Iterator[tuple[int, int, list[int], str]]:
    """Samples continuations of prompts.

    Args:
      prompts: token ids; `keys`: what identifies each prompt, for its random draws.
      samples: continuations of each prompt.
      max_tokens: tokens of a continuation, EOS included.
      slots: continuations decoded at a time; changes no sample.

    Yields: `(prompt index, sample index, token ids with EOS, "eos" or "cap")`, in the order in which prompts
      finish.
    """
    plan, constants = _plan(
        model, vocabulary, prompts, samples, (temperature, top_k, top_p), max_tokens, seed, slots, mesh
    )
    prompt_width = packing.round_up(max(map(len, prompts)), plan.chunk)
    empty = functools.partial(
        loop.empty_state, plan, prompt_width=prompt_width, closing_width=1, scored_width=1
    )
    sharding = state_shardings(jax.eval_shape(empty, constants), mesh)
    state = jax.jit(empty, out_shardings=sharding)(constants)
    put_in = jax.jit(functools.partial(insert, plan), donate_argnums=0, out_shardings=sharding)
    replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    write = jax.jit(
        functools.partial(_write, plan),
        donate_argnums=1,
        out_shardings=(sharding, replicated),
        compiler_options=plan.readers[0].execution.compiler_options,
    )
    take_out = jax.jit(_take_out, donate_argnums=0, out_shardings=(sharding, replicated))
    waiting, free = deque(range(len(prompts))), list(range(plan.slots))
    while waiting or len(free) < plan.slots:
        while waiting and free:
            slot_r, prompt_r, free = free_rows(plan, free, waiting)
            state = put_in(state, _insertion(slot_r, prompt_r, prompts, keys, prompt_width))
        state, finished = write(constants, state)
        if not jax.device_get(finished):
            continue
        state, record = take_out(state)
        record = jax.device_get(record)
        for slot in np.flatnonzero(record["done_n"]):
            for sample in range(samples):
                count = record["count_nq"][slot, sample]
                ended = "eos" if record["stopped_nq"][slot, sample] == readers.EOS else "cap"
                yield (
                    int(record["problem_n"][slot]),
                    sample,
                    record["token_nqt"][slot, sample, :count].tolist(),
                    ended,
                )
        free = sorted(free + np.flatnonzero(record["done_n"]).tolist())


def _plan(model, vocabulary, prompts, samples, sampling, max_tokens, seed, slots, mesh):
    """A search plan with one proposer and a beam a sample, of which only insertion and the token loop are
    used.
    """
    data = mesh.shape.get("data", 1)
    slots = packing.round_up(max(1, min(slots // samples, len(prompts))), data)
    path = Path()
    spec = PoolSpec((ProposerSpec("model", path, *sampling),), MetaProverSpec(path))
    execution = models.execution_of(model.config, mesh, model.dtype, decodes=True)
    reader = Reader(path, None, model, execution, vocabulary, 0, (0,))
    columns = max(map(len, prompts)) + 1
    reader_plan, constants = compile_reader(reader, spec, "line_break", 1, columns, mesh)
    reader_plan = dataclasses.replace(
        reader_plan, start=reader_plan.free
    )  # only EOS and the cap end a sample
    plan = SearchPlan(
        readers=(reader_plan,),
        meta=0,
        num_proposers=1,
        num_beams=samples,
        slots=slots,
        whole=True,
        max_steps=1,
        max_step_tokens=max_tokens,
        max_thinking_tokens=max_tokens,
        max_answer_tokens=1,
        step_width=1,
        num_forms=1,
        shards=Shards(mesh, max(1, min(4, slots // data))),
        quantum=256,
        score_group=samples,
        seed=seed,
    )
    return plan, (constants,)


def _insertion(slot_r, prompt_r, prompts, keys, width) -> Insertion:
    rows = len(slot_r)
    token_rt, length_r = np.zeros((rows, width), np.int32), np.zeros(rows, np.int32)
    digest_r2 = np.zeros((rows, 2), np.uint32)
    for row in np.flatnonzero(prompt_r >= 0):
        ids = prompts[prompt_r[row]]
        token_rt[row, : len(ids)], length_r[row] = ids, len(ids)
        digest_r2[row] = problem_digest(keys[prompt_r[row]])
    nothing = np.zeros((rows, 1), np.int32)
    closings = Closings(nothing, nothing, nothing, np.zeros(rows, np.int32), nothing, nothing)
    return Insertion(
        slot_r,
        prompt_r >= 0,
        prompt_r,
        digest_r2,
        np.zeros(rows, np.int32),
        closings,
        (token_rt,),
        (length_r,),
    )


def _all_ended(state: SearchState):
    return (state.phase_n == SEARCHING) & ~loop.rows_running(state)


def _write(plan: SearchPlan, constants, state: SearchState):
    """Reads prompts and writes quanta of tokens until all samples of some slot have ended; at most 16 quanta a call."""

    def going(carry):
        quanta, state = carry
        busy = loop.rows_running(state) | (state.phase_n == READING)
        return (quanta < 16) & busy.any() & ~_all_ended(state).any()

    def of_shard(constants, state):
        def reads(state):
            return plan.shards.agreed((state.phase_n == READING).any())

        def read(state):
            slot_r = choose((state.phase_n == READING).astype(jnp.int32), plan.shards.rows)
            batch = SubBatch(slot_r, state.phase_n[slot_r] == READING)
            return perform(plan, constants, state, batch, prompt_task(plan, state, batch))

        state = lax.while_loop(reads, read, state)
        return loop.write(plan, constants, state, plan.quantum)

    def body(carry):
        quanta, state = carry
        return quanta + 1, plan.shards.each(of_shard, constants, state)

    state = lax.while_loop(going, body, (jnp.int32(0), state))[1]
    return state, _all_ended(state).any()


def _take_out(state: SearchState):
    """Frees the slots whose samples have all ended; returns what they hold."""
    done_n, rows = _all_ended(state), state.readers[0].rows
    record = {
        "done_n": done_n,
        "problem_n": state.problem_n,
        "count_nq": rows.count_nq,
        "stopped_nq": rows.stopped_nq,
        "token_nqt": sampled_tokens(rows),
    }
    return dataclasses.replace(state, phase_n=jnp.where(done_n, FREE, state.phase_n)), record
