"""The job of writing traces: a pool and a problem file in, `traces.jsonl`, `tree.jsonl` and `summary.json` out."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

import models
from cord_jax import interruption
from cord_jax import settings as settings_of
from cord_jax.advice import advice_on_traces
from cord_jax.config import SynthesisConfig, parse_shard
from cord_jax.decoys import choose_decoys
from cord_jax.engine.journal import Journal, agree_on
from cord_jax.engine.meter import Meter
from cord_jax.engine.teachers import Teachers, load_teachers
from cord_jax.errors import UserError
from cord_jax.files import read_object
from cord_jax.fingerprints import fingerprint
from cord_jax.grading import Grader, check_judge, grader_options, open_grader
from cord_jax.growth import identity_in, identity_of, note_growth
from cord_jax.mesh import device_name, parse_mesh, text_from_process_0
from cord_jax.methods import Job, Method, Run, make_method
from cord_jax.pool import PoolSpec, described, read_pool
from cord_jax.problems import Problem, read_problems
from cord_jax.progress import TraceProgress, announced
from cord_jax.run_directory import CONFIG, RunDirectory, check_run, open_run
from cord_jax.text.prompts import render_prompt
from cord_jax.traces import PROMPTS, SUMMARY, Provenance, Trace, TraceFiles, summarize, summarize_trees
from cord_jax.tree_shape import TreeShape

_OF_PROBLEMS = ("columns", "shard", "split")


@interruption.handled()
def synthesize(
    config: SynthesisConfig,
    progress: Callable[[int, int, Trace], None] | None = None,
    execution_of: Callable[..., models.Execution] = models.execution_of,
) -> dict[str, Any]:
    """Searches every problem that the run directory does not hold yet, and returns the run's summary.

    Args:
      progress: called with (traces written, problems, newest trace) after each trace.
      execution_of: says how each network runs, as `models.execution_of`.

    Raises: `UserError` or `models.CheckpointError` for input that cannot be used, before anything is written;
      `Interrupted` after a signal, when all that is finished is written.
    """
    asked, config = config, config.resolved
    method = make_method(config)
    everything = read_problems(
        config.problems,
        answers_needed=method.search.scorer.needs_answer,
        columns=config.columns,
        split=config.split,
    )
    whole = everything[: config.limit or None]
    problems = share_of(whole, config.shard)
    spec, mesh = read_pool(config.pool), parse_mesh(config.mesh)
    rewards = method.search.scorer.needs_reward_model
    if rewards and spec.reward_model is None:
        raise UserError(
            f"--selector={config.selector} needs a reward model; name one in a [reward_model] table of the pool"
        )
    check_judge(config.judge)
    run_is = _describe(config, method, spec)
    # Decoys are answers of all problems, and some rotations follow the longest prompt.
    lengths_matter = any(
        models.read_config(path).rope.depends_on_length
        for path in {*(p.checkpoint for p in spec.proposers), spec.meta_prover.checkpoint}
    )
    run_is["inputs"]["problems"] = identity_in(
        config.output_dir, whole, may_grow=not config.decoys and not lengths_matter
    )
    if config.decoys:
        run_is["inputs"]["decoys from"] = identity_of(everything)
    leads = jax.process_index() == 0
    if leads:
        check_run(config.output_dir, **run_is)
    environment = settings_of.free(config) | {"device": device_name(mesh)}
    if jax.process_count() == 1 and (Path(config.output_dir) / CONFIG).exists():
        with open_run(config.output_dir, **run_is, environment=environment) as run:
            if (summary := _finished(run, method.tree_shape(spec), problems)) is not None:
                return summary
    report = TraceProgress()
    count = len({*(p.checkpoint for p in spec.proposers), spec.meta_prover.checkpoint}) + rewards
    with announced(f"synthesize: loading {count} {'checkpoint' if count == 1 else 'checkpoints'}"):
        teachers = load_teachers(
            spec, mesh, whole, method.new_tokens(spec), execution_of, rewards, _budgets(asked)
        )
    with open_grader(config.grader, **grader_options(config.judge, mesh)) as grader:
        decoys = None
        if config.decoys:
            decoys = [choose_decoys(p, everything, config.decoys, config.seed, grader) for p in problems]

        def look(meter: Meter) -> None:
            if leads:
                report.looked(meter)
            if jax.process_count() == 1:
                interruption.look()

        job = Job(teachers, problems, mesh, decoys, grader, look)
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
        with open_run(config.output_dir, **run_is, environment=environment) as run:
            note_growth(run, whole)
            return _write_traces(run, method, job, searches, grader, provenance, report, progress)


def _budgets(asked: SynthesisConfig) -> str | None:
    """The flags of budgets that were given; None if none was."""
    given = [
        name for name in ("max_thinking_tokens", "max_answer_tokens") if getattr(asked, name) is not None
    ]
    return " or ".join(f"--{name}" for name in given) or None


def _finished(run: RunDirectory, shape: TreeShape, problems: Sequence[Problem]) -> dict[str, Any] | None:
    """The summary of a run that has all its traces, which is known before anything is loaded; None if it has not."""
    done = TraceFiles(run, shape).finished()
    if (run.path / SUMMARY).exists() and all(problem.id in done for problem in problems):
        run.log(f"synthesize: all {len(problems)} traces are there")
        return read_object(run.path / SUMMARY)
    return None


def _write_traces(
    run: RunDirectory,
    method: Method,
    job: Job,
    searches: Run,
    grader: Grader,
    provenance: Provenance,
    report: TraceProgress,
    progress: Callable[[int, int, Trace], None] | None,
) -> dict[str, Any]:
    """Searches what the run directory does not hold yet, and returns the summary."""
    problems, device, names = job.problems, device_name(job.mesh), method.writers(job.teachers.spec)
    files, journal = TraceFiles(run, method.tree_shape(job.teachers.spec)), Journal(run)
    done = files.finished()
    unfinished = {problem.id: i for i, problem in enumerate(problems) if problem.id not in done}
    pending, recorded = _agree(problems, list(unfinished.values()), journal.read(unfinished))
    started = time.monotonic()
    report.begin(run.log, len(problems) - len(pending), len(problems))
    run.log(f"synthesize: {len(pending)} of {len(problems)} problems to search on {device}")
    run.write_json(PROMPTS, _first_prompts(job.teachers, problems[0]))
    seam_rates = _seam_rates(run, job.teachers, method.search.segmentation)

    def record(settled):
        journal.write([(problems[i].id, number, candidates) for i, number, candidates in settled])

    if pending:
        report.log(
            "synthesize: compiling the search; half a minute for small networks, minutes for large ones"
        )
    for outcome in searches(pending, recorded, record):
        trace = outcome.trace(grader, provenance)
        files.write(trace, outcome.tree())
        report.add(trace.score)
        if progress is not None:
            report.clear()
            progress(report.written, len(problems), trace)
    report.clear()
    journal.clear()
    traces = files.read()
    summary = summarize(traces, names, seconds=time.monotonic() - started, device=device)
    summary |= {"compile_seconds": round(report.compile_seconds, 1), "seam_rate": seam_rates}
    summary["advice"] = advice_on_traces(traces)
    if provenance.decoding == "mcts":
        summary["tree"] = summarize_trees(files.read_tree(), method.search.max_steps)
    run.write_json(SUMMARY, summary)
    return summary


def share_of(problems: list[Problem], shard: str) -> list[Problem]:
    """The problems of a part of a file: every so many of them. `shard` is as in `parse_shard`."""
    index, count = parse_shard(shard)
    if index > len(problems):
        raise UserError(
            f"--shard={shard}: there are {len(problems)} problems only, none for this part; take fewer parts"
        )
    return problems[index - 1 :: count]


def _first_prompts(teachers: Teachers, problem: Problem) -> dict[str, Any]:
    """A problem's id and, by their names, the texts that the proposers are prompted with for it."""
    texts = {
        teachers.names[index]: render_prompt(
            reader.vocabulary, reader.prompt, problem.question, problem.context
        )
        for reader in teachers.readers
        for index in reader.proposers
    }
    return {"problem": problem.id, "prompts": {name: texts[name] for name in teachers.names}}


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
    settings["proposers"] = [described(proposer) for proposer in spec.proposers]
    settings["meta_prover"] = described(spec.meta_prover)
    settings |= {role: described(writer) for role, writer in method.roles(spec).items()}
    if config.selector == "process_reward" and spec.reward_model is not None:
        settings["reward_model"] = described(spec.reward_model)
        checkpoints[spec.reward_model.checkpoint] = None
    return {
        "job": "synthesize",
        "settings": settings,
        "inputs": {
            f"checkpoint {n} ({path.name})": fingerprint(path) for n, path in enumerate(checkpoints, 1)
        }
        | ({} if config.judge is None else {"judge": fingerprint(config.judge)}),
    }


def _digest(run_is: Mapping[str, Any]) -> str:
    """A hash of a run's settings and checkpoints; which problems it takes, and from where, is no part of it."""
    inputs = {
        name: value for name, value in run_is["inputs"].items() if "checkpoint" in name or name == "judge"
    }
    settings = {name: value for name, value in run_is["settings"].items() if name not in _OF_PROBLEMS}
    text = json.dumps([settings, inputs], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _agree(problems, pending, recorded):
    """Tells all processes what process 0 found in the directory: problems to search, and their settled rounds."""
    ids = [problem.id for problem in problems]
    text = text_from_process_0(lambda: json.dumps(pending))
    return pending if text is None else json.loads(text), agree_on(recorded, ids)
