"""Rounds of distillation: traces, a student, its measure, and again with that student among the proposers.

    OUTPUT/round_0/answers                          the base student's answers
    OUTPUT/round_1/{traces, training, answers}      by the pool's teachers
    OUTPUT/round_2/{traces, training, answers}      by the teachers and the student of round 1, as proposer `student`

Every student starts from the base student and learns from the traces of its own round alone. Each part is a run directory of
its job, so running it again continues where it was.
"""

import dataclasses
import json
import math
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cord_jax import settings
from cord_jax.config import LIMIT_HELP, OUTPUT_HELP, EvaluationConfig, SynthesisConfig
from cord_jax.errors import UserError
from cord_jax.pool import PoolSpec, ProposerSpec, read_pool
from cord_jax.settings import configuration, setting
from cord_jax.storage import write_atomically
from cord_jax.student.config import StudentConfig

PROPOSER = "student"
JOBS: dict[str, type] = {
    "synthesis": SynthesisConfig,
    "training": StudentConfig,
    "evaluation": EvaluationConfig,
}
# What the rounds decide themselves.
_OWN = ("pool", "problems", "output_dir", "student", "traces", "model", "limit")


@configuration
class DistillationConfig:
    """Rounds of writing, training and measuring: what `distill` is given and the flags of `launch.distill`."""

    pool: Path | str = setting(help="TOML file of the teachers and the meta-prover", changes_result=False)
    problems: Path | str = setting(
        help="JSONL file of problems that traces are written for", changes_result=False
    )
    held_out: Path | str = setting(
        help="JSONL file of problems that students are measured on", changes_result=False
    )
    student: Path | str = setting(help="HF checkpoint directory of the base student", changes_result=False)
    output_dir: Path | str = setting(help=OUTPUT_HELP, changes_result=False)
    rounds: int = setting(
        default=2,
        help="how often traces are written and a student learns from them; from the second on it is a proposer, too",
        at_least=1,
        changes_result=False,
    )
    job_settings: Path | str | None = setting(
        default=None,
        flag="settings",
        help="TOML file with tables synthesis, training and evaluation: the settings of these jobs, by the names of their "
        "flags",
        changes_result=False,
    )
    limit: int = setting(default=0, help=LIMIT_HELP, at_least=0)

    def __post_init__(self):
        """Raises: `UserError` for a value out of range."""
        settings.check(self)


@dataclasses.dataclass(frozen=True)
class Round:
    """The jobs of a round; the base student's has only an evaluation."""

    synthesis: SynthesisConfig | None
    training: StudentConfig | None
    evaluation: EvaluationConfig


def plan_rounds(config: DistillationConfig) -> list[Round]:
    """The jobs of all rounds, from that of the base student on.

    Raises: `UserError` for a pool or settings that cannot be used.
    """
    directory, pool = Path(config.output_dir), read_pool(config.pool)
    given, student = read_settings(config.job_settings), Path(config.student)
    rounds: list[Round] = []
    for number in range(config.rounds + 1):
        of_round = directory / f"round_{number}"
        synthesis = training = None
        if number:
            synthesis = SynthesisConfig(
                pool=pool if number == 1 else with_student(pool, student),
                problems=config.problems,
                output_dir=of_round / "traces",
                limit=config.limit,
                **given["synthesis"],
            )
            training = StudentConfig(
                student=config.student,
                traces=of_round / "traces" / "traces.jsonl",
                output_dir=of_round / "training",
                **given["training"],
            )
            student = of_round / "training" / "hf"
        evaluation = EvaluationConfig(
            model=student,
            problems=config.held_out,
            output_dir=of_round / "answers",
            **given["evaluation"],
        )
        rounds.append(Round(synthesis, training, evaluation))
    return rounds


