"""The loop of a training run: checks, resume, steps, metrics, checkpoints, export."""

import dataclasses
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import Mesh

import models
from cord_jax import interruption, settings
from cord_jax.errors import UserError
from cord_jax.files import read_object
from cord_jax.fingerprints import fingerprint
from cord_jax.mesh import parse_mesh
from cord_jax.run_directory import RunDirectory, check_run, open_run
from cord_jax.storage import rename_whole, storage_problem, write_atomically
from cord_jax.student.batches import Batch, assemble
from cord_jax.student.checkpoints import Checkpoints, has_states
from cord_jax.student.config import StudentConfig
from cord_jax.student.data import end_of_turn, show_examples
from cord_jax.student.forward import HeldOut, place
from cord_jax.student.job import Job, prepare, resolve
from cord_jax.student.metrics import Events, draw_curves, peak_flops, step_flops
from cord_jax.student.reference import Reference
from cord_jax.student.step import Step, TrainState, batch_sharding
from cord_jax.text.prompt_settings import FILE as PROMPT_FILE
from models import lora
from models.checkpoint.adapters import fits_peft, save_adapters

HF = "hf"
CHECKPOINTS = "checkpoints"
ADAPTER = "adapter"
METRICS = "metrics.jsonl"
NON_FINITE = "non_finite.jsonl"
FIRST_ROWS = "first_rows.txt"
CURVES = "curves.png"
_UNFINISHED = f"{HF}.unfinished"


def train(config: StudentConfig, progress: Callable[[Mapping[str, Any]], None] | None = None) -> Path:
    """Trains a student and exports it.

    Run again with the same settings it continues where the last saved state was, to the same weights; on a
    finished run it returns at once.

    Args:
      config: what to train, on what, and how.
      progress: is called with every row of metrics.jsonl, with `steps` (of the whole run) added to it.

    Returns: the exported Hugging Face directory, `output_dir/hf`.

    Raises:
      UserError: student, rows or settings cannot be used, or the directory holds another run; nothing was
        compiled.
      KeyboardInterrupt: SIGTERM or SIGINT arrived; the state has been saved.
    """
    mesh = parse_mesh(config.mesh)
    config = resolve(config, mesh)
    job = prepare(config)
    run_is = _describe(config)
    if run_is:
        check_run(config.output_dir, **run_is)
    hf = config.output_dir / HF
    if (hf / "config.json").exists():
        return hf
    program, shapes = Step.build(job.model_config, config, mesh, job.plan.steps)
    start = _Start(program)
    if config.lora_rank or not has_states(config.output_dir / CHECKPOINTS):
        start.read()  # a continued run reads no weights but its own, and those that are frozen
    with ExitStack() as stack:
        run = None
        if run_is:  # nothing is refused from here on
            run = stack.enter_context(
                open_run(config.output_dir, **run_is, environment=settings.free(config))
            )
            if not (run.path / FIRST_ROWS).exists():
                examples = job.examples[: config.show_rows * job.together]
                write_atomically(run.path / FIRST_ROWS, show_examples(examples, job.vocabulary))
        _run(program, shapes, start, job, run, progress)
        if run:  # now the run is finished, so this comes last
            rename_whole(run.path / _UNFINISHED, hf)
    return hf


def _describe(config: StudentConfig) -> dict[str, Any]:
    """Describes what makes a run this run: a directory that holds another is refused. Process 0 alone sees it."""
    if jax.process_index() > 0:
        return {}
    sources = (("student", config.student), ("traces", config.traces), ("held_out", config.held_out))
    inputs = {name: fingerprint(path) for name, path in sources if path}
    return {"job": "train_student", "settings": settings.deciding(config), "inputs": inputs}


class _Start:
    """The state before the first step, read from the student's checkpoint when it is needed."""

    def __init__(self, program: Step):
        self._program, self._state = program, None

    def read(self) -> TrainState:
        """The state. Raises: `models.CheckpointError` for weights that cannot be read."""
        if self._state is None:
            config = self._program.config
            dtype = config.compute_dtype if config.lora_rank else config.param_dtype
            weights = nnx.state(models.load(config.student, self._program.mesh, dtype))
            self._state = self._program.start(weights)
        return self._state

    def forget(self) -> None:
        """Keeps it no longer: its arrays are the trainer's now, or no one's."""
        self._state = None


