"""Command lines of all entry points with flags that nobody would give, as far as something would be computed."""

import contextlib
import copy
import functools
import importlib
from pathlib import Path
from random import Random

from cord_jax.config import EvaluationConfig, PreferencesConfig, SynthesisConfig
from cord_jax.distillation import DistillationConfig
from cord_jax.miniature.config import QuickstartConfig
from cord_jax.publishing.config import PublishConfig
from cord_jax.rescoring.config import RescoringConfig
from cord_jax.student.config import StudentConfig
from cord_jax.study.config import StudyConfig
from launch import __main__ as launch_main
from launch import common, flags_of
from tests.fuzz.property import listing
from tests.publishing.synthetic import write_run

JOBS = {name: importlib.import_module(f"launch.{name}") for name in sorted(launch_main.jobs())}
# Of these the configuration is made, of the others below the whole is run: it ends where files are missing.
CONFIGS = {
    "synthesize": SynthesisConfig, "evaluate": EvaluationConfig, "train_student": StudentConfig, "publish": PublishConfig,
    "preferences": PreferencesConfig, "distill": DistillationConfig, "study": StudyConfig, "quickstart": QuickstartConfig,
    "rescore": RescoringConfig,
}  # fmt: skip
ASK = ("rescore", "preferences")
# Directories that a job would walk over for minutes.
VAST = {"/", "..", ""}
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
    return list(JOBS[job].FLAGS)


ODD = ("--", "-", "--x", "---", "x", "--seed", "--noseed", "--=", "--flagfile=/dev/null", "--undefok=x", "-1")


def world(directory: Path) -> None:
    """A run of synthesize, for those that ask one."""
    write_run(directory / "whole", problems=range(3), steps=2, words=2)


def command_lines(directory: Path, rng: Random):
    job = rng.choice(sorted(JOBS))
    given = [f"--{rng.choice(_names(job))}={rng.choice(ARGUMENTS)}" for _ in range(rng.randint(0, 4))]
    if job in ASK and rng.random() < 0.5:
        given.insert(0, "--run=whole")
    return job, given + ([rng.choice(ODD)] if rng.random() < 0.2 else [])


def run_command_line(directory: Path, case):
    job, arguments = case
    values = copy.deepcopy(JOBS[job].FLAGS)

    def main(parsed):
        if job in CONFIGS:
            config = flags_of.config_of(CONFIGS[job], parsed)
            getattr(config, "resolved", None)
        asks = job in ASK and str(parsed.run) not in VAST
        reports = job == "report" and not VAST & set(parsed.runs.split(","))
        if asks or reports or job in ("compile_tpu", "gguf_to_hf"):
            JOBS[job].main(parsed)

    required = [f"--{name}=y{n}" for n, name in enumerate(name for name in values if values[name].validators)]
    before = listing(directory)
    with contextlib.chdir(directory):
        status = common.run_with(main, values, "", ["job", *required, *arguments])
    assert status in (0, 2), status
    after = listing(directory)
    if status == 2:
        assert after == before
    for written in after.keys() - before.keys():
        Path(written).unlink()
