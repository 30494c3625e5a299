"""How near the engine comes to what one GPU can do, and how it fares there beside a transformers user's
search (`benchmarks.transformers_search`); on a CPU the same with less.

    python -m benchmarks.gpu --output=gpu.json                                    # a 1.5B Qwen2's shape
    python -m benchmarks.gpu --model_shape=7b --proposers=1 --parts=decode,scoring
    python -m benchmarks.gpu --model_shape=tiny --shrink=32 --slots=2 --limit=3   # on a CPU

Parts: `rates` measures a large copy and a large matrix product, which the other parts are compared with;
`decode` the engine's token loop in bytes that a tick has to read; `scoring` the meta-prover's pass over the
candidates of a sub-batch in operations that their tokens need; `search` whole searches by both programs, each
on one device, in turns, of which the best one counts. Decoding and scoring are measured in the middle of the
engine's first run, on the prefix trees that it has built by then; it compiles in that run, and torch warms up
in its first turn.

The weights are random, with steps of scattered lengths. Both programs draw their tokens, so they write
different texts of the same kind, and the fair comparison is that of tokens a second. With --greedy they write
the most probable tokens: their traces can be compared, but random networks then soon repeat themselves, and
steps are very short or as long as they may be. In bfloat16 even greedy traces part where rounding decides.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from benchmarks import report
from benchmarks.peer import EngineSearch, Outcome, PeerSearch, timed
from cord_jax.errors import UserError
from launch import common

FLAGS = flags.FlagValues()
PARTS = ("rates", "decode", "scoring", "search")
flags.DEFINE_enum(
    "model_shape", "1.5b", ["7b", "1.5b", "0.5b", "small", "tiny"], "shape of the networks", flag_values=FLAGS
)
flags.DEFINE_integer("slots", 8, "problems that either program searches at a time", 1, flag_values=FLAGS)
flags.DEFINE_integer("beam_width", 4, "hypotheses kept", 1, flag_values=FLAGS)
flags.DEFINE_integer("proposers", 3, "proposers of at most two checkpoints", 1, flag_values=FLAGS)
flags.DEFINE_integer("limit", 16, "problems", 1, flag_values=FLAGS)
flags.DEFINE_integer("max_step_tokens", 1024, "tokens of a step", 1, flag_values=FLAGS)
flags.DEFINE_integer("max_thinking_tokens", 4096, "tokens of the reasoning", 1, flag_values=FLAGS)
flags.DEFINE_integer(
    "shrink", 1, "divides all lengths: of steps and responses, and their limits", 1, flag_values=FLAGS
)
flags.DEFINE_integer("repetitions", 1, "turns of each program", 1, flag_values=FLAGS)
flags.DEFINE_integer("threads", 0, "torch's threads; 0 is one a core", flag_values=FLAGS)
flags.DEFINE_bool("greedy", False, "write the most probable tokens and compare traces", flag_values=FLAGS)
flags.DEFINE_list("parts", list(PARTS), "what is measured; rates always is", flag_values=FLAGS)
flags.DEFINE_string("output", None, "JSON file for the results", flag_values=FLAGS)

# Rows of the embedding in real networks of a shape; the others have as many as the vocabulary has tokens.
VOCABULARIES = {"0.5b": 151936, "1.5b": 151936, "7b": 152064}
MAX_STEPS, MAX_ANSWER_TOKENS = 32, 256
# Runs of a program of which the fastest counts, and ticks of a run of the token loop.
TURNS, TICKS = 6, 64


@dataclasses.dataclass(frozen=True)
class Scale:
    """What a device is measured with.

    Attributes:
      dtype: of all weights and of the rates.
      copied: numbers that are copied.
      side: of the matrices that are multiplied.
    """

    dtype: str
    copied: int
    side: int


CPU = Scale("float32", 1 << 20, 1024)
ACCELERATOR = Scale("bfloat16", 1 << 31, 16384)


@dataclasses.dataclass(frozen=True)
class Turn:
    """A program's search of all problems: its time, the tokens that were written, and what was found."""

    seconds: float
    tokens: float
    outcomes: list[Outcome]


