"""Integration: the engine's traces equal those of a brute-force twin, whatever the slots, devices and interruptions."""

import dataclasses
import json
import shutil

import pytest

from cord_jax.engine.engine import Engine
from cord_jax.methods.integration import integrator_of
from cord_jax.pool import read_pool
from tests.reference.integration import reference_integration
from tests.reference.reward import write_reward_model
from tests.reference.tiny import PROBLEMS, write_pool
from tests.search.inputs import write_inputs
from tests.search.test_reference_equality import assert_same, engine_rows

LIMITS = dict(max_thinking_tokens=70, max_answer_tokens=12)
SETTINGS = dict(method="integration", grader="exact", **LIMITS)


def with_integrator(directory, made, name, reward_model=None):
    """A directory of a run whose pool names an integrator; temperatures are 0."""
    shutil.copytree(made, directory, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*-*", "run*"))
    text = (made / "pool.toml").read_text()
    reward = "" if reward_model is None else f'\n[reward_model]\ncheckpoint = "{reward_model}"\n'
    (directory / "pool.toml").write_text(f'integrator = "{name}"\n{text}\n{reward}')
    return directory


def named(pool, name):
    return next(proposer for proposer in pool.proposers if proposer.name == name)


def assert_equal(found, expected):
    for trace, tree in expected:
        assert_same(found[trace["id"]], (trace, tree))
        assert found[trace["id"]][0]["method"] == "integration"


@pytest.mark.parametrize(
    "seed, name, slots, settings",
    [
        (1, "llama-1", 8, {}),
        pytest.param(0, "again", 1, dict(selector="max_length", decoys=2), marks=pytest.mark.slow),
        pytest.param(2, "phi3-2", 8, dict(integration_instruction="Do it!"), marks=pytest.mark.slow),
    ],
)
def test_integration_equals_brute_force(pools, tmp_path, seed, name, slots, settings):
    made, pool = pools("prompt", seed)
    directory = with_integrator(tmp_path, made, name)
    found = engine_rows(directory, "run", slots=slots, **SETTINGS, **settings)
    names = {"integration_instruction": "instruction"}
    expected = reference_integration(
        pool, PROBLEMS, named(pool, name), **LIMITS, **{names.get(k, k): v for k, v in settings.items()}
    )
    assert_equal(found, expected)
