"""The engine beside the same search by a transformers user (`benchmarks.transformers_search`), one problem
at a time and batches in lock-step, on the same weights and machine; their traces are compared.

    python -m benchmarks.peer                                     # the miniature
    python -m benchmarks.peer --model_shape=0.5b --limit=8        # random weights of a 0.5B Qwen2's shape
    python -m benchmarks.peer --batches=8,16 --slots=16           # in lock-step only

Random networks write at temperature 1, with the same draws in all programs, steps whose lengths have a heavy tail, as
reasoning models do; `--temperature=0` lets them write up to the limit.

Every program searches all problems once before it is timed: the engine compiles then, and torch warms up.
Then they take turns, and each one's best turn counts. The floor is the arithmetic of the tokens that the
search has to read, at the measured rate of a large matrix product.
"""

import dataclasses
import functools
import operator
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from absl import flags

from benchmarks import report
from cord_jax.errors import UserError
from launch import common

FLAGS = flags.FlagValues()
flags.DEFINE_enum(
    "model_shape",
    "miniature",
    ["miniature", "0.5b", "tiny"],
    "weights: shipped, or random",
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "temperature", None, ["0", "1"], "default: 0 for the miniature, 1 for random weights", flag_values=FLAGS
)
flags.DEFINE_integer("limit", 32, "problems", flag_values=FLAGS)
flags.DEFINE_integer("proposers", 3, "proposers of a random pool of two checkpoints", flag_values=FLAGS)
flags.DEFINE_integer("beam_width", 4, "hypotheses kept", flag_values=FLAGS)
flags.DEFINE_integer("max_steps", 14, "rounds", flag_values=FLAGS)
flags.DEFINE_integer("max_step_tokens", 40, "tokens of a step", flag_values=FLAGS)
flags.DEFINE_integer("max_thinking_tokens", 320, "tokens of the reasoning", flag_values=FLAGS)
flags.DEFINE_integer("max_answer_tokens", 48, "tokens of a response", flag_values=FLAGS)
flags.DEFINE_integer("slots", 8, "problems that the engine searches at a time", flag_values=FLAGS)
flags.DEFINE_string("batches", "1,8", "problems that the peer searches at a time", flag_values=FLAGS)
flags.DEFINE_integer("repetitions", 3, "turns of each program", flag_values=FLAGS)
flags.DEFINE_integer("threads", 0, "torch's threads; 0 is one a core", flag_values=FLAGS)
flags.DEFINE_string("output", None, "JSON file for the results", flag_values=FLAGS)

# Scores nearer than this may be ranked either way: float32 sums depend on the order of their terms.
ROUNDING = 1e-4
SETTINGS = (
    "beam_width",
    "max_steps",
    "max_step_tokens",
    "max_thinking_tokens",
    "max_answer_tokens",
    "slots",
)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a program found for a problem: text, writer and ending of each step; scores; the response."""

    steps: tuple[tuple[str, str, str], ...]
    scores: tuple[float, ...]
    response: str | None


class EngineSearch:
    """The engine, kept between searches so that it compiles once."""

    def __init__(self, spec, problems, settings, devices: int = 1):
        from cord_jax.engine.engine import Engine
        from cord_jax.engine.teachers import load_teachers
        from cord_jax.mesh import parse_mesh

        mesh = parse_mesh(f"data:{devices},model:1")
        self.problems, self.teachers = problems, load_teachers(spec, mesh)
        self.engine = Engine(self.teachers, problems, settings, mesh)

    def search(self) -> list[Outcome]:
        from cord_jax.engine.harvest import read_trace
        from cord_jax.grading import open_grader
        from cord_jax.traces import Provenance

        outcomes, made = {}, Provenance("cord", "predictive_perplexity", "beam", "benchmark")
        with open_grader("exact") as grader:
            for finished in self.engine.run(range(len(self.problems))):
                trace = read_trace(finished, self.problems[finished.problem], self.teachers, grader, made)
                outcomes[finished.problem] = Outcome(
                    tuple((step.text, step.teacher, step.ended) for step in trace.steps),
                    tuple(step.score for step in trace.steps),
                    trace.response,
                )
        return [outcomes[index] for index in range(len(self.problems))]


class Draws:
    """The engine's draws at temperature 1, as noise on logits; kept, so that a program that is timed has them."""

    def __init__(self, engine: EngineSearch, settings):
        self.seed = settings.seed
        self.tokens = max(settings.max_step_tokens, settings.max_answer_tokens)
        readers = engine.teachers.readers
        self.width_of = {k: reader.model.config.vocab_size for reader in readers for k in reader.proposers}
        self.made = {}

    def __call__(self, problem: str, step: int, beam: int, proposer: int):
        """Float32 [tokens, vocabulary], a torch tensor."""
        import jax
        import torch

        from cord_jax.engine.encoded_problems import problem_digest
        from cord_jax.search.sampling import problem_key, row_key

        row = problem, step, beam, proposer
        if row not in self.made:
            width = self.width_of[proposer]
            key = row_key(problem_key(self.seed, problem_digest(problem)), step, beam, proposer)
            key = jax.random.wrap_key_data(key)
            noise = jax.vmap(lambda i: jax.random.gumbel(jax.random.fold_in(key, i), (width,)))(
                np.arange(self.tokens)
            )
            self.made[row] = torch.from_numpy(np.array(noise))
        return self.made[row]


