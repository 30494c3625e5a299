"""Makes pairs of next steps to train on from the search trees of runs: `pairs.jsonl`, `summary.json`.

  python -m launch.preferences --run=runs/pool --output_dir=runs/pairs
  python -m launch.train_student --objective=dpo --student=runs/student/hf --traces=runs/pairs/pairs.jsonl --output_dir=runs/dpo

Two candidates that continue the same text are a pair if their scores differ by --margin: the better one is `chosen`,
the other `rejected`. The rows are also those that TRL's DPOTrainer takes.
"""

import json

from absl import flags

from cord_jax.config import PreferencesConfig
from launch import common, flags_of

FLAGS = flags.FlagValues()
flags_of.define(PreferencesConfig, FLAGS)


def main(values: flags.FlagValues) -> None:
    """Writes the pairs and prints the summary."""
    config = flags_of.config_of(PreferencesConfig, values)
    from cord_jax.preferences import write_preferences

    print(json.dumps(write_preferences(config), indent=2, ensure_ascii=False))


if __name__ == "__main__":
    common.run(main, FLAGS, __doc__)
