"""Requests to the jobs: the settings of synthesis and of evaluation (`cord_jax.student.config` has training's).

What a field means and what it may be stands in its `setting`; the flags of `launch` are made from it.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cord_jax import names, settings
from cord_jax.errors import UserError
from cord_jax.filters import parse_filters
from cord_jax.mesh_text import parse_sizes
from cord_jax.pool import PoolSpec
from cord_jax.problem_files import parse_columns
from cord_jax.problems import Problem
from cord_jax.settings import configuration, setting
from cord_jax.text.prompt_settings import check_user_prompt, parse_arguments

CLOSING = "</think>\n\nThe final answer is "
INSTRUCTION = "Combine the solutions above into one coherent and complete solution."
MESH_HELP = (
    "devices along each axis, -1 for those that are left: data (problems, or rows of a batch), model (heads and "
    "features), fsdp (parameters, in training); a CPU becomes as many devices as are asked for: data:2 keeps two cores "
    "busy"
)
OUTPUT_HELP = "directory of the run; created, or continued if it holds this very run"
PROBLEMS_HELP = "problems: JSON lines (.jsonl, .jsonl.gz), a Parquet file, or a directory of such files or saved by datasets"
COLUMNS_HELP = (
    "names of the columns in the problem file where they are others, as in question:problem,answer:solution; id:# takes "
    "the number of the row for its id"
)
SPLIT_HELP = "split to take of a directory that has several"
LIMIT_HELP = "take the first so many problems of the file; 0 takes all; a run may be continued with more"
USER_PROMPT_HELP = (
    "user turn of a problem: a text with {question} where the question goes, after its context if it has one; "
    r"\n stands for a new line"
)
TEMPLATE_ARGUMENTS_HELP = (
    "further variables of the chat template, a JSON object such as "
    '{"enable_thinking": true}, which is the default of that one'
)
GRADER_HELP = "how predicted answers are checked"


def parse_shard(text: str) -> tuple[int, int]:
    """Reads `3/16`, a part's number, from 1, and how many there are. Raises: `UserError`."""
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    index, count = map(int, found.groups()) if found else (0, 0)
    if not 1 <= index <= count:
        raise settings.refusal("shard", text, "a part and how many there are, from 1/16 to 16/16")
    return index, count