class PeerSearch:
    """The transformers search, with its work counted."""

    def __init__(self, spec, problems, settings, device="cpu", dtype="float32", noise=None):
        import torch

        from benchmarks.transformers_search import TransformersSearch

        self.problems, self.names = problems, [proposer.name for proposer in spec.proposers]
        self.searcher = TransformersSearch(spec, settings, device, getattr(torch, dtype), noise)

    def search(self, batch: int) -> list[Outcome]:
        return [
            Outcome(
                tuple((step.text, self.names[step.proposer], step.ended) for step in found.steps),
                tuple(step.score for step in found.steps),
                found.response,
            )
            for found in self.searcher.search(self.problems, batch)
        ]

    def operations(self) -> float:
        """Floating-point operations of all that was read since the last call, padding not counted."""
        total = 0.0
        for reader in self.searcher.readers:
            total += reader.work.operations(reader.model.config)
            reader.work = type(reader.work)()
        return total


def compare(found: Sequence[Outcome], expected: Sequence[Outcome]) -> dict[str, int]:
    """How many traces are the same, and how many differ but tie.

    Raises: `UserError` if a trace differs and its score is not the same up to rounding.
    """
    same = 0
    for index, (one, other) in enumerate(zip(found, expected, strict=True)):
        if (one.steps, one.response) == (other.steps, other.response):
            difference = max(map(abs, map(operator.sub, one.scores, other.scores)), default=0.0)
            same += 1
        else:
            difference = abs(one.scores[-1] - other.scores[-1])
        if difference > ROUNDING:
            raise UserError(f"problem {index}: the traces differ: {one} and {other}")
    return {"same": same, "tied": len(found) - same}


def main(values: flags.FlagValues) -> None:
    """Prints the table, and writes the numbers as JSON if asked."""
    import jax

    from cord_jax.mesh import split_cpu

    split_cpu(f"data:{data_shards(values)}")
    jax.config.update("jax_enable_compilation_cache", False)  # or no compile time could be told
    report.run(measure, table, values)


def data_shards(values: flags.FlagValues) -> int:
    """One a core; one for large networks, whose products keep all cores busy, and whose weights every shard reads."""
    return 1 if values.model_shape == "0.5b" else os.cpu_count()