def main(values: flags.FlagValues) -> None:
    """Prints the table, and writes the numbers as JSON if asked."""
    # Before jax meets the device: both programs live on it, so neither may take all of its memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    report.run(measure, table, values)


def measure(values: flags.FlagValues, scratch: Path) -> dict:
    """Measures the parts one after another; the numbers of the table.

    Raises: `UserError` if there is no such part.
    """
    import jax

    for part in values.parts:
        if part not in PARTS:
            raise UserError(f"--parts={part}: no such part; there are {', '.join(PARTS)}")
    scale = CPU if jax.default_backend() == "cpu" else ACCELERATOR
    result = {
        "flags": {name: values[name].value for name in values},
        "device": jax.devices()[0].device_kind,
        "dtype": scale.dtype,
        "rates": measure_rates(scale),
    }
    if set(values.parts) <= {"rates"}:
        return result
    habits = shrunk_habits(values.shrink)
    spec, problems, settings = inputs(values, habits, scale, scratch)
    search = EngineSearch(spec, problems, settings)
    running = search.engine.run(range(len(problems)))
    finished = [next(running)]  # all has been compiled now, and the other searches are under way
    if "decode" in values.parts:
        result["decode"] = measure_decode(search.engine, result["rates"])
        report.save(result, values)
    if "scoring" in values.parts:
        result["scoring"] = measure_scoring(search.engine, habits, result["rates"])
        report.save(result, values)
    if "search" in values.parts:
        finished += running
        result["search"] = measure_search(values, search, spec, settings, scale.dtype)
        result["search"]["proposed_tokens"] = lengths(finished)
    return result


def shrunk_habits(shrink: int):
    """The usual habits, with all lengths divided."""
    from benchmarks.synthetic import Habits

    usual = Habits()
    return dataclasses.replace(
        usual,
        step_lengths=tuple(max(2.0, length / shrink) for length in usual.step_lengths),
        response=max(2.0, usual.response / shrink),
    )


