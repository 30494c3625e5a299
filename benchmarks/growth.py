"""How the time and the bytes of a search grow with its steps, its beams, its proposers and its slots.

    python -m benchmarks.growth
    python -m benchmarks.growth --steps=8,16,32,64 --beams= --proposers= --slots= --output=growth.json

One of the four is varied and the others stay as the flags `at_...` say. The teachers are random networks, each
proposer one of its own and the first also the meta-prover, whose steps are all cut at the same number of tokens and
never end the reasoning: a search takes exactly as many steps as it may. The budget of reasoning tokens, and so the
pools, follow the steps. A CPU is as many devices as it has cores, with a data shard each if there are as many slots.
Each search runs twice before it is timed, and compiles then; the best of several runs counts, and what is compiled
during them is counted: it should be nothing.
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

from absl import flags

from benchmarks import report
from cord_jax.errors import UserError
from launch import common

FLAGS = flags.FlagValues()
_SWEEPS = {
    "steps": ("8,16,32,64", 16, "steps of a search"),
    "beams": ("1,2,4,8", 4, "hypotheses kept"),
    "proposers": ("1,2,3,5", 2, "proposers, each a checkpoint"),
    "slots": ("1,4,8,16", 4, "problems that are searched at a time"),
}
for _name, (_values, _value, _help) in _SWEEPS.items():
    flags.DEFINE_string(_name, _values, f"{_help}: what is tried; empty for nothing", flag_values=FLAGS)
    flags.DEFINE_integer(f"at_{_name}", _value, f"{_help}, while another is varied", 1, flag_values=FLAGS)
flags.DEFINE_enum(
    "model_shape", "proportioned", ["tiny", "small", "proportioned"], "of the networks", flag_values=FLAGS
)
flags.DEFINE_integer("limit", 16, "problems", 1, flag_values=FLAGS)
flags.DEFINE_integer("step_tokens", 16, "tokens of a step", 4, flag_values=FLAGS)
flags.DEFINE_integer("answer_tokens", 8, "tokens of a response", 1, flag_values=FLAGS)
flags.DEFINE_integer("repetitions", 3, "timed runs of each search", 1, flag_values=FLAGS)
flags.DEFINE_string("output", None, "JSON file for the results", flag_values=FLAGS)

# More tokens than any heading of a step has.
HEADING_TOKENS = 8
COMPILATION = "/jax/core/compile/backend_compile_duration"


@dataclasses.dataclass(frozen=True)
class Size:
    """How large a search is."""

    steps: int
    beams: int
    proposers: int
    slots: int


def main(values: flags.FlagValues) -> None:
    """Prints the table, and writes the numbers as JSON if asked."""
    from cord_jax.mesh import split_cpu

    split_cpu(f"data:{os.cpu_count()}")
    report.run(measure, table, values)


def measure(values: flags.FlagValues, scratch: Path) -> dict:
    """Runs the searches one after another; the numbers of the tables.

    Raises: `UserError` if a list is not one of positive numbers, or a search took other steps than it should.
    """
    base = Size(**{name: values[f"at_{name}"].value for name in _SWEEPS})
    wanted = {name: report.numbers(values, name) for name in _SWEEPS}
    known: dict[Size, dict] = {}
    sweeps: dict[str, list[dict]] = {}
    for name, numbers in wanted.items():
        sweeps[name] = []
        for number in numbers:
            size = dataclasses.replace(base, **{name: number})
            if size not in known:
                known[size] = measure_search(values, size, scratch / str(len(known)))
            sweeps[name].append(known[size])
    return {
        "flags": {name: values[name].value for name in values},
        "sweeps": {name: rows for name, rows in sweeps.items() if rows},
    }


def measure_search(values: flags.FlagValues, size: Size, scratch: Path) -> dict:
    """One search: its times, its bytes, and what was compiled while it was timed."""
    import jax

    from benchmarks import synthetic
    from benchmarks.peer import timed
    from cord_jax.engine.engine import Engine
    from cord_jax.engine.teachers import load_teachers
    from cord_jax.mesh import parse_mesh
    from cord_jax.methods import search_of
    from cord_jax.pool import read_pool
    from cord_jax.problems import read_problems

    endless = synthetic.Habits(step_lengths=(1e6,), topic_shares=(1.0,), last_step=0.0, response=1e6)
    pool = synthetic.write_pool(
        scratch, values.model_shape, endless, checkpoints=size.proposers, proposers=size.proposers
    )
    problems = read_problems(synthetic.write_problems(scratch / "problems.jsonl", values.limit))
    settings = search_of(
        beam_width=size.beams,
        max_steps=size.steps,
        max_step_tokens=values.step_tokens,
        max_thinking_tokens=(size.steps + 1) * (values.step_tokens + HEADING_TOKENS),
        max_answer_tokens=values.answer_tokens,
        slots=size.slots,
    )
    mesh = parse_mesh(f"data:{min(size.slots, jax.device_count())},model:1")
    engine = Engine(load_teachers(read_pool(pool), mesh), problems, settings, mesh)

    def search() -> None:
        steps = {len(finished.texts) for finished in engine.run(range(len(problems)))}
        if steps != {size.steps}:
            raise UserError(f"{size}: searches took {sorted(steps)} steps")

    first, _ = timed(search)
    search()  # a pool that was widened near the end leaves programs that have not run yet
    with compilations() as compiled:
        seconds = [timed(search)[0] for _ in range(values.repetitions)]
    return dataclasses.asdict(size) | {
        "seconds": seconds,
        "first_seconds": first,
        "seconds_per_problem": min(seconds) / len(problems),
        "problems_per_second": len(problems) / min(seconds),
        "bytes": bytes_of(engine._state),
        "compilations": len(compiled),
    }


@contextlib.contextmanager
def compilations() -> Iterator[list[float]]:
    """The seconds of each compilation inside the context."""
    from jax import monitoring

    seconds = []

    def listen(event: str, duration: float, **_) -> None:
        if event == COMPILATION:
            seconds.append(duration)

    monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seconds
    finally:
        monitoring.unregister_event_duration_listener(listen)


def bytes_of(state) -> dict[str, int]:
    """Bytes of a search's state: keys and values of the prefix trees, of the ring buffers, and the rest."""
    import jax

    found = {"pools": 0, "rings": 0, "rest": 0}
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        names = {getattr(key, "name", None) for key in path}
        kind = "pools" if "pool" in names else "rings" if "local" in names else "rest"
        found[kind] += leaf.nbytes
    return found


