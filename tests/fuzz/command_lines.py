"""Command lines of jobs with flags that nobody would give, as far as the job's configuration."""

import functools
from pathlib import Path
from random import Random

from absl import flags

from cord_jax.config import EvaluationConfig, PreferencesConfig, SynthesisConfig
from cord_jax.distillation import DistillationConfig
from cord_jax.miniature.config import QuickstartConfig
from cord_jax.publishing.config import PublishConfig
from cord_jax.student.config import StudentConfig
from cord_jax.study.config import StudyConfig
from launch import common, flags_of

JOBS = {
    "synthesize": SynthesisConfig, "evaluate": EvaluationConfig, "train_student": StudentConfig, "publish": PublishConfig,
    "preferences": PreferencesConfig, "distill": DistillationConfig, "study": StudyConfig, "quickstart": QuickstartConfig,
}  # fmt: skip
ARGUMENTS = (
    *(
        "0",
        "1",
        "-1",
        "3",
        "0.5",
        "-0.0",
        "nan",
        "inf",
        "1e400",
        "1e-400",
        "99999999999999999999",
        "2147483648",
        "0x10",
        "1_0",
    ),
    *(
        "",
        " ",
        "true",
        "no",
        "x",
        "\udcff",
        "é",
        "\0",
        "a" * 9000,
        "9" * 6000,
        "data:1",
        "data:-1,model:-1",
        "data:0",
        "data:1e9",
    ),
    *(
        "data:2,data:2",
        "1/2",
        "2/1",
        "0/0",
        "/",
        "a,b",
        "a,a",
        ",",
        "{question}",
        "{",
        "{}",
        "{0.__class__}",
        "{question!r:>9999}",
    ),
    *(
        "level=2",
        "thinking=true",
        "=",
        '{"a": NaN}',
        "[1]",
        "score>=",
        "score>=0.5",
        "correct",
        "os:system",
        "no.such:thing",
        "a:b:c",
    ),
    *(
        "/dev/null",
        "/",
        "..",
        "id:#",
        "question:x",
        "random",
        "mcts",
        "cord",
        "curation",
        "integration",
        "sft",
        "dpo",
        "judge",
    ),
)


@functools.cache
def _names(job: str) -> list[str]:
    values = flags.FlagValues()
    flags_of.define(JOBS[job], values)
    return list(values)


ODD = ("--", "-", "--x", "---", "x", "--seed", "--noseed", "--=", "--flagfile=/dev/null", "--undefok=x", "-1")


def command_lines(directory: Path, rng: Random):
    job = rng.choice(sorted(JOBS))
    given = [f"--{rng.choice(_names(job))}={rng.choice(ARGUMENTS)}" for _ in range(rng.randint(0, 4))]
    return job, given + ([rng.choice(ODD)] if rng.random() < 0.2 else [])


def run_command_line(directory: Path, case):
    job, arguments = case
    values = flags.FlagValues()
    flags_of.define(JOBS[job], values)

    def main(parsed):
        config = flags_of.config_of(JOBS[job], parsed)
        getattr(config, "resolved", None)

    required = [f"--{name}=y{n}" for n, name in enumerate(name for name in values if values[name].validators)]
    status = common.run_with(main, values, "", ["job", *required, *arguments])
    assert status in (0, 2), status