def _run(
    step_program: Step,
    shapes: TrainState,
    start: _Start,
    job: Job,
    run: RunDirectory | None,
    progress: Callable[[Mapping[str, Any]], None] | None,
) -> None:
    config, mesh = step_program.config, step_program.mesh
    log = run.log if run else lambda _: None
    log(job.summary)
    with ExitStack() as stack:
        checkpoints = stack.enter_context(
            Checkpoints(
                config.output_dir / CHECKPOINTS,
                every=config.checkpoint_every,
                keep=config.keep_checkpoints,
                log=log,
            )
        )
        state = checkpoints.restore(shapes)
        reference = Reference.read(job, run) if step_program.objective.has_reference else Reference()
        if reference is None:
            log(f"computing the reference's log-probabilities of {len(job.examples + job.held_out)} texts")
            reference = Reference.compute(step_program, start.read(), job, run)
        if state is None:
            state = start.read()
        elif config.lora_rank:
            state = dataclasses.replace(state, frozen=start.read().frozen)
        start.forget()
        first = int(state.step)
        if first:
            log(f"continuing after step {first} of {job.plan.steps}")

        reports = _Reports(config, job, mesh, run, first, progress, stack)
        stack.enter_context(interruption.handled())
        programs: dict[tuple[int, ...], jax.stages.Compiled] = {}
        held_out = HeldOut(step_program, job.held_out, reference.held_out)
        batches = _Batches(config, job, mesh, reference.examples)
        batch = batches.of_step(first) if first < job.plan.steps else None
        for index in range(first, job.plan.steps):
            if batch.tokens.shape not in programs:
                programs[batch.tokens.shape] = step_program.compile_step(state, batch)
                reports.restart_clock()
            state, report = programs[batch.tokens.shape](state, batch)
            if index + 1 < job.plan.steps:
                batch = batches.of_step(index + 1)  # made while the devices compute
            done = index + 1
            figures = {}
            if job.held_out and (
                done == job.plan.steps or (config.eval_every and done % config.eval_every == 0)
            ):
                figures = held_out.figures(state)
            reports.add(done, jax.device_get(report), figures)
            last = done == job.plan.steps
            checkpoints.save(done, state, force=bool(config.checkpoint_every) and last, needed=not last)
            if _stops(done) and done < job.plan.steps:
                checkpoints.save(done, state, force=True)
                log(f"stopped by a signal after step {done} of {job.plan.steps}; the same command continues")
                interruption.look()
                raise KeyboardInterrupt

        if config.plot and run:
            _draw(run, step_program.objective.unit)
        model = step_program.model(state.params, state.frozen)
        if config.lora_rank:
            if fits_peft(model):
                _export_adapters(config, model)
            else:
                log(
                    f"{ADAPTER}/ is not written: PEFT cannot hold adapters of such a checkpoint (models.checkpoint.adapters)"
                )
            model = lora.merge(model)
        _export(config, job, model)


def _draw(run: RunDirectory, unit: str) -> None:
    """Draws the curves; a disk that has no room for them is told, and the student is not affected."""
    try:
        write_atomically(run.path / CURVES, draw_curves(run.json_lines(METRICS).read(), unit))
    except UserError as error:
        if storage_problem(error) is None:
            raise
        run.log(f"the curves are not drawn: {error}")


class _Batches:
    """The batch of each step, on the devices."""

    def __init__(self, config: StudentConfig, job: Job, mesh: Mesh, references: np.ndarray | None):
        self.config, self.job, self.references = config, job, references
        self.most_examples = job.plan.most_examples
        self.sharding = batch_sharding(mesh)

    def of_step(self, step: int) -> Batch:
        """The batch of a step, counted from 0."""
        arrays = assemble(
            self.job.examples,
            self.job.plan.windows[step],
            length=self.job.plan.lengths[step],
            batch_size=self.config.batch_size,
            accumulation=self.config.accumulation,
            references=self.references,
            most_examples=self.most_examples,
        )
        return place(arrays, self.sharding)


