"""The job of writing traces: a pool and a problem file in, `traces.jsonl`, `tree.jsonl` and `summary.json`
out.
"""

import dataclasses
import json
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

import models
from cord_jax import settings as settings_of
from cord_jax.config import SynthesisConfig
from cord_jax.engine.engine import Engine
from cord_jax.engine.harvest import read_trace, read_tree
from cord_jax.engine.journal import Journal, from_text, to_text
from cord_jax.engine.teachers import load_teachers
from cord_jax.fingerprints import fingerprint
from cord_jax.grading import check_judge, grader_options, open_grader
from cord_jax.mesh import device_name, parse_mesh
from cord_jax.methods import search_settings
from cord_jax.pool import read_pool
from cord_jax.problems import read_problems
from cord_jax.run_directory import check_run, open_run
from cord_jax.traces import SUMMARY, Trace, TraceFiles, summarize

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
    problems = read_problems(config.problems)[: config.limit or None]
    spec = read_pool(config.pool)
    check_judge(config.judge)
    mesh = parse_mesh(config.mesh)
    checkpoints = dict.fromkeys([p.checkpoint for p in spec.proposers] + [spec.meta_prover.checkpoint])
    settings = settings_of.deciding(config)
    settings["proposers"] = [_settings_of(proposer) for proposer in spec.proposers]
    settings["meta_prover"] = _settings_of(spec.meta_prover)
    run_is: dict[str, Any] = {
        "job": "synthesize",
        "settings": settings,
        "inputs": {"problems": fingerprint(config.problems)}
        | {f"checkpoint {n} ({path.name})": fingerprint(path) for n, path in enumerate(checkpoints, 1)}
        | ({} if config.judge is None else {"judge": fingerprint(config.judge)}),
    }
    leads = jax.process_index() == 0
    if leads:
        check_run(config.output_dir, **run_is)
    new_tokens = config.max_thinking_tokens + config.max_answer_tokens
    teachers = load_teachers(spec, mesh, problems, new_tokens, execution_of)
    engine = Engine(teachers, problems, search_settings(config), mesh)
    if not leads:  # the other processes compute alike and write nothing
        pending, recorded = _agree(problems, None, None)
        searches = engine.run(pending, recorded=recorded)
        if config.judge is None:
            deque(searches, maxlen=0)
        else:  # a judge lies on the devices of all processes
            with open_grader(config.grader, **grader_options(config.judge, mesh)) as grader:
                for one in searches:
                    read_trace(one, problems[one.problem], teachers, grader)
        return {}
    environment = settings_of.free(config) | {"device": device_name(mesh)}
    with (
        open_run(config.output_dir, **run_is, environment=environment) as run,
        open_grader(config.grader, **grader_options(config.judge, mesh)) as grader,
    ):
        files = TraceFiles(run)
        done = files.finished()
        journal = Journal(run)
        unfinished = {problem.id: i for i, problem in enumerate(problems) if problem.id not in done}
        pending, recorded = _agree(problems, list(unfinished.values()), journal.read(unfinished))
        started = reported = time.monotonic()
        run.log(f"synthesize: {len(pending)} of {len(problems)} problems to search on {device_name(mesh)}")
        seam_rates = {
            reader.checkpoint.name: reader.vocabulary.seam_rate(settings["segmentation"])
            for reader in teachers.readers
        }
        for name, rate in seam_rates.items():
            if rate > 0:
                run.log(
                    f"synthesize: {name} encodes {rate:.1%} of step seams in another way than whole texts; "
                    "its steps are read as they are encoded one by one"
                )
        written = len(problems) - len(pending)

        def record(settled):
            journal.write([(problems[i].id, step, candidates) for i, step, candidates in settled])

        for finished in engine.run(pending, recorded=recorded, on_settled=record):
            problem = problems[finished.problem]
            trace = read_trace(finished, problem, teachers, grader)
            files.write(trace, read_tree(finished, problem, teachers.names))
            written += 1
            if progress is not None:
                progress(written, len(problems), trace)
            if time.monotonic() - reported > _REPORT_SECONDS:
                reported = time.monotonic()
                run.log(
                    f"synthesize: {written} of {len(problems)} traces, "
                    f"{100 * engine.idle_row_share:.0f} % of decoded rows idle"
                )
        journal.clear()
        if not pending and (run.path / SUMMARY).exists():
            return json.loads((run.path / SUMMARY).read_text(encoding="utf-8"))
        summary = summarize(
            files.read(), teachers.names, seconds=time.monotonic() - started, device=device_name(mesh)
        )
        summary["seam_rate"] = seam_rates
        run.write_json(SUMMARY, summary)
        return summary


def _settings_of(spec) -> dict[str, Any]:
    """What of a proposer or the meta-prover decides traces, but for where its checkpoint lies."""
    values = dataclasses.asdict(spec)
    values["checkpoint"] = Path(values["checkpoint"]).name
    values |= spec.prompt.to_row()
    return values


def _agree(problems, pending, recorded):
    """What process 0 found in the directory, which no other can see: problems to search, and their settled
    steps.
    """
    if jax.process_count() == 1:
        return pending, recorded
    ids = [problem.id for problem in problems]
    message = b"" if pending is None else json.dumps([pending, to_text(recorded, ids)]).encode()
    length = multihost_utils.broadcast_one_to_all(np.int32(len(message)))
    data = np.frombuffer(message.ljust(int(length), b" "), np.uint8)[: int(length)]
    pending, recorded = json.loads(bytes(np.asarray(multihost_utils.broadcast_one_to_all(data))))
    return pending, from_text(recorded, ids)