def table(result: dict) -> str:
    """The report: a table for what was varied each time; `x` is how many times the row above."""
    settings = result["flags"]
    lines = [
        f"{settings['limit']} problems, networks of shape {settings['model_shape']}, "
        f"steps of {settings['step_tokens']} tokens; where not varied: "
        + ", ".join(f"{settings[f'at_{name}']} {name}" for name in _SWEEPS)
    ]
    for name, rows in result["sweeps"].items():
        lines.append(
            f"{name:>9}   s/problem      x   problems/s   pools, MB      x   rings, MB   rest, MB   compiled"
        )
        before = None
        for row in rows:
            held, ratios = row["bytes"], ("", "")
            if before is not None:
                ratios = (
                    f"{row['seconds_per_problem'] / before['seconds_per_problem']:.2f}",
                    f"{held['pools'] / before['bytes']['pools']:.2f}",
                )
            lines.append(
                f"{row[name]:9} {row['seconds_per_problem']:11.4f} {ratios[0]:>6} "
                f"{row['problems_per_second']:12.2f} {held['pools'] / 1e6:11.2f} {ratios[1]:>6} "
                f"{held['rings'] / 1e6:11.2f} {held['rest'] / 1e6:10.2f} {row['compilations']:10}"
            )
            before = row
    return "\n".join(lines)


if __name__ == "__main__":
    common.run(main, FLAGS, __doc__)