@configuration
class SynthesisConfig:
    """Settings of writing traces: what `cord_jax.synthesize` is given and the flags of `launch.synthesize`.

    `pool` and `problems` may be files or what they would hold. None stands for the value that `resolved` tells, and
    says that it was not asked for: curation, which writes whole traces, refuses a segmentation, for instance.
    """

    pool: Path | str | PoolSpec = setting(
        help="TOML file of the proposers (name, checkpoint, sampling) and the meta-prover",
        changes_result=False,
    )
    problems: Path | str | Sequence[Problem] = setting(
        help=f"{PROBLEMS_HELP}; with id, question, answer; optional context, solution, answers",
        changes_result=False,
    )
    output_dir: Path | str = setting(help=OUTPUT_HELP, changes_result=False)
    method: str = setting(default="cord", help="how a problem becomes a trace", choices=names.METHODS)
    decoding: str = setting(
        default=None, unset="beam", help="which traces are extended", choices=names.DECODINGS
    )
    selector: str = setting(
        default="predictive_perplexity", help="what ranks candidates", choices=names.SELECTORS
    )
    segmentation: str = setting(
        default=None, unset="prompt", help="where steps end", choices=names.SEGMENTATIONS
    )
    beam_width: int = setting(
        default=None,
        unset=lambda config: 1 if config.decoding == "greedy" else 4,
        help="traces kept at every step; for curation, whole traces per proposer; for mcts, complete traces with different "
        "last steps but one that end the search; 4 by default, 1 with --decoding=greedy",
        at_least=1,
    )
    integration_instruction: str = setting(
        default=None,
        unset=INSTRUCTION,
        help=r"with --method=integration, what the integrator is told after question and solutions; \n stands for a new line",
        escapes=True,
    )
    max_steps: int = setting(default=None, unset=128, help="steps of a trace at most", at_least=1)
    max_step_tokens: int = setting(
        default=None, unset=1024, help="tokens that a teacher samples for one step at most", at_least=1
    )
    reward_of: str = setting(
        default=None,
        unset="last",
        help="with --selector=process_reward, which of its steps' rewards is that of a trace",
        choices=("last", "min", "mean", "product"),
    )
    judgments: int = setting(
        default=None,
        unset=10,
        help="with --selector=binary_judgment, answers that the meta-prover writes after each candidate",
        at_least=1,
    )
    max_judgment_tokens: int = setting(
        default=None,
        unset=32,
        help="with --selector=binary_judgment or confidence, tokens of such an answer at most",
        at_least=1,
    )
    exploration: float = setting(
        default=None,
        unset=0.2,
        help="with --decoding=mcts, how much traces that were seldom extended are preferred",
        at_least=0,
    )
    max_expansions: int = setting(
        default=None,
        unset=lambda config: (config.beam_width or 4) * (config.max_steps or 128),
        help="with --decoding=mcts, traces that are extended at most; beam_width x max_steps by default",
        at_least=1,
    )
    max_thinking_tokens: int = setting(
        default=None, unset=16384, help="the meta-prover's tokens of the reasoning at most", at_least=1
    )
    max_answer_tokens: int = setting(
        default=None, unset=4096, help="tokens of the response after </think> at most", at_least=1
    )
    closing: str = setting(
        default=CLOSING,
        help="text between the reasoning and the answer when a candidate is scored; "
        r"\n stands for a new line",
        escapes=True,
    )
    filters: str = setting(
        default="",
        help="what drops candidates before they are scored, comma-separated, in this order: arithmetic, steps with an "
        "equation between plain numbers that does not hold; repetition, steps that say again what an earlier one has "
        "said; package.module:function, those for which a function of your own is true",
        check=parse_filters,
    )
    decoys: int = setting(
        default=0,
        help="wrong answers, of other problems, that are scored after each winner's reasoning too",
        at_least=0,
    )
    grader: str = setting(default="auto", help=GRADER_HELP, choices=names.GRADERS)
    judge: Path | str | None = setting(
        default=None,
        help="HF checkpoint directory of the model that --grader=judge asks",
        changes_result=False,
    )
    columns: str = setting(default="", help=COLUMNS_HELP, check=parse_columns)
    split: str = setting(default="", help=SPLIT_HELP)
    shard: str = setting(
        default="1/1",
        help="3/16 takes the third, the nineteenth and so on of the problems, the third of sixteen parts that may be written "
        "apart; launch.publish puts them together",
        check=parse_shard,
    )
    limit: int = setting(default=0, help=LIMIT_HELP, at_least=0, changes_result=False)
    seed: int = setting(
        default=0, help="random seed; the same seed and settings give the same traces", at_least=0
    )
    slots: int = setting(
        default=8,
        help="problems searched at a time; a matter of memory and speed",
        at_least=1,
        changes_result=False,
    )
    mesh: str = setting(default="data:1,model:-1", help=MESH_HELP, check=parse_sizes, changes_result=False)

    def __post_init__(self):
        """Raises: `UserError` for a value out of range, or one that contradicts another."""
        settings.check(
            self,
            _a_judge_for_its_grader,
            _columns_of_a_file,
            _one_trace_with_greedy,
            _no_steps_with_whole_traces,
            _integration_settings,
            _tree_search_settings,
            _reward_settings,
            _judgment_settings,
        )

    @property
    def resolved(self) -> "SynthesisConfig":
        """The same with a value for every setting that was not given."""
        return settings.resolved(self)


def _a_judge_for_its_grader(config: Any) -> None:
    if config.grader == "judge" and config.judge is None:
        raise UserError("--grader=judge needs a model to ask; give --judge=DIR")
    if config.grader != "judge" and config.judge is not None:
        raise UserError(
            f"--judge={settings.show(config.judge)} is not asked with --grader={config.grader}; give --grader=judge too, "
            "or leave it out"
        )


def _columns_of_a_file(config: Any) -> None:
    for name in ("columns", "split"):
        value = getattr(config, name)
        if value and not isinstance(config.problems, (str, Path)):
            raise UserError(
                f"--{name}={settings.show(value)}: is of a problem file; leave it out with problems held in memory"
            )


def _one_trace_with_greedy(config: SynthesisConfig) -> None:
    if config.decoding == "greedy" and config.beam_width not in (None, 1):
        raise UserError(
            f"--decoding=greedy keeps one trace and --beam_width={config.beam_width} asks for more; "
            "leave one of the two out"
        )


def _no_steps_with_whole_traces(config: SynthesisConfig) -> None:
    of_steps = ("decoding", "segmentation", "max_steps", "max_step_tokens")
    without = {"curation": of_steps, "integration": (*of_steps, "beam_width")}
    for name in without.get(config.method, ()):
        if getattr(config, name) is not None:
            raise UserError(
                f"--method={config.method} writes whole traces and has no use for --{name}; leave one of the two out"
            )


def _integration_settings(config: SynthesisConfig) -> None:
    if config.method != "integration" and config.integration_instruction is not None:
        raise UserError(
            "--integration_instruction is of --method=integration; give that, or leave --integration_instruction out"
        )


def _tree_search_settings(config: SynthesisConfig) -> None:
    for name in ("exploration", "max_expansions"):
        if config.decoding != "mcts" and getattr(config, name) is not None:
            raise UserError(f"--{name} is of --decoding=mcts; give that, or leave --{name} out")