def distill(config: DistillationConfig, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Runs all rounds and returns the summary, which is also written: pass@1 of each round and its lead over the one before.

    Args:
        say: is told one line at the start of every part.

    Raises: `UserError` or `models.CheckpointError` for input that cannot be used.
    """
    # jax is imported after the flags are checked.
    from cord_jax.evaluation import evaluate
    from cord_jax.student.trainer import train
    from cord_jax.synthesis import synthesize

    rounds = plan_rounds(config)
    _check_inputs(rounds)
    rows: list[dict[str, Any]] = []
    answers: list[Mapping[str, Any]] = []
    for number, of_round in enumerate(rounds):
        row: dict[str, Any] = {"round": number}
        if of_round.synthesis is not None and of_round.training is not None:
            say(f"round {number}: traces are written")
            traces = synthesize(of_round.synthesis)
            row |= {"traces": traces["accuracy"], "share": traces["share"]["all"]}
            say(f"round {number}: a student learns from them")
            train(of_round.training)
        say(f"round {number}: the {'student' if number else 'base student'} is measured")
        answers.append(evaluate(of_round.evaluation))
        row |= {"pass@1": answers[-1]["pass@1"], "standard_error": answers[-1]["standard_error"]}
        if number:
            row["lead"] = lead(answers[-1]["per_problem"], answers[-2]["per_problem"])
        rows.append(row)
        text = json.dumps({"rounds": rows}, indent=2) + "\n"
        write_atomically(Path(config.output_dir) / "summary.json", text)
    return {"rounds": rows}


def _check_inputs(rounds: list[Round]) -> None:
    """Reads what the parts of the rounds will read, so that hours of work do not end at a line of the last file.

    Raises: `UserError` or `models.CheckpointError` for input that cannot be used.
    """
    import models
    from cord_jax.grading import check_judge
    from cord_jax.mesh import parse_mesh
    from cord_jax.methods import make_method
    from cord_jax.problems import read_problems
    from cord_jax.student.job import prepare, resolve
    from cord_jax.text.vocabulary import Vocabulary

    synthesis, training, evaluation = rounds[1].synthesis, rounds[1].training, rounds[1].evaluation
    assert synthesis is not None and training is not None
    needs_answers = make_method(synthesis).search.scorer.needs_answer
    read_problems(
        synthesis.problems, answers_needed=needs_answers, columns=synthesis.columns, split=synthesis.split
    )
    read_problems(evaluation.problems, columns=evaluation.columns, split=evaluation.split)
    pool = synthesis.pool
    assert isinstance(pool, PoolSpec)
    checkpoints = [*(p.checkpoint for p in pool.proposers), pool.meta_prover.checkpoint, training.student]
    for checkpoint in dict.fromkeys(map(Path, checkpoints)):
        vocabulary = Vocabulary.load(checkpoint)
        vocabulary.defined(models.read_config(checkpoint).vocab_size)
    for job in (synthesis, evaluation):
        parse_mesh(job.mesh)
        check_judge(job.judge)
    training = resolve(training, parse_mesh(training.mesh))
    if training.held_out is not None:
        prepare(dataclasses.replace(training, traces=training.held_out, held_out=None, row_filter="all"))


def with_student(pool: PoolSpec, student: Path) -> PoolSpec:
    """The teachers and a student.

    Raises: `UserError` if a teacher has its name.
    """
    if PROPOSER in [proposer.name for proposer in pool.proposers]:
        raise UserError(
            f'pool: a proposer is called "{PROPOSER}", as the student would be; give it another name'
        )
    return dataclasses.replace(pool, proposers=(*pool.proposers, ProposerSpec(PROPOSER, student.resolve())))


def lead(ours: Mapping[str, Mapping[str, int]], theirs: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """How much more of the problems one student solves than another: `difference`, `standard_error`, `p_value`."""
    from cord_jax import statistics

    values = [[of[p]["correct"] / of[p]["samples"] for p in ours] for of in (ours, theirs)]
    found = dataclasses.asdict(statistics.paired_difference(*values))
    return {
        name: None if math.isnan(value) else round(value, 6)
        for name, value in found.items()
        if name != "count"
    }


def read_settings(path: Path | str | None) -> dict[str, dict[str, Any]]:
    """Job -> its settings, of a TOML file.

    Raises: `UserError` if it cannot be read, or names a table or a setting that there is not.
    """
    if path is None:
        return {job: {} for job in JOBS}
    try:
        tables = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"--settings={path}: cannot be read as TOML ({error})") from None
    for job, table in tables.items():
        if job not in JOBS or not isinstance(table, dict):
            raise UserError(f"--settings={path}: unknown table {job}; there are {', '.join(JOBS)}")
        fields = {settings.flag_name(f): f.name for f in dataclasses.fields(JOBS[job]) if f.name not in _OWN}
        for name in table:
            if name not in fields:
                raise UserError(f"--settings={path}, {job}: unknown setting {name}")
        tables[job] = {fields[name]: value for name, value in table.items()}
    return {job: tables.get(job, {}) for job in JOBS}
