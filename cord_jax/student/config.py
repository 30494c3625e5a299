"""The settings of a student's training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cord_jax import names, settings
from cord_jax.config import MESH_HELP, OUTPUT_HELP, TEMPLATE_ARGUMENTS_HELP, USER_PROMPT_HELP
from cord_jax.errors import UserError
from cord_jax.mesh_text import parse_sizes
from cord_jax.settings import configuration, setting
from cord_jax.student.row_filter import RowFilter
from cord_jax.text.prompt_settings import QUESTION, PromptSettings, check_user_prompt, parse_arguments

DTYPES = ("float32", "bfloat16")
SCHEDULES = ("cosine", "linear", "constant")


@configuration
class StudentConfig:
    """Settings of a training: what `cord_jax.train` is given and the flags of `launch.train_student`.

    `traces` and `held_out` may be files or the rows that they would hold: traces, or mappings of one of the kinds that
    `cord_jax.student.data` describes. The defaults of the recipe are the paper's, where it gives one.
    """

    student: Path | str = setting(
        help="HF checkpoint directory of the model to train (config.json, tokenizer, safetensors)",
        changes_result=False,
    )
    traces: Path | str | Sequence[Mapping[str, Any]] = setting(
        help="JSONL file (or .jsonl.gz) of rows to learn from", changes_result=False
    )
    output_dir: Path | str = setting(help=OUTPUT_HELP, changes_result=False)

    objective: str = setting(default="sft", help="what is learnt of a row", choices=names.OBJECTIVES)
    beta: float = setting(
        default=None,
        unset=0.1,
        help="with --objective=dpo, the weight of log-probabilities against those of the student as it was: the greater, the "
        "closer to it the student stays",
        above=0,
    )
    row_filter: str = setting(
        default="all",
        flag="filter",
        help="rows to use: all, or conditions joined by commas: correct (those whose answer was right), score>=NUMBER",
        check=RowFilter.parse,
    )
    max_length: int = setting(
        default=20480,
        help="tokens of a row at most, prompt included, and of a packed window; of a pair, both texts with their prompts",
        at_least=1,
    )
    turns: str = setting(
        default="last",
        help="which turns of the assistant in a conversation are learnt",
        choices={"last": "the last one", "all": "each of them, behind those before it"},
    )
    overlong: str = setting(
        default="drop",
        help="longer rows are dropped, or cut to max_length; both are counted",
        choices=("drop", "cut"),
    )
    pack: bool = setting(
        default=True, help="several rows share a window, kept apart by attention and positions"
    )
    system_prompt: str | None = setting(
        default=None,
        help="system turn of rows that have none; not given: what the chat template does by itself",
    )
    user_prompt: str = setting(default=QUESTION, help=USER_PROMPT_HELP, check=check_user_prompt, escapes=True)
    template_arguments: str = setting(default="{}", help=TEMPLATE_ARGUMENTS_HELP, check=parse_arguments)
    held_out: Path | str | Sequence[Mapping[str, Any]] | None = setting(
        default=None,
        help="JSONL file of rows whose loss is reported and which are not trained on",
        changes_result=False,
    )
    eval_every: int = setting(
        default=0, help="steps between two held-out losses; 0: only at the end", at_least=0
    )
    show_rows: int = setting(
        default=2,
        help="rows written out token by token, with what is learnt, to first_rows.txt",
        at_least=0,
        changes_result=False,
    )

    epochs: int = setting(default=5, help="times that each row is shown", at_least=1)
    max_steps: int | None = setting(
        default=None,
        help="ends the run, and its schedule, after so many steps; not given: all epochs",
        at_least=1,
    )
    batch_size: int = setting(
        default=8, help="windows (rows, with --nopack) of one step, over all devices", at_least=1
    )
    accumulation: int = setting(
        default=1,
        help="parts that a batch is computed in, one after the other, to save memory",
        at_least=1,
    )
    learning_rate: float = setting(default=5e-6, help="highest learning rate", above=0, below=1)
    schedule: str = setting(
        default="cosine",
        help="learning rate after the warm-up: cosine and linear fall to 0 at the end",
        choices=SCHEDULES,
    )
    warmup: float = setting(
        default=0.05, help="fraction of the steps in which the learning rate rises", at_least=0, below=1
    )
    weight_decay: float = setting(default=0.0, help="AdamW's, on matrices only", at_least=0)
    beta1: float = setting(default=0.9, help="Adam's decay of the first moment", at_least=0, below=1)
    beta2: float = setting(default=0.999, help="Adam's decay of the second moment", at_least=0, below=1)
    epsilon: float = setting(default=1e-8, help="Adam's addition to the root of the second moment", above=0)
    lora_rank: int = setting(
        default=0,
        help="rank of adapters of the layers' projections, which alone are learnt and at the end added to the weights; "
        "0: all weights are learnt",
        at_least=0,
    )
    lora_alpha: float = setting(
        default=32.0, help="adapters are multiplied by lora_alpha / lora_rank", above=0
    )
    max_grad_norm: float = setting(
        default=1.0, help="global norm that gradients are scaled down to; 0: never", at_least=0
    )
    max_skipped: int = setting(
        default=10,
        help="steps whose loss or gradient is not finite are skipped; one more than this ends the run",
        at_least=0,
        changes_result=False,
    )
    seed: int = setting(default=0, help="random seed of the order of the rows", at_least=0)

    compute_dtype: str | None = setting(
        default=None,
        help="of the forward and backward pass; not given: float32 on CPUs, bfloat16 elsewhere",
        choices=DTYPES,
    )
    param_dtype: str = setting(
        default="float32",
        help="of the weights that are kept; the optimizer's moments are float32",
        choices=DTYPES,
    )
    export_dtype: str | None = setting(
        default=None,
        help="of the weights in hf/; not given: that of the student's own",
        choices=DTYPES,
    )
    remat: str = setting(
        default="none",
        help="what the backward pass computes again to save memory: "
        "nothing; all but the results of matrix products; all but each layer's input",
        choices=("none", "dots", "full"),
    )
    loss_positions: int = setting(
        default=1024,
        help="target positions of a device that are projected to logits at once",
        at_least=1,
        changes_result=False,
    )

    checkpoint_every: int = setting(
        default=200,
        help="steps between two saved states; also one at the end. 0: only when a signal stops the run",
        at_least=0,
        changes_result=False,
    )
    keep_checkpoints: int = setting(
        default=2, help="latest states that are kept", at_least=1, changes_result=False
    )
    log_every: int = setting(
        default=1,
        help="steps between two rows of metrics.jsonl and two progress lines",
        at_least=1,
        changes_result=False,
    )
    tensorboard: bool = setting(
        default=False, help="also write the metrics as TensorBoard events", changes_result=False
    )
    plot: bool = setting(
        default=True, help="draw the curves into curves.png at the end", changes_result=False
    )
    mesh: str = setting(default="fsdp:-1", help=MESH_HELP, check=parse_sizes, changes_result=False)

    @property
    def prompt(self) -> PromptSettings:
        """The filling of the student's chat template."""
        return PromptSettings(
            self.system_prompt, self.user_prompt, tuple(parse_arguments(self.template_arguments).items())
        )

    def __post_init__(self):
        """Raises: `UserError` for a value that is out of range or contradicts another."""
        for name in ("traces", "held_out"):
            rows = getattr(self, name)
            if isinstance(rows, (list, tuple)):  # traces become the rows that a file of them would hold
                object.__setattr__(
                    self, name, [getattr(row, "to_row", lambda row=row: row)() for row in rows]
                )
        settings.check(
            self, _equal_parts, _something_to_evaluate, _settings_of_pairs, _turns_of_conversations
        )


def _equal_parts(config: StudentConfig) -> None:
    if config.batch_size % config.accumulation:
        raise UserError(
            f"--batch_size={config.batch_size} does not divide into --accumulation={config.accumulation} "
            "equal parts; choose one that divides it"
        )


def _something_to_evaluate(config: StudentConfig) -> None:
    if config.eval_every and config.held_out is None:
        raise UserError(f"--eval_every={config.eval_every} has nothing to evaluate; give --held_out=FILE")


def _settings_of_pairs(config: StudentConfig) -> None:
    if config.objective != "dpo" and config.beta is not None:
        raise UserError(f"--beta={config.beta:g} is of --objective=dpo; give that, or leave --beta out")
    if config.objective == "dpo" and config.overlong == "cut":
        raise UserError(
            "--overlong=cut would compare texts without their ends; leave it out with --objective=dpo"
        )


def _turns_of_conversations(config: StudentConfig) -> None:
    if config.objective != "sft" and config.turns == "all":
        raise UserError(f"--turns=all is of conversations; leave it out with --objective={config.objective}")
