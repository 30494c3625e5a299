"""The miniature end to end: three small teachers write traces together, a student learns from them, a report.

  python -m launch.quickstart --output_dir=quickstart

Takes four minutes on two CPU cores, and as long for every further seed (`--seeds=5`). Run again on the same output directory it continues.
"""

import functools
import os

from absl import flags

from launch import common

FLAGS = flags.FlagValues()
# Of the 16 problems that are searched at a time, a device should have two at least.
_CPU_DEVICES = 8
common.define_required("output_dir", "directory of everything that is written", FLAGS)
flags.DEFINE_integer(
    "train_problems", 100, "puzzles that traces are written for, 300 at most", 1, 300, flag_values=FLAGS
)
flags.DEFINE_integer(
    "held_out_problems", 300, "puzzles that students are measured on, 300 at most", 1, 300, flag_values=FLAGS
)
flags.DEFINE_integer(
    "samples", 4, "answers of a student to each puzzle", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_integer("seed", 0, "random seed; the first of several", lower_bound=0, flag_values=FLAGS)
flags.DEFINE_integer(
    "seeds", 1, "how often all is repeated, each time with another seed", lower_bound=1, flag_values=FLAGS
)


def main(values: flags.FlagValues) -> None:
    """Runs the quickstart, whose report goes to stdout."""
    from cord_jax.mesh import split_cpu
    from cord_jax.miniature.quickstart import QuickstartConfig, quickstart

    split_cpu(f"data:{min(os.cpu_count() or 1, _CPU_DEVICES)}")
    quickstart(
        QuickstartConfig(**{name: values[name].value for name in values}),
        functools.partial(print, flush=True),
    )


if __name__ == "__main__":
    common.run(main, FLAGS, __doc__)