def _reward_settings(config: SynthesisConfig) -> None:
    if config.selector != "process_reward" and config.reward_of is not None:
        raise UserError("--reward_of is of --selector=process_reward; give that, or leave --reward_of out")


def _judgment_settings(config: SynthesisConfig) -> None:
    selectors = {"judgments": ["binary_judgment"], "max_judgment_tokens": ["binary_judgment", "confidence"]}
    for name, using in selectors.items():
        if config.selector not in using and getattr(config, name) is not None:
            raise UserError(
                f"--{name} is of --selector={' or '.join(using)}; give that, or leave --{name} out"
            )


@configuration
class EvaluationConfig:
    """Settings of measuring a model on problems: what `cord_jax.evaluate` is given and the flags of `launch.evaluate`.

    `problems` may be a file or what it would hold.
    """

    model: Path | str = setting(
        help="HF checkpoint directory (config.json, tokenizer, safetensors)", changes_result=False
    )
    problems: Path | str | Sequence[Problem] = setting(
        help=f"{PROBLEMS_HELP}; with id, question, answer; optional context, answers",
        changes_result=False,
    )
    output_dir: Path | str = setting(help=OUTPUT_HELP, changes_result=False)
    samples: int = setting(default=16, help="answers sampled per problem", at_least=1)
    temperature: float = setting(
        default=0.6, help="sampling temperature; 0 takes the most probable token", at_least=0
    )
    top_k: int = setting(default=0, help="sample among the k most probable tokens; 0 is off", at_least=0)
    top_p: float = setting(
        default=1.0,
        help="sample among the most probable tokens that hold this much probability; 1 is off",
        above=0,
        at_most=1,
    )
    max_tokens: int = setting(
        default=None,
        unset=32768,
        help="tokens of one sample at most, reasoning and response together",
        at_least=1,
    )
    system_prompt: str | None = setting(
        default=None, help="system turn; not given: as the model's prompt.json says, else its chat template"
    )
    user_prompt: str | None = setting(
        default=None,
        help=f"{USER_PROMPT_HELP}; not given: as the model's prompt.json says, else the question alone",
        check=check_user_prompt,
        escapes=True,
    )
    template_arguments: str | None = setting(
        default=None,
        help=f"{TEMPLATE_ARGUMENTS_HELP}; not given: as the model's prompt.json says",
        check=parse_arguments,
    )
    grader: str = setting(default="auto", help=GRADER_HELP, choices=names.GRADERS)
    judge: Path | str | None = setting(
        default=None,
        help="HF checkpoint directory of the model that --grader=judge asks",
        changes_result=False,
    )
    columns: str = setting(default="", help=COLUMNS_HELP, check=parse_columns)
    split: str = setting(default="", help=SPLIT_HELP)
    limit: int = setting(default=0, help=LIMIT_HELP, at_least=0, changes_result=False)
    seed: int = setting(
        default=0, help="random seed; the same seed and settings give the same samples", at_least=0
    )
    slots: int = setting(
        default=32,
        help="samples decoded at a time; a matter of memory and speed",
        at_least=1,
        changes_result=False,
    )
    mesh: str = setting(default="data:1,model:-1", help=MESH_HELP, check=parse_sizes, changes_result=False)

    def __post_init__(self):
        """Raises: `UserError` for a value out of range."""
        settings.check(self, _a_judge_for_its_grader, _columns_of_a_file)

    @property
    def resolved(self) -> "EvaluationConfig":
        """The same with a value for every setting that was not given."""
        return settings.resolved(self)


@configuration
class PreferencesConfig:
    """Settings of making pairs: what `cord_jax.write_preferences` is given and the flags of `launch.preferences`."""

    run: Path | str = setting(
        help="directory of a run of launch.synthesize, or several joined by commas",
        changes_result=False,
    )
    output_dir: Path | str = setting(help=OUTPUT_HELP, changes_result=False)
    margin: float = setting(
        default=0.1,
        help="least difference of the scores of two siblings, in the selector's unit; 0: any difference",
        at_least=0,
    )
    student: Path | str | None = setting(
        default=None,
        help="HF checkpoint directory whose chat template the field `prompt` is written in, for trainers that take it as "
        "it is; not given: the question, a blank line and <think>",
        changes_result=False,
    )

    @property
    def runs(self) -> list[Path]:
        """The directories of `run`."""
        return [Path(part) for part in str(self.run).split(",")]

    def __post_init__(self):
        """Raises: `UserError` for a value out of range."""
        settings.check(self, _different_runs)


def _different_runs(config: PreferencesConfig) -> None:
    parts = str(config.run).split(",")
    if "" in parts or len(set(parts)) < len(parts):
        raise settings.refusal("run", config.run, "different directories, joined by commas")
