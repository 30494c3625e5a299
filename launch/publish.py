"""Makes a data set of finished runs: Parquet files and a card, as Hugging Face `datasets` and the Hub take them.

  python -m launch.publish --run=runs/pool --output_dir=dataset --license=cc-by-4.0
  python -m launch.publish --run=runs/part1,runs/part2 --output_dir=dataset --decontaminate=aime2024.jsonl

`datasets.load_dataset("dataset")` has the traces (`split="train"`: those that are right; `split="all"`: all), and
`load_dataset("dataset", "tree")` and `"pairs"` the search trees and the pairs of siblings.
"""

import json

from absl import flags

from cord_jax.publishing.config import PublishConfig
from launch import common, flags_of

FLAGS = flags.FlagValues()
flags_of.define(PublishConfig, FLAGS)


def main(values: flags.FlagValues) -> None:
    """Writes the data set and prints its summary."""
    config = flags_of.config_of(PublishConfig, values)
    from cord_jax.publishing.job import publish

    print(json.dumps(publish(config), indent=2, ensure_ascii=False))


if __name__ == "__main__":
    common.run(main, FLAGS, __doc__)
