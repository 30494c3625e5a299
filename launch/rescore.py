"""Asks a finished run what it would have chosen otherwise, without proposing anything: `scores.jsonl`, `winners.jsonl`.

  python -m launch.rescore --run=runs/pool --output_dir=runs/narrow --beam_width=2          # would two have done?
  python -m launch.rescore --run=runs/pool --output_dir=runs/without --teachers=qwq,r1      # without the others?
  python -m launch.rescore --run=runs/pool --output_dir=runs/judge --pool=other.toml        # under another meta-prover?
  python -m launch.rescore --run=runs/pool --output_dir=runs/length --selector=max_length

Without --pool and --selector the recorded scores stay, and no model is loaded. A problem is covered if its recorded
tree holds all that the other search would have extended; the others are named. `summary.json` also has what each teacher
is worth: the pool without it, and Shapley's shares.
"""

import json

from absl import flags

from cord_jax.rescoring.config import RescoringConfig
from launch import common, flags_of

FLAGS = flags.FlagValues()
flags_of.define(RescoringConfig, FLAGS)


def main(values: flags.FlagValues) -> None:
    """Writes the scores and winners and prints the summary."""
    config = flags_of.config_of(RescoringConfig, values)
    if config.pool is not None or config.selector:
        from cord_jax.mesh import split_cpu

        split_cpu(config.mesh)
    from cord_jax.rescoring.job import rescore

    print(json.dumps(rescore(config), indent=2, ensure_ascii=False))


if __name__ == "__main__":
    common.run(main, FLAGS, __doc__)
