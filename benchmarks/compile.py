"""Seconds to lower and to compile the programs of a search and a student's training step, for a CPU and, if asked,
for a TPU that need not be there.

    python -m benchmarks.compile                              # a 0.5B Qwen2's shape
    python -m benchmarks.compile --model_shape=tiny --topology=v5e:2x2 --output=compile.json
    python -m benchmarks.compile --pool=pool.toml --student=DIR

Nothing is allocated and no weights are read: `config.json` is enough. The round is the whole search; token loop,
scoring and commit are parts of it that are compiled once more on their own. Each program is traced anew. Layers are
a list for a CPU and a stack for a TPU, as they are where the programs run.
"""

import functools
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import flags

from benchmarks import report
from launch import common

FLAGS = flags.FlagValues()
flags.DEFINE_enum(
    "model_shape",
    "0.5b",
    ["tiny", "small", "0.5b", "1.5b", "7b"],
    "shape of teachers and student",
    flag_values=FLAGS,
)
flags.DEFINE_integer("layers", None, "layers of that shape; its own by default", 1, flag_values=FLAGS)
flags.DEFINE_integer("proposers", 1, "proposers, each a checkpoint", 1, flag_values=FLAGS)
flags.DEFINE_string("pool", None, "pool file in place of that shape's", flag_values=FLAGS)
flags.DEFINE_string("student", None, "student's directory in place of that shape's", flag_values=FLAGS)
flags.DEFINE_string("topology", "", "TPU topology, which needs libtpu; empty for none", flag_values=FLAGS)
flags.DEFINE_integer("slots", 4, "problems that are searched at a time", 1, flag_values=FLAGS)
flags.DEFINE_integer("beam_width", 4, "hypotheses kept", 1, flag_values=FLAGS)
flags.DEFINE_integer("max_length", 4096, "tokens of a window of the student", 1, flag_values=FLAGS)
flags.DEFINE_string("output", None, "JSON file for the results", flag_values=FLAGS)

VOCABULARY = 151936


def main(values: flags.FlagValues) -> None:
    """Prints the table, and writes the numbers as JSON if asked."""
    import jax

    jax.config.update("jax_enable_compilation_cache", False)  # or no compile time could be told
    report.run(measure, table, values)


def measure(values: flags.FlagValues, scratch: Path) -> dict:
    """Compiles every program for every target; the numbers of the table."""
    import jax

    from cord_jax.dry_run import topologies

    targets = {"cpu": jax.devices("cpu")[:1]}
    if values.topology:
        targets[values.topology] = topologies.describe(values.topology)[1]
    pool, student = write_configs(values, scratch)
    pool, student = Path(values.pool or pool), Path(values.student or student)
    return {
        "flags": {name: values[name].value for name in values},
        "seconds": {
            target: {
                name: compile_times(lower) for name, lower in programs(values, pool, student, devices).items()
            }
            for target, devices in targets.items()
        },
    }


def write_configs(values: flags.FlagValues, directory: Path) -> tuple[Path, Path]:
    """A pool of checkpoints that are nothing but a configuration, the first of them the meta-prover and student.

    Returns: the pool file and the student's directory.
    """
    from benchmarks import synthetic

    config = {
        "model_type": "qwen2",
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
    } | synthetic.SHAPES[values.model_shape]
    if values.layers is not None:
        config["num_hidden_layers"] = values.layers
    lines = ['meta_prover = {checkpoint = "m0"}']
    for number in range(values.proposers):
        checkpoint = directory / f"m{number}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "config.json").write_text(json.dumps(config), encoding="utf-8")
        lines.append(f'[[proposer]]\nname = "t{number}"\ncheckpoint = "m{number}"')
    pool = directory / "pool.toml"
    pool.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return pool, directory / "m0"


def programs(values: flags.FlagValues, pool: Path, student: Path, devices: Sequence) -> dict[str, Callable]:
    """What lowers each program for these devices."""
    import models
    from cord_jax.dry_run.abstract import abstract_search, lower_round
    from cord_jax.dry_run.lower import lower_commit, lower_decode, lower_scoring
    from cord_jax.dry_run.student import abstract_step
    from cord_jax.mesh import parse_mesh
    from cord_jax.methods import search_of
    from cord_jax.pool import read_pool
    from cord_jax.student import StudentConfig

    count = len(devices)
    settings = search_of(slots=values.slots, beam_width=values.beam_width)
    search = abstract_search(read_pool(pool), settings, parse_mesh(f"data:1,model:{count}", devices))
    writer = next(index for index, reader in enumerate(search.plan.readers) if reader.proposers)
    training = StudentConfig(
        student, "-", "-", batch_size=count, max_length=values.max_length, remat="full", mesh=f"fsdp:{count}"
    )
    step, state, batch = abstract_step(
        models.read_config(student), training, parse_mesh(training.mesh, devices)
    )
    return {
        "round": functools.partial(lower_round, search),
        "token loop": functools.partial(lower_decode, search, writer),
        "scoring": functools.partial(lower_scoring, search, search.plan.meta),
        "commit": functools.partial(lower_commit, search, writer),
        "student's step": functools.partial(step.lower_step, state, batch),
    }


def compile_times(lower: Callable) -> dict[str, float]:
    """Seconds of the clock to trace and lower a program and to compile it, and of all cores together for both."""
    import jax

    from benchmarks.peer import timed
    from cord_jax.dry_run.abstract import compile_program

    jax.clear_caches()
    before = time.process_time()
    lowering, lowered = timed(lower)
    compiling = compile_program(lambda: lowered).seconds
    return {"lower": lowering, "compile": compiling, "cores": time.process_time() - before}


def table(result: dict) -> str:
    """The report."""
    lines = [f"{'seconds':14}     lower   compile   of all cores"]
    for target, found in result["seconds"].items():
        lines.append(f"for {target}")
        lines += [
            f"{name:14} {times['lower']:9.1f} {times['compile']:9.1f} {times['cores']:14.1f}"
            for name, times in found.items()
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    common.run(main, FLAGS, __doc__)
