"""Writes traces of a problem file by the teachers of a pool: `traces.jsonl`, `tree.jsonl`, `summary.json`.

  python -m launch.synthesize --pool=pool.toml --problems=problems.jsonl --output_dir=runs/first

Run again on the same output directory it continues; the traces do not depend on interruptions, slots or
devices.
"""

import json

from absl import flags

from cord_jax.errors import UserError
from launch import common

FLAGS = flags.FlagValues()
common.define_required(
    "pool", "TOML file of the proposers (name, checkpoint, sampling) and the meta-prover", FLAGS
)
common.define_required(
    "problems",
    "JSONL file (or .jsonl.gz) of problems: id, question, answer; optional context, solution, answers",
    FLAGS,
)
common.define_required(
    "output_dir", "directory of the run; created, or continued if it holds this very run", FLAGS
)
flags.DEFINE_enum(
    "method",
    "cord",
    ["cord", "curation"],
    "cord: the teachers write one trace together, step by step; "
    "curation: each writes beam_width whole traces and the best is taken",
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "decoding",
    "beam",
    ["beam", "greedy"],
    "beam: keep the best beam_width traces at every step; greedy: keep one",
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "selector",
    "predictive_perplexity",
    ["predictive_perplexity"],
    "what ranks candidates: predictive_perplexity, how predictable the answer has become to the meta-prover",
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "segmentation",
    "prompt",
    ["prompt", "line_break", "prefix"],
    "where steps end: prompt, at the next "
    "'### Step' heading; line_break, at a blank line; prefix, before a word such as 'wait'",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "beam_width",
    None,
    "traces kept at every step; for curation, whole traces per proposer; "
    "4 by default, 1 with --decoding=greedy",
    lower_bound=1,
    flag_values=FLAGS,
)
flags.DEFINE_integer("max_steps", 128, "steps of a trace at most", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer(
    "max_step_tokens",
    1024,
    "tokens that a teacher samples for one step at most",
    lower_bound=1,
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "max_thinking_tokens",
    16384,
    "the meta-prover's tokens of the reasoning at most",
    lower_bound=1,
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "max_answer_tokens",
    4096,
    "tokens of the response after </think> at most",
    lower_bound=1,
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "closing",
    r"</think>\n\nThe final answer is ",
    "text between the reasoning and the answer when a "
    r"candidate is scored; \n stands for a new line",
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
    "seed", 0, "random seed; the same seed and settings give the same traces", flag_values=FLAGS
)
flags.DEFINE_integer(
    "slots", 8, "problems searched at a time; a matter of memory and speed", lower_bound=1, flag_values=FLAGS
)
common.define_devices(FLAGS)


def config_values(values: flags.FlagValues) -> dict:
    """The fields of `cord_jax.synthesis.SynthesisConfig`. Flags that contradict each other: `UserError`."""
    if values.decoding == "greedy" and values.beam_width not in (None, 1):
        raise UserError(
            f"--decoding=greedy keeps one trace and --beam_width={values.beam_width} asks for more; "
            "leave one of the two out"
        )
    for name in ("decoding", "segmentation", "max_steps", "max_step_tokens"):
        if values.method == "curation" and values[name].present:
            raise UserError(
                f"--method=curation writes whole traces and has no use for --{name}; leave one of the two out"
            )
    fields = {name: values[name].value for name in values if name != "distributed"}
    fields["closing"] = values.closing.replace(r"\n", "\n")
    if values.beam_width is None:
        fields["beam_width"] = 1 if values.decoding == "greedy" else 4
    return fields


def main(values: flags.FlagValues) -> None:
    """Runs the synthesis and prints its summary."""
    from cord_jax.synthesis import SynthesisConfig, synthesize

    common.start_devices(values)
    summary = synthesize(SynthesisConfig(**config_values(values)))
    if summary:  # only process 0 has one
        print(json.dumps(summary, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    common.run(main, FLAGS, __doc__)
