"""Samples answers of a model to a problem file and reports pass@1: `samples.jsonl`, `summary.json`.

  python -m launch.evaluate --model=student/hf --problems=held_out.jsonl --output_dir=runs/student

Run again on the same output directory it continues; the samples do not depend on interruptions, slots or devices.
"""

import json

from absl import flags

from cord_jax.config import EvaluationConfig
from launch import common, flags_of

FLAGS = flags.FlagValues()
flags_of.define(EvaluationConfig, FLAGS)
common.define_distributed(FLAGS)
common.define_report(FLAGS)


def main(values: flags.FlagValues) -> None:
    """Runs the evaluation and prints its summary without the counts of each problem."""
    config = flags_of.config_of(EvaluationConfig, values)
    from cord_jax.evaluation import evaluate

    common.start_devices(values)
    summary = evaluate(config)
    if summary:  # only process 0 has one
        shown = {name: value for name, value in summary.items() if name != "per_problem"}
        print(json.dumps(shown, indent=2, ensure_ascii=False))
        common.write_report(values)


if __name__ == "__main__":
    common.run(main, FLAGS, __doc__)
