"""Lengths against what a model reads, and arrays against the memory there is: told before anything is allocated."""

import json
import logging
import shutil
from pathlib import Path

import pytest

from cord_jax import EvaluationConfig, SynthesisConfig, UserError, evaluate, synthesize
from cord_jax.engine import limits
from cord_jax.engine.limits import check_length, check_room
from cord_jax.mesh import parse_mesh
from cord_jax.miniature import HELD_OUT_PROBLEMS, POOL, STUDENT
from cord_jax.problems import Problem
from cord_jax.text.prompt_settings import PromptSettings
from cord_jax.text.vocabulary import Vocabulary

PROBLEMS = [Problem("short", "Ann 1 + 1?", "2"), Problem("long", "Step 1: Ann 29 + 9. " * 20, "38")]


@pytest.fixture
def checkpoint(tmp_path):
    """The miniature's student with other fields of its configuration."""

    def change(**fields) -> Path:
        directory = tmp_path / "model"
        shutil.copytree(STUDENT, directory, dirs_exist_ok=True)
        config = json.loads((STUDENT / "config.json").read_text()) | fields
        (directory / "config.json").write_text(json.dumps(config))
        return directory

    return change


def check(directory, new_tokens, flags=None):
    check_length(directory, Vocabulary.load(directory), PromptSettings(), PROMPTS, new_tokens, flags)


PROMPTS = PROBLEMS


def test_a_budget_that_was_asked_for_is_refused_and_a_default_warned_of(checkpoint, caplog):
    directory = checkpoint(max_position_embeddings=512)
    with caplog.at_level(logging.WARNING):
        check(directory, 100, "--max_thinking_tokens")
        assert not caplog.records
        with pytest.raises(
            UserError, match=r"problem 'long' has a prompt of \d+ tokens, and up to 500 may follow, but"
        ):
            check(directory, 500, "--max_thinking_tokens")
        check(directory, 500)
    assert "the model reads 512 (max_position_embeddings)" in caplog.text


def test_a_prompt_that_does_not_fit_is_refused(checkpoint):
    with pytest.raises(UserError, match=r"reads 64 \(max_position_embeddings\); leave that problem out"):
        check(checkpoint(max_position_embeddings=64), 1)


def test_scaled_rotations_read_more_with_a_warning(checkpoint, caplog):
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
    directory = checkpoint(max_position_embeddings=512, rope_scaling=scaling)
    with caplog.at_level(logging.WARNING):
        check(directory, 500, "--max_thinking_tokens")
    assert "more than the 512 that the model was trained on" in caplog.text
    with pytest.raises(UserError, match="reads 2048"):
        check(directory, 5000, "--max_thinking_tokens")


def test_too_much_memory_is_refused_with_numbers():
    mesh = parse_mesh("data:2,model:1")
    check_room(mesh, "a search", 2**20, "lower --slots")
    with pytest.raises(
        UserError, match=r"^a search takes 2,048.0 GiB and this machine has [\d.,]+ GiB left; lower --slots$"
    ):
        check_room(mesh, "a search", 2**40, "lower --slots")


SEARCH = dict(pool=POOL, problems=HELD_OUT_PROBLEMS, limit=1, max_step_tokens=24, mesh="data:1,model:1")


@pytest.mark.parametrize(
    "changed, says",
    [
        ({"max_thinking_tokens": 4096}, "reads 2048"),
        ({"max_thinking_tokens": 224, "slots": 10**8}, r"search of 100000000 problems .* GiB"),
        ({"max_thinking_tokens": 224, "beam_width": 10**6, "max_steps": 4}, "lower --slots, --beam_width"),
    ],
)
def test_a_search_that_cannot_be_leaves_nothing_behind(tmp_path, changed, says):
    with pytest.raises(UserError, match=says):
        synthesize(SynthesisConfig(output_dir=tmp_path / "run", max_answer_tokens=48, **SEARCH, **changed))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "changed", [{"max_tokens": 4096}, {"max_tokens": 1024, "samples": 10**7, "slots": 10**7}]
)
def test_an_evaluation_that_cannot_be_leaves_no_samples(tmp_path, changed):
    config = EvaluationConfig(
        model=STUDENT, problems=HELD_OUT_PROBLEMS, output_dir=tmp_path / "run", limit=1, **changed
    )
    with pytest.raises(UserError, match=r"reads 2048|10000000 samples at a time takes"):
        evaluate(config)


def test_memory_of_this_machine_is_known():
    assert limits._host_bytes() > 2**20