def inputs(values: flags.FlagValues, habits, scale: Scale, scratch: Path) -> tuple:
    """The pool, the problems and the settings of the searches."""
    import torch

    from benchmarks import synthetic
    from cord_jax.methods import search_of
    from cord_jax.pool import read_pool
    from cord_jax.problems import read_problems

    pool = synthetic.write_pool(
        scratch,
        values.model_shape,
        habits,
        checkpoints=min(2, values.proposers),
        proposers=values.proposers,
        temperature=0.0 if values.greedy else 1.0,
        dtype=scale.dtype,
        vocab_size=VOCABULARIES.get(values.model_shape),
    )
    torch.cuda.empty_cache()  # the networks have been made on the device
    problems = read_problems(synthetic.write_problems(scratch / "problems.jsonl", values.limit))
    settings = search_of(
        beam_width=values.beam_width,
        max_steps=MAX_STEPS,
        max_step_tokens=max(8, values.max_step_tokens // values.shrink),
        max_thinking_tokens=max(8, values.max_thinking_tokens // values.shrink),
        max_answer_tokens=max(8, MAX_ANSWER_TOKENS // values.shrink),
        slots=min(values.slots, values.limit),
    )
    return read_pool(pool), problems, settings


def fastest(program: Callable, *arguments: Any) -> float:
    """Seconds of the fastest of several calls, after one that is not counted."""
    return fastest_in_turn(lambda _: program(*arguments), None)[0]


def fastest_in_turn(program: Callable, given: Any) -> tuple[float, Any]:
    """The same for a program that takes what it has returned; `(seconds, what the last call returned)`."""
    import jax

    def run(given):
        return jax.block_until_ready(program(given))

    seconds = []
    for _ in range(TURNS + 1):
        spent, given = timed(functools.partial(run, given))
        seconds.append(spent)
    return min(seconds[1:]), given


def measure_rates(scale: Scale) -> dict[str, float]:
    """Bytes a second that a large copy reads and writes; operations a second of a large matrix product."""
    import jax
    import jax.numpy as jnp

    x = jnp.ones(scale.copied, scale.dtype)
    if jax.default_backend() == "cpu":  # in place, or it would spend its time on new pages
        copying, x = fastest_in_turn(jax.jit(lambda x: x + 1, donate_argnums=0), x)
    else:
        copying = fastest(jax.jit(jnp.copy), x)
    # Not ones: multiplying them takes less power than other numbers do, and with that less time.
    y = jax.random.normal(jax.random.key(0), (scale.side, scale.side), scale.dtype)
    return {
        "copy_bytes_per_second": 2 * x.nbytes / copying,
        "matmul_operations_per_second": 2 * scale.side**3 / fastest(jax.jit(jnp.matmul), y, y),
    }


def measure_decode(engine, rates: dict[str, float]) -> dict:
    """The meta-prover's token loop, which is a proposer's too, with all rows running.

    What a tick must read is the parameters, but of the embedding only some rows; the columns that some row of
    the slot sees; and of the rings what the rows have written so far. What it does read is whole tiles or pieces of
    these.
    """
    import jax
    import jax.numpy as jnp

    from cord_jax.search.proposals import propose

    plan, index = engine.plan, engine.plan.meta
    reader, constants, state = plan.readers[index], engine._constants[index], engine._state.readers[index]
    # Nothing ends a text but a full ring.
    constants = dataclasses.replace(constants, eos_v=jnp.zeros_like(constants.eos_v))
    ring = plan.max_step_tokens
    quantum = min(TICKS, ring)

    def write(constants, state, rows):
        state = dataclasses.replace(state, rows=restarted(reader, ring, state.tick_y[0], rows))
        return propose(reader, plan.shards, constants, state, quantum)[0].rows

    program = jax.jit(write, donate_argnums=2, compiler_options=reader.execution.compiler_options)
    unwritten, rows = dataclasses.replace(state, rows=None), jax.tree.map(jnp.copy, state.rows)
    spent, rows = fastest_in_turn(functools.partial(program, constants, unwritten), rows)
    ticks = int(rows.count_nq.min())
    spent /= ticks

    view_nbs = np.asarray(state.view_nbs)
    slots, num_rows = rows.count_nq.shape
    weights = total_bytes(constants.weights) - total_bytes(constants.weights["embed"])
    column = total_bytes(state.pool) / (slots * reader.columns)
    ring_column = total_bytes(rows.local) / rows.token_nqt.size
    seen = int(view_nbs.any(1).sum())
    written = slots * num_rows * (ticks + 1) / 2  # the mean over the ticks
    must_read = weights + column * seen + ring_column * written
    return {
        "rows": slots * num_rows,
        "ticks": ticks,
        "seconds_per_tick": spent,
        "tokens_per_second": slots * num_rows / spent,
        "parameter_bytes": weights,
        "seen_columns_per_slot": seen / slots,
        "must_read_bytes": must_read,
        "must_read_bytes_per_second": must_read / spent,
        "share_of_copy": must_read / spent / rates["copy_bytes_per_second"],
    }


def restarted(reader, ring: int, tick, rows):
    """The rows as they begin a text that has no boundaries, from ring column `tick` on."""
    import jax.numpy as jnp

    zeros_nq = jnp.zeros_like(rows.count_nq)
    return dataclasses.replace(
        rows,
        start_nq=zeros_nq + tick,
        count_nq=zeros_nq,
        limit_nq=zeros_nq + ring,
        boundary_nq=zeros_nq + reader.free,
        running_nq=zeros_nq == 0,
        stopped_nq=zeros_nq,
    )


def measure_scoring(engine, habits, rates: dict[str, float]) -> dict:
    """The meta-prover's pass over the candidates of one sub-batch, whose lengths scatter as the habits say.

    Operations are counted for the tokens of candidates and closings, and not for the padding of chunks.
    """
    import jax
    import jax.numpy as jnp
    from transformers import AutoConfig

    from benchmarks.transformers_search import Work
    from cord_jax.search.slots import SubBatch

    plan, state = engine.plan, engine._state
    num_rows, execution = plan.shards.rows, plan.readers[plan.meta].execution
    batch = SubBatch(jnp.arange(num_rows), jnp.ones(num_rows, bool))
    candidates = random_candidates(plan, len(engine.exchange.vocabularies), habits)

    def score(constants, state, batch, candidates):
        return plan.scorer(plan, constants, state, batch, candidates).score_rj

    program = jax.jit(score, compiler_options=execution.compiler_options)
    spent = fastest(program, engine._constants, state, batch, candidates)

    closing_r = np.asarray(state.closings.length_n)[:num_rows]
    scored_r = (np.asarray(state.closings.scored_form_nz)[:num_rows] > 0).sum(1)
    beam_j = np.arange(plan.candidates) // plan.num_proposers
    base_rj = np.asarray(state.readers[plan.meta].length_nb)[:num_rows, beam_j]
    tokens_rj = np.asarray(candidates.length_urj)[plan.readers[plan.meta].vocabulary] + closing_r[:, None]
    work = Work(
        tokens=int(tokens_rj.sum()),
        projected=plan.candidates * int(scored_r.sum()),
        context=int((tokens_rj * base_rj + tokens_rj * (tokens_rj + 1) // 2).sum()),
    )
    operations = work.operations(AutoConfig.from_pretrained(engine.teachers.readers[plan.meta].checkpoint))
    return {
        "candidates": tokens_rj.size,
        "tokens": work.tokens,
        "tokens_with_padding": execution.chunk * int((-(-tokens_rj.sum(1) // execution.chunk)).sum()),
        "longest_past": int(base_rj.max()),
        "seconds": spent,
        "operations": operations,
        "operations_per_second": operations / spent,
        "share_of_matmul": operations / spent / rates["matmul_operations_per_second"],
    }


def random_candidates(plan, vocabularies: int, habits):
    """Candidates of a sub-batch of one shard, none of them dropped."""
    import jax
    import jax.numpy as jnp

    from cord_jax.search.exchange import candidate_shapes

    rng = np.random.default_rng(0)
    shapes = candidate_shapes(plan, vocabularies, plan.shards.rows)
    zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
    topic_urj = rng.choice(len(habits.topic_shares), shapes.length_urj.shape, p=habits.topic_shares)
    length_urj = rng.geometric(1 / np.asarray(habits.step_lengths)[topic_urj])
    return dataclasses.replace(
        zeros,
        token_urjt=jnp.asarray(rng.integers(256, size=shapes.token_urjt.shape), jnp.int32),
        length_urj=jnp.asarray(np.minimum(length_urj, plan.max_step_tokens), jnp.int32),
    )


def measure_search(values: flags.FlagValues, search: EngineSearch, spec, settings, dtype: str) -> dict:
    """Whole searches by both programs; the engine has searched all problems before and compiles no more."""
    import torch

    from benchmarks.drawing import DrawingReader

    torch.set_num_threads(values.threads or os.cpu_count())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    peer = PeerSearch(spec, search.problems, settings, device, dtype)
    readers = [DrawingReader(reader, values.greedy) for reader in peer.searcher.readers]
    peer.searcher.readers = readers
    others = f"transformers, {settings.slots} in lock-step"
    programs = {
        "cord_jax": (search.search, lambda: float(search.engine._state.meters.busy_y.sum())),
        others: (lambda: peer.search(settings.slots), lambda: sum(reader.written for reader in readers)),
    }
    turns: dict[str, list[Turn]] = {name: [] for name in programs}
    for _ in range(values.repetitions):
        for name, (program, written) in programs.items():
            before = written()
            seconds, outcomes = timed(program)
            turns[name].append(Turn(seconds, written() - before, outcomes))
    best = {name: min(mine, key=lambda turn: turn.seconds / turn.tokens) for name, mine in turns.items()}
    problems = len(search.problems)
    ours, theirs = best["cord_jax"], best[others]
    return {
        "problems": problems,
        "transformers_device": torch.cuda.get_device_name() if device == "cuda" else device,
        "seconds": {name: [turn.seconds for turn in mine] for name, mine in turns.items()},
        "tokens": {name: [turn.tokens for turn in mine] for name, mine in turns.items()},
        "problems_per_second": {name: problems / turn.seconds for name, turn in best.items()},
        "tokens_per_second": {name: turn.tokens / turn.seconds for name, turn in best.items()},
        "steps_per_problem": {
            name: sum(len(outcome.steps) for outcome in turn.outcomes) / problems
            for name, turn in best.items()
        },
        "ratio": theirs.seconds / ours.seconds,
        "ratio_of_tokens_per_second": theirs.seconds / theirs.tokens * ours.tokens / ours.seconds,
        "same_traces": sum(
            (one.steps, one.response) == (other.steps, other.response)
            for one, other in zip(ours.outcomes, theirs.outcomes, strict=True)
        ),
        "idle_row_share": search.engine.meter.idle_row_share,
    }


def lengths(finished: Iterable) -> dict[str, float]:
    """How long the proposals of searches were, in tokens."""
    sampled = np.concatenate([f.tree.sampled_nmj[f.tree.sampled_nmj > 0] for f in finished])
    median, ninth = np.quantile(sampled, [0.5, 0.9])
    return {
        "mean": float(sampled.mean()),
        "median": float(median),
        "ninth_decile": float(ninth),
        "longest": int(sampled.max()),
    }


def total_bytes(tree: Any) -> int:
    """Bytes of all arrays of a pytree."""
    import jax

    return sum(x.nbytes for x in jax.tree.leaves(tree))


def table(result: dict) -> str:
    """The report."""
    settings, rates = result["flags"], result["rates"]
    lines = [
        f"{result['device']}, networks of shape {settings['model_shape']} in {result['dtype']}: "
        f"{settings['slots']} slots, B = {settings['beam_width']}, K = {settings['proposers']}",
        f"copy      {rates['copy_bytes_per_second'] / 1e9:10.1f} GB/s",
        f"product   {rates['matmul_operations_per_second'] / 1e9:10.1f} G operations/s",
    ]
    if "decode" in result:
        part = result["decode"]
        lines += [
            f"decode    {1e3 * part['seconds_per_tick']:10.3f} ms a tick of {part['rows']} rows; "
            f"{part['tokens_per_second']:.0f} tokens/s",
            f"{'':10}{part['must_read_bytes_per_second'] / 1e9:10.1f} GB/s of what a tick must read "
            f"({part['must_read_bytes'] / 1e9:.4f} GB): {100 * part['share_of_copy']:.1f} % of the copy's",
        ]
    if "scoring" in result:
        part = result["scoring"]
        lines += [
            f"scoring   {1e3 * part['seconds']:10.3f} ms for {part['candidates']} candidates of "
            f"{part['tokens']} tokens ({part['tokens_with_padding']} with padding)",
            f"{'':10}{part['operations_per_second'] / 1e9:10.1f} G operations/s: "
            f"{100 * part['share_of_matmul']:.1f} % of the product's",
        ]
    if "search" in result:
        part, proposed = result["search"], result["search"]["proposed_tokens"]
        lines.append(f"search    {'':28} problems/s   tokens/s   steps/problem")
        for name, rate in part["problems_per_second"].items():
            lines.append(
                f"{'':10}{name:28} {rate:10.3f} {part['tokens_per_second'][name]:10.0f} "
                f"{part['steps_per_problem'][name]:15.1f}"
            )
        traces = f"; {part['same_traces']} of {part['problems']} traces are the same"
        lines += [
            f"{'':10}cord_jax is faster than transformers ({part['transformers_device']}) by "
            f"{part['ratio']:.2f} in problems, {part['ratio_of_tokens_per_second']:.2f} in tokens"
            + (traces if settings["greedy"] else ""),
            f"{'':10}proposals of {proposed['mean']:.0f} tokens (median {proposed['median']:.0f}, "
            f"ninth decile {proposed['ninth_decile']:.0f}, longest {proposed['longest']}); "
            f"{100 * part['idle_row_share']:.0f} % of decoded rows are idle",
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    common.run(main, FLAGS, __doc__)
