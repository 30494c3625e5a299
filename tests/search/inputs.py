"""Runs of the engine on the reference's small pools."""

import dataclasses
import json
from pathlib import Path

import models
from cord_jax.engine.engine import Engine
from cord_jax.engine.teachers import load_teachers
from cord_jax.mesh import parse_mesh
from cord_jax.methods import search_of
from cord_jax.pool import read_pool
from cord_jax.problems import read_problems

LIMITS = dict(max_steps=4, max_step_tokens=20, max_thinking_tokens=70, max_answer_tokens=12)


def write_inputs(directory: Path, pool, problems) -> None:
    """The pool file and the problem file that describe a reference run to the engine."""
    lines = []
    for proposer in pool.proposers:
        lines += [
            "[[proposer]]",
            f'name = "{proposer.name}"',
            f'checkpoint = "{proposer.checkpoint}"',
            f"temperature = {proposer.temperature}",
        ]
        if proposer.system_prompt is not None:
            lines.append(f"system_prompt = {json.dumps(proposer.system_prompt)}")
    meta = f'meta_prover = {{checkpoint = "{pool.meta_prover.checkpoint}", temperature = 0.0}}'
    (directory / "pool.toml").write_text("\n".join([meta, *lines]))
    (directory / "problems.jsonl").write_text("".join(json.dumps(problem) + "\n" for problem in problems))


def changed(**changes):
    """`models.execution_of` with some fields of what it says changed."""
    return lambda *args, **kwargs: dataclasses.replace(models.execution_of(*args, **kwargs), **changes)


def make_engine(
    directory: Path, mesh: str = "data:1,model:1", execution_of=models.execution_of, **settings
) -> Engine:
    """An engine on the pool and the problems of a directory."""
    mesh = parse_mesh(mesh)
    teachers = load_teachers(read_pool(directory / "pool.toml"), mesh, execution_of=execution_of)
    return Engine(teachers, read_problems(directory / "problems.jsonl"), search_of(**LIMITS | settings), mesh)


def outcomes(engine: Engine, recorded=()) -> dict:
    """What a run decided, by problem: texts, ranks, endings, drops and answers; scores to four decimals."""
    found = {}
    for finished in engine.run(range(len(engine.problems)), recorded=dict(recorded)):
        tree = finished.tree
        texts = [[step and step.text for step in steps] for steps in finished.texts]
        scores = [[round(float(score), 4) for score in row] for row in tree.score_nmj]
        found[finished.problem] = (
            texts,
            tree.rank_nmj.tolist(),
            tree.ended_nmj.tolist(),
            tree.dropped_nmj.tolist(),
            scores,
            finished.answer,
            finished.winner,
        )
    return found
