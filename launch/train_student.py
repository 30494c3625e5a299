"""Trains a student on traces: `metrics.jsonl`, resumable `checkpoints/`, and the student as an HF directory,
`hf/`.

  python -m launch.train_student --student=DIR --traces=runs/pool/traces.jsonl --output_dir=runs/student

Rows are traces as launch.synthesize writes them, or objects with `messages`, or with raw `prompt` and
`completion`. The defaults are the paper's recipe: 8 rows of 20,480 tokens a step, 5 epochs, 5e-6 with a
cosine. Run again on the same output directory it continues at the last checkpoint, to the same weights.
"""

from absl import flags

from launch import common

FLAGS = flags.FlagValues()
common.define_required(
    "student", "HF checkpoint directory of the model to train (config.json, tokenizer, safetensors)", FLAGS
)
common.define_required("traces", "JSONL file (or .jsonl.gz) of rows to learn from", FLAGS)
common.define_required(
    "output_dir", "directory of the run; created, or continued if it holds this very run", FLAGS
)

flags.DEFINE_string(
    "filter",
    "all",
    "rows to use: all, or conditions joined by commas: correct (those whose answer was right), score>=NUMBER",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "max_length", 20480, "tokens of a row at most, prompt included, and of a packed window", flag_values=FLAGS
)
flags.DEFINE_enum(
    "overlong",
    "drop",
    ["drop", "cut"],
    "longer rows are dropped, or cut to max_length; both are counted",
    flag_values=FLAGS,
)
flags.DEFINE_bool(
    "pack", True, "several rows share a window, kept apart by attention and positions", flag_values=FLAGS
)
flags.DEFINE_string(
    "system_prompt",
    None,
    "system turn of rows that have none; not given: what the chat template does by itself",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "held_out",
    None,
    "JSONL file of rows whose loss is reported and which are not trained on",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "eval_every", 0, "steps between two held-out losses; 0: only at the end", flag_values=FLAGS
)
flags.DEFINE_integer(
    "show_rows",
    2,
    "rows written out token by token, with what is learnt, to first_rows.txt",
    flag_values=FLAGS,
)

flags.DEFINE_integer("epochs", 5, "times that each row is shown", flag_values=FLAGS)
flags.DEFINE_integer(
    "max_steps",
    None,
    "ends the run, and its schedule, after so many steps; not given: all epochs",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "batch_size", 8, "windows (rows, with --nopack) of one step, over all devices", flag_values=FLAGS
)
flags.DEFINE_integer(
    "accumulation",
    1,
    "parts that a batch is computed in, one after the other, to save memory",
    flag_values=FLAGS,
)
flags.DEFINE_float("learning_rate", 5e-6, "highest learning rate", flag_values=FLAGS)
flags.DEFINE_enum(
    "schedule",
    "cosine",
    ["cosine", "linear", "constant"],
    "learning rate after the warm-up: cosine and linear fall to 0 at the end",
    flag_values=FLAGS,
)
flags.DEFINE_float(
    "warmup", 0.05, "fraction of the steps in which the learning rate rises", flag_values=FLAGS
)
flags.DEFINE_float("weight_decay", 0.0, "AdamW's, on matrices only", flag_values=FLAGS)
flags.DEFINE_float("beta1", 0.9, "Adam's decay of the first moment", flag_values=FLAGS)
flags.DEFINE_float("beta2", 0.999, "Adam's decay of the second moment", flag_values=FLAGS)
flags.DEFINE_float("epsilon", 1e-8, "Adam's addition to the root of the second moment", flag_values=FLAGS)
flags.DEFINE_integer(
    "lora_rank",
    0,
    "rank of adapters of the layers' projections, which alone are learnt and at the end added to the weights; "
    "0: all weights are learnt",
    flag_values=FLAGS,
)
flags.DEFINE_float("lora_alpha", 32.0, "adapters are multiplied by lora_alpha / lora_rank", flag_values=FLAGS)
flags.DEFINE_float(
    "max_grad_norm", 1.0, "global norm that gradients are scaled down to; 0: never", flag_values=FLAGS
)
flags.DEFINE_integer(
    "max_skipped",
    10,
    "steps whose loss or gradient is not finite are skipped; one more than this ends the run",
    flag_values=FLAGS,
)
flags.DEFINE_integer("seed", 0, "random seed of the order of the rows", flag_values=FLAGS)

flags.DEFINE_enum(
    "compute_dtype",
    None,
    ["float32", "bfloat16"],
    "of the forward and backward pass; not given: float32 on CPUs, bfloat16 elsewhere",
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "param_dtype",
    "float32",
    ["float32", "bfloat16"],
    "of the weights that are kept; the optimizer's moments are float32",
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "export_dtype",
    None,
    ["float32", "bfloat16"],
    "of the weights in hf/; not given: that of the student's own",
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "remat",
    "none",
    ["none", "dots", "full"],
    "what the backward pass computes again to save memory: "
    "nothing; all but the results of matrix products; all but each layer's input",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "loss_positions",
    1024,
    "target positions of a device that are projected to logits at once",
    flag_values=FLAGS,
)

flags.DEFINE_integer(
    "checkpoint_every",
    200,
    "steps between two saved states; also one at the end. 0: only when a signal stops the run",
    flag_values=FLAGS,
)
flags.DEFINE_integer("keep_checkpoints", 2, "latest states that are kept", flag_values=FLAGS)
flags.DEFINE_integer(
    "log_every", 1, "steps between two rows of metrics.jsonl and two progress lines", flag_values=FLAGS
)
flags.DEFINE_bool("tensorboard", False, "also write the metrics as TensorBoard events", flag_values=FLAGS)
flags.DEFINE_bool("plot", True, "draw the curves into curves.png at the end", flag_values=FLAGS)
common.define_devices(FLAGS)
FLAGS.set_default("mesh", "fsdp:-1")


def main(values: flags.FlagValues) -> None:
    """Trains, with a line for each logged step, and prints where the student is."""
    from cord_jax.student import StudentConfig, train

    common.start_devices(values)
    settings = {name: values[name].value for name in values if name != "distributed"}
    settings["row_filter"] = settings.pop("filter")
    print(train(StudentConfig(**settings), progress=_print_row))


def _print_row(row: dict) -> None:
    shown = {
        "loss": "{:.4f}",
        "held_out_loss": "{:.4f}",
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
    print(f"step {row['step']}/{row['steps']}  " + "  ".join(parts), flush=True)


if __name__ == "__main__":
    common.run(main, FLAGS, __doc__)
