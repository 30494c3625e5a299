"""The job of writing traces: a pool and a problem file in, `traces.jsonl`, `tree.jsonl` and `summary.json` out."""

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

import models
from cord_jax import settings as settings_of
from cord_jax.config import SynthesisConfig
from cord_jax.decoys import choose_decoys
from cord_jax.engine.journal import Journal, from_text, to_text
from cord_jax.engine.teachers import Teachers, load_teachers
from cord_jax.errors import UserError
from cord_jax.files import read_object
from cord_jax.fingerprints import fingerprint
from cord_jax.grading import Grader, check_judge, grader_options, open_grader
from cord_jax.mesh import device_name, parse_mesh, text_from_process_0
from cord_jax.methods import Job, Method, Run, make_method
from cord_jax.pool import PoolSpec, read_pool
from cord_jax.problems import read_problems
from cord_jax.run_directory import RunDirectory, check_run, open_run
from cord_jax.traces import SUMMARY, Provenance, Trace, TraceFiles, summarize, summarize_trees

_REPORT_SECONDS = 10.0


def synthesize(
    config: SynthesisConfig,
    progress: Callable[[int, int, Trace], None] | None = None,
    execution_of: Callable[..., models.Execution] = models.execution_of,
) -> dict[str, Any]:
    """Searches every problem that the run directory does not hold yet, and returns the run's summary.

    Args:
      progress: called with (traces written, problems, newest trace) after each trace.
      execution_of: says how each network runs, as `models.execution_of`.

    Raises: `UserError` or `models.CheckpointError` for input that cannot be used, before anything is written.
    """
    config = config.resolved
    method = make_method(config)
    everything = read_problems(config.problems, answers_needed=method.search.scorer.needs_answer)
    problems = everything[: config.limit or None]
    spec, mesh = read_pool(config.pool), parse_mesh(config.mesh)
    rewards = method.search.scorer.needs_reward_model
    if rewards and spec.reward_model is None:
        raise UserError(
            f"--selector={config.selector} needs a reward model; name one in a [reward_model] table of the pool"
        )
    check_judge(config.judge)
    run_is = _describe(config, method, spec)
    leads = jax.process_index() == 0
    if leads:
        check_run(config.output_dir, **run_is)
    teachers = load_teachers(spec, mesh, problems, method.new_tokens(spec), execution_of, rewards)
    with open_grader(config.grader, **grader_options(config.judge, mesh)) as grader:
        decoys = None
        if config.decoys:
            decoys = [choose_decoys(p, everything, config.decoys, config.seed, grader) for p in problems]
        job = Job(teachers, problems, mesh, decoys, grader)
        searches = method.prepare(job)
        provenance = Provenance(
            config.method,
            config.selector,
            config.decoding if config.method == "cord" else None,
            _digest(run_is),
            config.decoys > 0,
        )
        if not leads:  # the other processes compute alike and write nothing
            pending, recorded = _agree(problems, None, None)
            for outcome in searches(pending, recorded):
                if config.judge is not None:  # it lies on the devices of all processes
                    outcome.grade(grader)
            return {}
        environment = settings_of.free(config) | {"device": device_name(mesh)}
        with open_run(config.output_dir, **run_is, environment=environment) as run:
            return _write_traces(run, method, job, searches, grader, provenance, progress)


