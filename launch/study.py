"""The paper's tables in the miniature, over several seeds, and the method's conditions broken one by one.

  python -m launch.study --output_dir=runs/study                  # everything: some hours on two CPU cores
  python -m launch.study --output_dir=runs/study --arms=lead      # what students learn from CoRD and from its rivals

Run again on the same output directory it continues. Several processes may be started on one directory and share the work.
"""

import functools

from absl import flags

from cord_jax.study.config import StudyConfig
from launch import common, flags_of

FLAGS = flags.FlagValues()
flags_of.define(StudyConfig, FLAGS)


def main(values: flags.FlagValues) -> None:
    """Runs the study; the page lies in the output directory."""
    config = flags_of.config_of(StudyConfig, values)
    from cord_jax.mesh import split_cpu
    from cord_jax.study.job import study

    split_cpu(f"data:{config.devices}")
    study(config, functools.partial(print, flush=True))


if __name__ == "__main__":
    common.run(main, FLAGS, __doc__)