class _Reports:
    """Makes a row of metrics.jsonl of what a step tells, and says it to everybody who listens."""

    def __init__(
        self,
        config: StudentConfig,
        job: Job,
        mesh: Mesh,
        run: RunDirectory | None,
        first: int,
        progress: Callable[[Mapping[str, Any]], None] | None,
        stack: ExitStack,
    ):
        self.config, self.job, self.progress, self.run = config, job, progress, run
        peak = peak_flops(mesh.devices.flat[0])
        self.peak = None if peak is None else peak * mesh.size
        self.lines = self.events = None
        if run:
            self.lines = run.json_lines(METRICS)
            # Steps after the last saved state were lost, and are taken again.
            self.lines.rewrite(
                row for row in self.lines.read({"step": int}, once=("step",)) if row["step"] <= first
            )
            if config.tensorboard:
                self.events = Events(config.output_dir / "tensorboard")
                stack.callback(self.events.close)
        self.skipped = None
        self.restart_clock()

    def restart_clock(self) -> None:
        """Forgets the steps since the last row, whose time holds something that is not training."""
        self.since, self.tokens, self.flops = time.perf_counter(), 0, 0.0

    def add(self, step: int, report: Any, held_out: Mapping[str, float]) -> None:
        """Takes in what step `step` (from 1) told, and what was found on held-out rows, if anything was.

        Raises: `UserError` after too many skipped steps.
        """
        rows = [i for window in self.job.plan.windows[step - 1] for i in window]
        examples = [self.job.examples[i] for i in rows]
        self.tokens += sum(len(e.tokens) for e in examples)
        self.flops += step_flops(
            self.job.model_config,
            [len(e.tokens) for e in examples],
            sum(len(e.tokens) - max(e.prompt_length, 1) for e in examples),
            frozen=bool(self.config.lora_rank),
        )
        if not report.finite:
            self._skipped_step(step, int(report.skipped), list(dict.fromkeys(e.id for e in examples)))
        if step % self.config.log_every and step < self.job.plan.steps and not held_out:
            return
        seconds = time.perf_counter() - self.since
        row = {
            "step": step,
            "loss": _finite(report.loss),
            "learning_rate": _finite(report.learning_rate),
            "grad_norm": _finite(report.grad_norm),
            "tokens_per_second": _finite(self.tokens / seconds),
            "mfu": None if self.peak is None else _finite(self.flops / seconds / self.peak),
        }
        row |= {name: _finite(value) for name, value in {**report.figures, **held_out}.items()}
        if self.lines:
            self.lines.append(row)
        if self.events:
            self.events.write(row)
        if self.progress:
            self.progress({**row, "steps": self.job.plan.steps})
        self.restart_clock()

    def _skipped_step(self, step: int, skipped: int, ids: list[str]) -> None:
        if self.run:
            self.run.json_lines(NON_FINITE).append({"step": step, "rows": ids})
            self.run.log(
                f"step {step}: loss or gradient is not finite; the step was skipped ({skipped} so far)"
            )
        if skipped > self.config.max_skipped:
            raise UserError(
                f"step {step}: {skipped} steps had a loss or gradient that is not finite; their rows are in "
                f"{self.config.output_dir / NON_FINITE}; lower --learning_rate or look at those rows"
            )


def _export(config: StudentConfig, job: Job, model: models.Decoder) -> None:
    """Writes what will be `hf/`."""
    dtype = jnp.dtype(config.export_dtype or job.model_config.dtype)
    graphdef, weights = nnx.split(model)
    model = nnx.merge(graphdef, jax.tree.map(lambda a: a.astype(dtype), weights))
    with _whole(config.output_dir / _UNFINISHED) as unfinished:
        models.save(model, unfinished, source=config.student)
        if jax.process_index() == 0:
            _stop_at(end_of_turn(job.vocabulary), unfinished)
            row = json.dumps(config.prompt.to_row(), indent=2, ensure_ascii=False)
            (unfinished / PROMPT_FILE).write_text(row + "\n", encoding="utf-8")


def _export_adapters(config: StudentConfig, model: models.Decoder) -> None:
    """Writes `adapter/`, complete or not at all."""
    adapter = config.output_dir / ADAPTER
    with _whole(config.output_dir / f"{ADAPTER}.unfinished") as unfinished:
        save_adapters(model, unfinished, str(config.student), config.lora_rank, config.lora_alpha)
        if jax.process_index() == 0:
            shutil.rmtree(adapter, ignore_errors=True)  # of an earlier end of this run, which wrote no hf/
            rename_whole(unfinished, adapter)


@contextmanager
def _whole(unfinished: Path) -> Iterator[Path]:
    """A directory that is written; what an earlier attempt has left of it, or a full disk leaves, is taken away."""
    if jax.process_index() == 0:
        shutil.rmtree(unfinished, ignore_errors=True)
    try:
        yield unfinished
    except OSError:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _stop_at(eos_id: int, directory: Path) -> None:
    """Makes sure that `transformers` stops at the EOS that the student has learnt, beside those it knew."""
    path = directory / "generation_config.json"
    settings = read_object(path) if path.exists() else {}
    known = settings.get("eos_token_id")
    if known is None:
        known = read_object(directory / "config.json").get("eos_token_id")
    known = [] if known is None else known if isinstance(known, list) else [known]
    if eos_id not in known or "eos_token_id" not in settings:
        known = known if eos_id in known else [eos_id, *known]
        settings["eos_token_id"] = known if len(known) > 1 else known[0]
        path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _stops(step: int) -> bool:
    """Whether the run should be saved and ended after a step: SIGTERM or SIGINT has asked for it.

    In a job of several processes the preemption notice that jax passes on decides, so that all stop after the same step.
    """
    if jax.process_count() > 1:
        return multihost_utils.reached_preemption_sync_point(step)
    return interruption.asked()


def _finite(value: Any) -> float | None:
    value = float(value)
    return value if math.isfinite(value) else None
