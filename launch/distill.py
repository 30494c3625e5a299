"""Rounds of distillation: traces, a student, its measure, and again with that student among the proposers.

  python -m launch.distill --pool=pool.toml --problems=problems.jsonl --held_out=held_out.jsonl \
    --student=checkpoints/student --output_dir=runs/rounds --settings=settings.toml

Run again on the same output directory it continues.
"""

import functools
import json

from absl import flags

from cord_jax.distillation import DistillationConfig, distill, plan_rounds
from launch import common, flags_of

FLAGS = flags.FlagValues()
flags_of.define(DistillationConfig, FLAGS)


def main(values: flags.FlagValues) -> None:
    """Runs the rounds and prints the summary."""
    config = flags_of.config_of(DistillationConfig, values)
    first = plan_rounds(config)[1].synthesis
    from cord_jax.mesh import split_cpu

    assert first is not None
    split_cpu(first.mesh)
    print(json.dumps(distill(config, functools.partial(print, flush=True)), indent=2))


if __name__ == "__main__":
    common.run(main, FLAGS, __doc__)
