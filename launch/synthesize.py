"""Writes traces of a problem file by the teachers of a pool: `traces.jsonl`, `tree.jsonl`, `summary.json`.

  python -m launch.synthesize --pool=pool.toml --problems=problems.jsonl --output_dir=runs/first

Run again on the same output directory it continues; the traces do not depend on interruptions, slots or devices.
"""

import json

from absl import flags

from cord_jax.config import SynthesisConfig
from launch import common, flags_of

FLAGS = flags.FlagValues()
flags_of.define(SynthesisConfig, FLAGS)
common.define_distributed(FLAGS)
common.define_report(FLAGS)


def main(values: flags.FlagValues) -> None:
    """Runs the synthesis; prints the answers to questions that nobody has an answer to, and the summary."""
    config = flags_of.config_of(SynthesisConfig, values)
    from cord_jax.synthesis import synthesize

    def say(written: int, problems: int, trace) -> None:
        if trace.answer is None:
            print(f"{trace.id}: {trace.predicted_answer or trace.response}", flush=True)

    common.start_devices(values)
    summary = synthesize(config, say)
    if summary:  # only process 0 has one
        print(json.dumps(summary, indent=2, ensure_ascii=False))
        common.write_report(values)


if __name__ == "__main__":
    common.run(main, FLAGS, __doc__)