def _write_traces(
    run: RunDirectory,
    method: Method,
    job: Job,
    searches: Run,
    grader: Grader,
    provenance: Provenance,
    progress: Callable[[int, int, Trace], None] | None,
) -> dict[str, Any]:
    """Searches what the run directory does not hold yet, and returns the summary."""
    problems, device, names = job.problems, device_name(job.mesh), method.writers(job.teachers.spec)
    files, journal = TraceFiles(run), Journal(run)
    done = files.finished()
    unfinished = {problem.id: i for i, problem in enumerate(problems) if problem.id not in done}
    pending, recorded = _agree(problems, list(unfinished.values()), journal.read(unfinished))
    started = reported = time.monotonic()
    run.log(f"synthesize: {len(pending)} of {len(problems)} problems to search on {device}")
    seam_rates = _seam_rates(run, job.teachers, method.search.segmentation)
    written = len(problems) - len(pending)

    def record(settled):
        journal.write([(problems[i].id, number, candidates) for i, number, candidates in settled])

    for outcome in searches(pending, recorded, record):
        trace = outcome.trace(grader, provenance)
        files.write(trace, outcome.tree())
        written += 1
        if progress is not None:
            progress(written, len(problems), trace)
        if time.monotonic() - reported > _REPORT_SECONDS:
            reported = time.monotonic()
            idle = f"{100 * outcome.idle_row_share:.0f} % of decoded rows idle"
            run.log(f"synthesize: {written} of {len(problems)} traces, {idle}")
    journal.clear()
    if not pending and (run.path / SUMMARY).exists():
        return read_object(run.path / SUMMARY)
    summary = summarize(files.read(), names, seconds=time.monotonic() - started, device=device)
    summary["seam_rate"] = seam_rates
    if provenance.decoding == "mcts":
        summary["tree"] = summarize_trees(files.read_tree(), method.search.max_steps)
    run.write_json(SUMMARY, summary)
    return summary


def _seam_rates(run: RunDirectory, teachers: Teachers, segmentation: str) -> dict[str, float]:
    """The share of step seams that each vocabulary encodes in another way than whole texts, told where it is not 0."""
    rates = {reader.checkpoint.name: reader.vocabulary.seam_rate(segmentation) for reader in teachers.readers}
    for name, rate in rates.items():
        if rate > 0:
            run.log(
                f"synthesize: {name} encodes {rate:.1%} of step seams in another way than whole texts; "
                "its steps are read as they are encoded one by one"
            )
    return rates


def _describe(config: SynthesisConfig, method: Method, spec: PoolSpec) -> dict[str, Any]:
    """Describes what makes a run this run: a directory that holds another is refused."""
    checkpoints = dict.fromkeys([p.checkpoint for p in spec.proposers] + [spec.meta_prover.checkpoint])
    settings = settings_of.deciding(config)
    settings["proposers"] = [_settings_of(proposer) for proposer in spec.proposers]
    settings["meta_prover"] = _settings_of(spec.meta_prover)
    settings |= {role: _settings_of(writer) for role, writer in method.roles(spec).items()}
    if config.selector == "process_reward" and spec.reward_model is not None:
        settings["reward_model"] = _settings_of(spec.reward_model)
        checkpoints[spec.reward_model.checkpoint] = None
    return {
        "job": "synthesize",
        "settings": settings,
        "inputs": {"problems": fingerprint(config.problems)}
        | {f"checkpoint {n} ({path.name})": fingerprint(path) for n, path in enumerate(checkpoints, 1)}
        | ({} if config.judge is None else {"judge": fingerprint(config.judge)}),
    }


def _digest(run_is: Mapping[str, Any]) -> str:
    """A hash of a run's settings and checkpoints."""
    inputs = {name: value for name, value in run_is["inputs"].items() if name != "problems"}
    text = json.dumps([run_is["settings"], inputs], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _settings_of(spec) -> dict[str, Any]:
    """All of a proposer or the meta-prover that decides traces, but for where its checkpoint lies."""
    values = dataclasses.asdict(spec)
    values["checkpoint"] = Path(values["checkpoint"]).name
    if hasattr(spec, "prompt"):
        values |= spec.prompt.to_row()
    return values


def _agree(problems, pending, recorded):
    """Tells all processes what process 0 found in the directory: problems to search, and their settled rounds."""
    ids = [problem.id for problem in problems]
    message = text_from_process_0(lambda: json.dumps([pending, to_text(recorded, ids)]))
    if message is None:
        return pending, recorded
    pending, recorded = json.loads(message)
    return pending, from_text(recorded, ids)
