"""The settings of a student's training."""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cord_jax.errors import UserError

SCHEDULES = ("cosine", "linear", "constant")
OVERLONG = ("drop", "cut")
DTYPES = ("float32", "bfloat16")
REMAT = ("none", "dots", "full")
# Settings under which a run may be continued, since they do not change its weights.
_FREE = (
    "output_dir",
    "student",
    "traces",
    "held_out",
    "log_every",
    "checkpoint_every",
    "keep_checkpoints",
    "plot",
    "tensorboard",
    "show_rows",
    "mesh",
    "loss_positions",
    "max_skipped",
)


@dataclass(frozen=True)
class StudentConfig:
    """What to train, on what, and how. The defaults of the recipe are the paper's, where it gives one.

    Attributes:
      student: HF directory of the model to train, with its tokenizer.
      traces: JSONL (or .jsonl.gz) of rows; `cord_jax.student.data` says which kinds.
      output_dir: where metrics, checkpoints and `hf/` go.
      row_filter: which rows are used: `all`, or conditions joined by commas: `correct`, `score>=NUMBER`.
      max_length: tokens of a row, prompt included, and of a packed window.
      overlong: what happens to a longer row: `drop` it, or `cut` it (it then has no EOS).
      pack: put several rows into one window; attention and positions keep them apart.
      system_prompt: for rows without one of their own; None for what the template does by itself.
      held_out: JSONL of rows whose loss is reported and which are not trained on.
      eval_every: steps between two evaluations of `held_out`; 0 for the end only.
      epochs: times that each row is shown.
      max_steps: ends the run (and its schedule) earlier; None for all epochs.
      batch_size: windows (rows, if not packed) of one optimisation step, over all devices.
      accumulation: parts that a batch is computed in, one after the other; saves memory, changes no result.
      learning_rate: the highest of the schedule.
      schedule: `cosine` or `linear` (to zero at the end) or `constant`, after the warm-up.
      warmup: fraction of the steps in which the learning rate rises linearly.
      weight_decay: decoupled, on matrices (not on norms and biases).
      beta1, beta2, epsilon: of Adam.
      lora_rank: rank of adapters of the layers' projections, which alone are then learnt and at the end added
        to the weights (`models.lora`); 0: all weights are learnt.
      lora_alpha: the adapters' products are multiplied by `lora_alpha / lora_rank`.
      max_grad_norm: the gradient is scaled down to this global norm; 0 for never.
      seed: of the order of the rows.
      compute_dtype: of the forward and backward pass; None: bfloat16 on accelerators, float32 on CPUs.
      param_dtype: of the weights that are learnt; moments and sums are always float32, frozen weights are kept
        in `compute_dtype`.
      export_dtype: of the weights in `hf/`; None for that of the student's own files.
      remat: what the backward pass recomputes: `none`, `dots` (all but the results of matrix products) or
        `full` (all but each layer's input).
      mesh: devices along each axis, as `cord_jax.mesh.parse_mesh` reads it.
      loss_positions: target positions of one device that are projected to logits at once.
      max_skipped: steps with a loss or gradient that is not finite are skipped; one more than this ends the
        run.
      checkpoint_every: steps between two saves; one is also made at the end. 0: none but on SIGTERM.
      keep_checkpoints: number of the latest ones that are kept.
      log_every: steps between two rows of metrics.jsonl and two progress lines.
      show_rows: rows that are written out token by token to first_rows.txt.
      tensorboard: also write the metrics as TensorBoard events.
      plot: draw the curves into curves.png at the end.
    """

    student: str | os.PathLike
    traces: str | os.PathLike
    output_dir: str | os.PathLike
    row_filter: str = "all"
    max_length: int = 20480
    overlong: str = "drop"
    pack: bool = True
    system_prompt: str | None = None
    held_out: str | os.PathLike | None = None
    eval_every: int = 0
    epochs: int = 5
    max_steps: int | None = None
    batch_size: int = 8
    accumulation: int = 1
    learning_rate: float = 5e-6
    schedule: str = "cosine"
    warmup: float = 0.05
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    lora_rank: int = 0
    lora_alpha: float = 32.0
    max_grad_norm: float = 1.0
    seed: int = 0
    compute_dtype: str | None = None
    param_dtype: str = "float32"
    export_dtype: str | None = None
    remat: str = "none"
    mesh: str = "fsdp:-1"
    loss_positions: int = 1024
    max_skipped: int = 10
    checkpoint_every: int = 200
    keep_checkpoints: int = 2
    log_every: int = 1
    show_rows: int = 2
    tensorboard: bool = False
    plot: bool = True

    def __post_init__(self):
        """Raises: `UserError` for a value that is out of range or contradicts another."""
        for name in ("student", "traces", "output_dir", "held_out"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, Path(getattr(self, name)))
        for name, allowed in (
            ("overlong", OVERLONG),
            ("schedule", SCHEDULES),
            ("remat", REMAT),
            ("param_dtype", DTYPES),
            ("compute_dtype", (None, *DTYPES)),
            ("export_dtype", (None, *DTYPES)),
        ):
            self._check(name, getattr(self, name) in allowed, "one of " + ", ".join(a for a in allowed if a))
        for name in (
            "max_length",
            "epochs",
            "batch_size",
            "accumulation",
            "loss_positions",
            "keep_checkpoints",
            "log_every",
        ):
            self._check(name, getattr(self, name) >= 1, "at least 1")
        for name in (
            "eval_every",
            "max_skipped",
            "checkpoint_every",
            "weight_decay",
            "max_grad_norm",
            "lora_rank",
            "show_rows",
            "seed",
        ):
            self._check(name, getattr(self, name) >= 0, "0 or more")
        self._check("max_steps", self.max_steps is None or self.max_steps >= 1, "at least 1")
        self._check("learning_rate", 0 < self.learning_rate < 1, "between 0 and 1")
        for name in ("epsilon", "lora_alpha"):
            self._check(name, getattr(self, name) > 0, "above 0")
        for name in ("beta1", "beta2", "warmup"):
            self._check(name, 0 <= getattr(self, name) < 1, "at least 0 and below 1")
        if self.batch_size % self.accumulation:
            raise UserError(
                f"--batch_size={self.batch_size} does not divide into --accumulation={self.accumulation} "
                "equal parts; choose one that divides it"
            )
        if self.eval_every and self.held_out is None:
            raise UserError(f"--eval_every={self.eval_every} has nothing to evaluate; give --held_out=FILE")

    def _check(self, name: str, good: bool, wanted: str) -> None:
        if not good:
            raise UserError(f"--{name}={getattr(self, name)}: must be {wanted}")

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the weights: a run is continued only under the same."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in _FREE}

    @property
    def environment(self) -> dict[str, Any]:
        """What may change when a run is continued."""
        return {
            name: value
            for name, value in dataclasses.asdict(self).items()
            if name in _FREE and name != "output_dir"
        }