def measure(values: flags.FlagValues, scratch: Path) -> dict:
    """Runs the programs in turns; the numbers of the table.

    Raises: `UserError` for batches that are no numbers, and if the programs' traces are not the same.
    """
    import jax
    import torch

    from cord_jax.methods import search_of
    from cord_jax.pool import read_pool
    from cord_jax.problems import read_problems

    batches = report.numbers(values, "batches")
    torch.set_num_threads(values.threads or os.cpu_count())
    temperature = temperature_of(values)
    pool, problems = inputs(values, scratch, temperature)
    problems = read_problems(problems)[: values.limit]
    spec = read_pool(pool)
    alike = dict(temperature=temperature, top_k=0, top_p=1.0)
    proposers = tuple(dataclasses.replace(proposer, **alike) for proposer in spec.proposers)
    spec = dataclasses.replace(spec, proposers=proposers)
    settings = search_of(**{name: values[name].value for name in SETTINGS})
    engine = EngineSearch(spec, problems, settings, devices=min(jax.device_count(), data_shards(values)))
    peer = PeerSearch(spec, problems, settings, noise=Draws(engine, settings) if temperature else None)
    programs = {"cord_jax": engine.search}
    for batch in batches:
        name = "one at a time" if batch == 1 else f"{batch} in lock-step"
        programs[f"transformers, {name}"] = functools.partial(peer.search, batch)
    found, first, operations = {}, {}, 0.0
    for name, program in programs.items():
        first[name], found[name] = timed(program)
        operations = peer.operations() or operations
    agreement = {name: compare(found["cord_jax"], found[name]) for name in list(programs)[1:]}
    seconds = {name: [] for name in programs}
    for _ in range(values.repetitions):
        for name, program in programs.items():
            seconds[name].append(timed(program)[0])
    best = {name: min(times) for name, times in seconds.items()}
    rate = matmul_rate()
    floor = operations / rate / len(problems)
    return {
        "flags": {name: values[name].value for name in values},
        "problems": len(problems),
        "cores": os.cpu_count(),
        "same_traces": agreement,
        "seconds": seconds,
        "seconds_per_problem": {name: value / len(problems) for name, value in best.items()},
        "problems_per_second": {name: len(problems) / value for name, value in best.items()},
        "ratio": {name: best[name] / best["cord_jax"] for name in programs},
        "compile_seconds": first["cord_jax"] - best["cord_jax"],
        "idle_row_share": engine.engine.meter.idle_row_share,
        "operations_per_problem": operations / len(problems),
        "matmul_operations_per_second": rate,
        "floor_seconds_per_problem": floor,
        "times_floor": best["cord_jax"] / len(problems) / floor,
    }


def temperature_of(values: flags.FlagValues) -> float:
    """At which tokens are drawn."""
    if values.temperature is None:
        return 0.0 if values.model_shape == "miniature" else 1.0
    return float(values.temperature)


def inputs(values: flags.FlagValues, scratch: Path, temperature: float) -> tuple[Path, Path]:
    """The pool file and the problem file."""
    from benchmarks import synthetic
    from cord_jax.miniature import HELD_OUT_PROBLEMS, POOL

    if values.model_shape == "miniature":
        return POOL, HELD_OUT_PROBLEMS
    lengths = (600, 900, 1200)
    if temperature:  # as those of benchmarks.overhead, whose longest steps have 1,024 tokens
        lengths = tuple(length * values.max_step_tokens / 1024 for length in (150, 350, 900))
    habits = synthetic.Habits(step_lengths=lengths, last_step=0.1)
    pool = synthetic.write_pool(
        scratch,
        values.model_shape,
        habits,
        checkpoints=2,
        proposers=values.proposers,
        temperature=temperature,
    )
    return pool, synthetic.write_problems(scratch / "problems.jsonl", values.limit)


def timed(program: Callable):
    """`(seconds, result)` of a call."""
    start = time.perf_counter()
    result = program()
    return time.perf_counter() - start, result


def matmul_rate() -> float:
    """Floating-point operations a second of a large float32 matrix product, the best of several."""
    import jax
    import jax.numpy as jnp

    side = 2048
    product = jax.jit(jnp.matmul)
    x = jnp.ones((side, side))
    times = [timed(lambda: product(x, x).block_until_ready())[0] for _ in range(6)]
    return 2 * side**3 / min(times)


def table(result: dict) -> str:
    """The report."""
    lines = [
        f"{result['problems']} problems, {result['cores']} cores",
        f"{'':34} s/problem   problems/s   cord_jax is faster by   same traces",
    ]
    for name, seconds in result["seconds_per_problem"].items():
        agreement = result["same_traces"].get(name)
        agreement = "" if agreement is None else f"{agreement['same']} ({agreement['tied']} more tie)"
        lines.append(
            f"{name:34} {seconds:9.3f} {result['problems_per_second'][name]:12.2f} "
            f"{result['ratio'][name]:23.2f}   {agreement}"
        )
    lines += [
        f"cord_jax compiles for {result['compile_seconds']:.1f} s more; "
        f"{100 * result['idle_row_share']:.0f} % of its decoded rows are idle",
        f"arithmetic floor: {result['floor_seconds_per_problem']:.4f} s/problem "
        f"({result['operations_per_problem'] / 1e9:.2f} G operations at "
        f"{result['matmul_operations_per_second'] / 1e9:.0f} G/s); "
        f"cord_jax takes {result['times_floor']:.1f} times that",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    common.run(main, FLAGS, __doc__)
