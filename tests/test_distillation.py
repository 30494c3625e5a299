"""Rounds of distillation: what each round is made of; the rounds themselves run in the slow test."""

import json
import os
import subprocess
import sys

import pytest

from cord_jax import distillation
from cord_jax.distillation import DistillationConfig
from cord_jax.errors import UserError
from cord_jax.miniature import HELD_OUT_PROBLEMS, POOL, STUDENT, TRAIN_PROBLEMS
from tests.conftest import REPOSITORY

SETTINGS = """
[synthesis]
max_steps = 14
max_step_tokens = 24
max_thinking_tokens = 224
max_answer_tokens = 48
grader = "exact"
[training]
filter = "correct"
max_length = 384
epochs = 1
batch_size = 2
mesh = "data:1"
[evaluation]
samples = 1
max_tokens = 272
grader = "exact"
"""


@pytest.fixture
def config(tmp_path):
    (tmp_path / "settings.toml").write_text(SETTINGS)
    return DistillationConfig(
        pool=POOL,
        problems=TRAIN_PROBLEMS,
        held_out=HELD_OUT_PROBLEMS,
        student=STUDENT,
        output_dir=tmp_path / "out",
        job_settings=tmp_path / "settings.toml",
        limit=3,
        rounds=3,
    )


def test_each_round_learns_from_its_own_traces_and_proposes_in_the_next(config):
    base, first, second, third = distillation.plan_rounds(config)
    assert base.synthesis is None and base.training is None and base.evaluation.model == STUDENT
    names = [[p.name for p in r.synthesis.pool.proposers] for r in (first, second, third)]
    assert names == [["sums", "products", "shares"], *[["sums", "products", "shares", "student"]] * 2]
    for before, after in ((first, second), (second, third)):
        assert after.synthesis.pool.proposers[-1].checkpoint == before.evaluation.model
        assert after.training.student == STUDENT
        assert after.training.traces == after.synthesis.output_dir / "traces.jsonl"
    assert (first.training.row_filter, first.synthesis.limit, first.evaluation.samples) == ("correct", 3, 1)


@pytest.mark.parametrize(
    "text, says",
    [
        ("[writing]\n", "unknown table writing"),
        ("[synthesis]\npool = 'x'\n", "synthesis: unknown setting pool"),
        ("[training]\nrow_filter = 'all'\n", "training: unknown setting row_filter"),
        ("[evaluation]\nsamples = 0\n", "--samples=0: must be at least 1"),
        ("[evaluation", "cannot be read as TOML"),
    ],
)
def test_settings_that_cannot_be_used_are_told_before_anything_runs(config, text, says):
    config.job_settings.write_text(text)
    with pytest.raises(UserError, match=says):
        distillation.plan_rounds(config)


def test_a_teacher_called_student_is_refused(config):
    base, first, *_ = distillation.plan_rounds(config)
    pool = distillation.with_student(first.synthesis.pool, STUDENT)
    with pytest.raises(UserError, match='a proposer is called "student"'):
        distillation.with_student(pool, STUDENT)


def test_the_lead_is_over_problems():
    ours = {"a": {"correct": 2, "samples": 2}, "b": {"correct": 1, "samples": 2}}
    theirs = {"b": {"correct": 0, "samples": 2}, "a": {"correct": 2, "samples": 2}}
    assert distillation.lead(ours, theirs)["difference"] == 0.25


@pytest.mark.slow
def test_two_rounds(tmp_path):
    (tmp_path / "settings.toml").write_text(SETTINGS)
    (tmp_path / "held_out.jsonl").write_text("".join(HELD_OUT_PROBLEMS.read_text().splitlines(True)[:4]))
    command = [
        *(
            sys.executable,
            "-m",
            "launch.distill",
            f"--pool={POOL}",
            f"--problems={TRAIN_PROBLEMS}",
            "--limit=3",
        ),
        *(f"--held_out={tmp_path}/held_out.jsonl", f"--student={STUDENT}", f"--output_dir={tmp_path}/out"),
        *(f"--settings={tmp_path}/settings.toml", "--rounds=2"),
    ]
    environment = os.environ | {"XLA_FLAGS": ""}
    for _ in range(2):  # the second time everything is there
        done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    rounds = json.loads((tmp_path / "out" / "summary.json").read_text())["rounds"]
    assert [row["round"] for row in rounds] == [0, 1, 2] and "student" in rounds[2]["share"]
    assert rounds[1]["traces"] > 0.5 and set(rounds[2]["lead"]) == {"difference", "standard_error", "p_value"}
