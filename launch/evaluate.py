"""Samples answers of a model to a problem file and reports pass@1: `samples.jsonl`, `summary.json`.

  python -m launch.evaluate --model=student/hf --problems=held_out.jsonl --output_dir=runs/student

Run again on the same output directory it continues; the samples do not depend on interruptions, slots or
devices.
"""

import json

from absl import flags

from launch import common

FLAGS = flags.FlagValues()
common.define_required("model", "HF checkpoint directory (config.json, tokenizer, safetensors)", FLAGS)
common.define_required(
    "problems",
    "JSONL file (or .jsonl.gz) of problems: id, question, answer; optional context, answers",
    FLAGS,
)
common.define_required(
    "output_dir", "directory of the run; created, or continued if it holds this very run", FLAGS
)
flags.DEFINE_integer("samples", 16, "answers sampled per problem", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_float(
    "temperature",
    0.6,
    "sampling temperature; 0 takes the most probable token",
    lower_bound=0.0,
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "top_k", 0, "sample among the k most probable tokens; 0 is off", lower_bound=0, flag_values=FLAGS
)
flags.DEFINE_float(
    "top_p",
    1.0,
    "sample among the most probable tokens that hold this much probability; 1 is off",
    lower_bound=0.0,
    upper_bound=1.0,
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "max_tokens",
    32768,
    "tokens of one sample at most, reasoning and response together",
    lower_bound=1,
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "grader",
    "auto",
    ["auto", "exact"],
    "how predicted answers are checked: auto, words, choices, numbers and mathematics each in their own way; exact, as text",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "limit", 0, "take the first so many problems of the file; 0 takes all", lower_bound=0, flag_values=FLAGS
)
flags.DEFINE_integer(
    "seed", 0, "random seed; the same seed and settings give the same samples", flag_values=FLAGS
)
flags.DEFINE_integer(
    "slots", 32, "samples decoded at a time; a matter of memory and speed", lower_bound=1, flag_values=FLAGS
)
common.define_devices(FLAGS)


def main(values: flags.FlagValues) -> None:
    """Runs the evaluation and prints its summary without the counts of each problem."""
    from cord_jax.evaluation import EvaluationConfig, evaluate

    common.start_devices(values)
    summary = evaluate(
        EvaluationConfig(**{name: values[name].value for name in values if name != "distributed"})
    )
    if summary:  # only process 0 has one
        shown = {name: value for name, value in summary.items() if name != "per_problem"}
        print(json.dumps(shown, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    common.run(main, FLAGS, __doc__)
