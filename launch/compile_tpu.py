"""Compiles the search or the student's step for a TPU topology, without a TPU, and says what it takes.

  python -m launch.compile_tpu --topology=v5p:2x2x4 --pool=pool.toml
  python -m launch.compile_tpu --topology=v5p:2x2x4 --job=sft --student=DIR

Checkpoints need no more than their `config.json`. It needs libtpu, which the extra `tpu` installs. The exit
status is 0 if everything fits, 1 if something does not.
"""

import sys

from absl import flags

from cord_jax.config import SynthesisConfig
from cord_jax.errors import UserError
from cord_jax.student.config import StudentConfig
from launch import common, flags_of

FLAGS = flags.FlagValues()
common.define_required("topology", "chip and shape: v4:2x2x2, v5e:4x4, v5p:2x2x4, v6e:4x4 and so on", FLAGS)
flags.DEFINE_enum(
    "job",
    "search",
    ["search", "sft"],
    "search: the rounds of launch.synthesize; sft: a step of launch.train_student",
    flag_values=FLAGS,
)
flags.DEFINE_string("pool", None, "search: TOML file of the pool", flag_values=FLAGS)
flags.DEFINE_string("student", None, "sft: directory of the student", flag_values=FLAGS)
flags.DEFINE_string(
    "mesh",
    None,
    "devices along each axis, as in the job itself; not given: one is suggested, with slots for a search and "
    "with flags that save memory for a student, and verified by compiling it",
    flag_values=FLAGS,
)
_OF_SEARCH = (
    "slots",
    "beam_width",
    "max_steps",
    "max_step_tokens",
    "max_thinking_tokens",
    "max_answer_tokens",
)
_OF_STUDENT = ("max_length", "batch_size", "accumulation", "loss_positions", "remat", "param_dtype")
flags_of.define(SynthesisConfig, FLAGS, _OF_SEARCH, note="search: ")
flags_of.define(StudentConfig, FLAGS, _OF_STUDENT, note="sft: ")


def compile_job(values: flags.FlagValues) -> bool:
    """Compiles and prints; returns whether everything fits."""
    needed = "pool" if values.job == "search" else "student"
    if values[needed].value is None:
        raise UserError(f"--job={values.job} needs --{needed}; see --help")
    searching = flags_of.values_of(SynthesisConfig, values, _OF_SEARCH)
    search = SynthesisConfig(pool=values.pool or "-", problems="-", output_dir="-", **searching).resolved
    learning = flags_of.values_of(StudentConfig, values, _OF_STUDENT)
    mesh = values.mesh or "fsdp:-1"
    student = StudentConfig(student=values.student or "-", traces="-", output_dir="-", mesh=mesh, **learning)
    from cord_jax.dry_run import report, topologies

    def say(line: str) -> None:
        print(line, flush=True)

    chip, devices = topologies.describe(values.topology)
    if values.job == "search":
        from cord_jax.methods import search_settings
        from cord_jax.pool import read_pool

        return report.report_search(
            read_pool(values.pool), search_settings(search), chip, devices, values.mesh, say
        )
    import models

    config = models.read_config(values.student)
    return report.report_student(config, student, chip, devices, values.mesh is None, say)


def main(values: flags.FlagValues) -> None:
    """Exits with status 1 if something does not fit."""
    if not compile_job(values):
        sys.exit(1)


if __name__ == "__main__":
    common.run(main, FLAGS, __doc__)
