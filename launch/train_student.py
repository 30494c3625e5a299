"""Trains a student on traces: `metrics.jsonl`, resumable `checkpoints/`, and the student as an HF directory, `hf/`.

  python -m launch.train_student --student=DIR --traces=runs/pool/traces.jsonl --output_dir=runs/student

Rows are traces as launch.synthesize writes them, or objects with `messages`, or with raw `prompt` and
`completion`; with --objective=dpo they are pairs as launch.preferences writes them. The defaults are the paper's recipe
of fine-tuning: 8 rows of 20,480 tokens a step, 5 epochs, 5e-6 with a cosine. Run again on the same output directory it
continues at the last checkpoint, to the same weights.
"""

import sys
from collections.abc import Mapping
from typing import Any

from absl import flags

from cord_jax.student.config import StudentConfig
from launch import common, flags_of

FLAGS = flags.FlagValues()
flags_of.define(StudentConfig, FLAGS)
common.define_distributed(FLAGS)
common.define_report(FLAGS)


def main(values: flags.FlagValues) -> None:
    """Trains, with a line for each logged step, and prints where the student is."""
    config = flags_of.config_of(StudentConfig, values)
    from cord_jax.student.trainer import train

    common.start_devices(values, heeds_preemption=True)
    print(train(config, progress=_print_row))
    common.write_report(values)


def _print_row(row: Mapping[str, Any]) -> None:
    shown = {
        "loss": "{:.4f}",
        "held_out_loss": "{:.4f}",
        "reward_margin": "{:.3f}",
        "reward_accuracy": "{:.2f}",
        "grad_norm": "{:.3f}",
        "learning_rate": "{:.2e}",
        "tokens_per_second": "{:,.0f} tokens/s",
        "mfu": "MFU {:.1%}",
    }
    parts = [
        text.format(row[name]) if " " in text else f"{name.replace('_', ' ')} {text.format(row[name])}"
        for name, text in shown.items()
        if row.get(name) is not None
    ]
    print(f"step {row['step']}/{row['steps']}  " + "  ".join(parts), file=sys.stderr, flush=True)


if __name__ == "__main__":
    common.run(main, FLAGS, __doc__)
