"""CoRD: several reasoning models write one trace together, step by step, and a student learns from it.

    from cord_jax import SynthesisConfig, synthesize
    summary = synthesize(SynthesisConfig(pool="pool.toml", problems="problems.jsonl", output_dir="runs/first"))

Each noun of the method is a module of its name: problems, pool, prompts, vocabulary, segmentation, synthesis,
traces, evaluation, statistics, ... It imports `models` (the networks) and never `launch` (the entry points).
Importing it is quick: a job's code, and jax with it, is imported when the job is.
"""

import importlib
import typing

if typing.TYPE_CHECKING:
    from cord_jax.config import EvaluationConfig, PreferencesConfig, SynthesisConfig
    from cord_jax.errors import UserError
    from cord_jax.evaluation import evaluate
    from cord_jax.pool import MetaProverSpec, PoolSpec, ProposerSpec, read_pool
    from cord_jax.preferences import write_preferences
    from cord_jax.problems import Problem, read_problems
    from cord_jax.publishing.config import PublishConfig
    from cord_jax.publishing.job import publish
    from cord_jax.report.page import write_report
    from cord_jax.rescoring.config import RescoringConfig
    from cord_jax.rescoring.job import rescore
    from cord_jax.student.config import StudentConfig
    from cord_jax.student.trainer import train
    from cord_jax.synthesis import synthesize

_HOME = {
    "EvaluationConfig": "cord_jax.config",
    "MetaProverSpec": "cord_jax.pool",
    "PoolSpec": "cord_jax.pool",
    "PreferencesConfig": "cord_jax.config",
    "Problem": "cord_jax.problems",
    "ProposerSpec": "cord_jax.pool",
    "PublishConfig": "cord_jax.publishing.config",
    "StudentConfig": "cord_jax.student.config",
    "RescoringConfig": "cord_jax.rescoring.config",
    "SynthesisConfig": "cord_jax.config",
    "UserError": "cord_jax.errors",
    "evaluate": "cord_jax.evaluation",
    "publish": "cord_jax.publishing.job",
    "read_pool": "cord_jax.pool",
    "read_problems": "cord_jax.problems",
    "rescore": "cord_jax.rescoring.job",
    "synthesize": "cord_jax.synthesis",
    "train": "cord_jax.student.trainer",
    "write_preferences": "cord_jax.preferences",
    "write_report": "cord_jax.report.page",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> typing.Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
