"""The miniature end to end: three small teachers write traces together, a student learns from them, a report.

  python -m launch.quickstart --output_dir=quickstart

Takes four minutes on two CPU cores, and as long again for every further seed (`--seeds=5`). Run again on the same
output directory it continues.
"""

import functools
import os

from absl import flags

from cord_jax.miniature.config import QuickstartConfig
from launch import common, flags_of

FLAGS = flags.FlagValues()
flags_of.define(QuickstartConfig, FLAGS)
# Of the 32 problems that are searched at a time, a device should have two at least.
_CPU_DEVICES = 16


def main(values: flags.FlagValues) -> None:
    """Runs the quickstart, whose report goes to stdout."""
    config = flags_of.config_of(QuickstartConfig, values)
    from cord_jax.mesh import split_cpu
    from cord_jax.miniature.quickstart import quickstart

    split_cpu(f"data:{min(os.cpu_count() or 1, _CPU_DEVICES)}")
    quickstart(config, functools.partial(print, flush=True))


if __name__ == "__main__":
    common.run(main, FLAGS, __doc__)
