"""Integration: the engine's traces equal those of a brute-force twin, whatever the slots, devices and interruptions."""

import dataclasses
import itertools
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cord_jax import miniature
from cord_jax.engine.engine import Engine
from cord_jax.methods.integration import WholeTraces, integrator_of
from cord_jax.pool import MetaProverSpec, PoolSpec, ProposerSpec, read_pool
from cord_jax.search.round_record import SettledRound
from tests.conftest import REPOSITORY
from tests.reference.integration import reference_integration
from tests.reference.reward import write_reward_model
from tests.reference.settings import MetaProver, Pool, Proposer
from tests.reference.tiny import PROBLEMS, Habits, write_checkpoint, write_tokenizer
from tests.search import own_filters
from tests.search.inputs import write_inputs
from tests.search.test_reference_equality import assert_same, engine_rows

LIMITS = dict(max_thinking_tokens=70, max_answer_tokens=12)
SETTINGS = dict(method="integration", grader="exact", **LIMITS)
OWN_FILTER = "tests.search.own_filters:has_odd_length"


@pytest.fixture
def small(pools):
    """A pool of two families and vocabularies; the first model is the meta-prover, too."""

    def pool(seed):
        made = pools("prompt", seed)[1]
        return dataclasses.replace(made, proposers=made.proposers[:2])

    return pool


def write_run(directory: Path, pool: Pool, integrator: str | None, tables: str = "", problems=PROBLEMS):
    """The inputs of a run whose pool names an integrator; returns the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    write_inputs(directory, pool, problems)
    file = directory / "pool.toml"
    named = "" if integrator is None else f'integrator = "{integrator}"\n'
    file.write_text(named + file.read_text() + "\n" + tables)
    return directory


def named(pool: Pool, name: str) -> Proposer:
    return next(proposer for proposer in pool.proposers if proposer.name == name)


def assert_equal(found, expected) -> None:
    assert len(found) == len(expected)
    for trace, tree in expected:
        assert_same(found[trace["id"]], (trace, tree))
        assert found[trace["id"]][0]["method"] == "integration"


@pytest.mark.parametrize(
    "seed, name, slots, settings",
    [
        (1, "llama-1", 8, {}),
        pytest.param(0, "qwen2-0", 1, dict(selector="max_length", decoys=2), marks=pytest.mark.slow),
        pytest.param(2, "llama-1", 8, dict(integration_instruction="Do it!"), marks=pytest.mark.slow),
        pytest.param(0, "qwen2-0", 1, dict(filters=OWN_FILTER), marks=pytest.mark.slow),
        pytest.param(1, "llama-1", 8, dict(selector="confidence"), marks=pytest.mark.slow),
    ],
)
def test_integration_equals_brute_force(small, tmp_path, seed, name, slots, settings):
    pool = small(seed)
    directory = write_run(tmp_path, pool, name)
    found = engine_rows(directory, "run", slots=slots, **SETTINGS, **settings)
    of_twin = {key.removeprefix("integration_"): value for key, value in settings.items()}
    if "filters" in settings:
        of_twin["filters"] = {OWN_FILTER: own_filters.has_odd_length}
    expected = reference_integration(pool, PROBLEMS, named(pool, name), **LIMITS, **of_twin)
    assert_equal(found, expected)
    if "filters" in settings:
        assert OWN_FILTER in {row["dropped"] for _, tree in expected for row in tree}


@pytest.mark.slow
@pytest.mark.parametrize("reward_of", ["last", "mean"])
def test_process_rewards_of_integrated_texts(small, tmp_path, reward_of):
    """The reward model reads the plain prompt and the parts of a text, the integrator's among them."""
    pool = small(1)
    rewards = write_reward_model(tmp_path / "rewards", pool.proposers[0].checkpoint, 3)
    directory = write_run(tmp_path / "run", pool, "qwen2-0", f'[reward_model]\ncheckpoint = "{rewards}"\n')
    settings = dict(selector="process_reward", reward_of=reward_of)
    found = engine_rows(directory, "out", slots=3, **SETTINGS, **settings)
    expected = reference_integration(
        pool, PROBLEMS, named(pool, "qwen2-0"), reward_model=rewards, reward_of=reward_of, **LIMITS
    )
    assert_equal(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["data:2,model:2", "data:1,model:4"])
def test_four_devices(pools, tmp_path, mesh):
    """With three families, and a proposer that shares the weights of another."""
    pool = pools("prompt", 1)[1]
    found = engine_rows(write_run(tmp_path, pool, "llama-1"), "run", slots=4, mesh=mesh, **SETTINGS)
    assert_equal(found, reference_integration(pool, PROBLEMS, named(pool, "llama-1"), **LIMITS))


@pytest.mark.slow
def test_interrupted_in_either_search(small, tmp_path, monkeypatch):
    """A run that breaks off in its first search, then in its second one, and is continued each time."""
    pool = small(1)
    directory = write_run(tmp_path, pool, "llama-1")
    run = Engine.run

    def breaking(search, after):
        """`Engine.run` that breaks off in a search (from 0) after so many problems, and looks at every round."""
        searches = []

        def breaks_off(engine, indices, **arguments):
            searches.append(engine)
            for number, finished in enumerate(run(engine, indices, **arguments, max_rounds=1)):
                yield finished
                if len(searches) > search and number + 1 == after:
                    raise KeyboardInterrupt

        return breaks_off

    def journal():
        lines = (directory / "run" / "journal.jsonl").read_text().splitlines()
        return sorted((row["problem"], row["round"]) for row in map(json.loads, lines))

    for search, after in ((0, 1), (1, 1)):
        with monkeypatch.context() as patch:
            patch.setattr(Engine, "run", breaking(search, after))
            with pytest.raises(KeyboardInterrupt):
                engine_rows(directory, "run", slots=3, **SETTINGS)
        if search == 0:
            assert [number for _, number in journal()] == [1]
            assert not (directory / "run" / "traces.jsonl").exists()
    assert [number for _, number in journal()].count(1) == len(PROBLEMS)
    assert 2 in [number for _, number in journal()]
    found = engine_rows(directory, "run", slots=2, **SETTINGS)
    assert journal() == []
    assert_equal(found, reference_integration(pool, PROBLEMS, named(pool, "llama-1"), **LIMITS))


@pytest.mark.slow
@pytest.mark.parametrize("slots", [1, 8])
def test_the_miniature(tmp_path, slots):
    spec = read_pool(miniature.POOL)
    proposers = tuple(Proposer(p.name, p.checkpoint, system_prompt=p.system_prompt) for p in spec.proposers)
    pool = Pool(proposers, MetaProver(spec.meta_prover.checkpoint, spec.meta_prover.system_prompt))
    rows = map(json.loads, miniature.HELD_OUT_PROBLEMS.read_text(encoding="utf-8").splitlines())
    problems = list(itertools.islice(rows, 3))
    directory = write_run(tmp_path, pool, "sums", problems=problems)
    settings = SETTINGS | {"max_thinking_tokens": 224, "max_answer_tokens": 48}
    found = engine_rows(directory, "run", slots=slots, **settings)
    limits = {name: settings[name] for name in LIMITS}
    assert_equal(found, reference_integration(pool, problems, proposers[0], **limits))


@pytest.mark.slow
@pytest.mark.parametrize("mute", [1, 2], ids=["the-integrator", "everybody"])
def test_nothing_to_say(tmp_path, mute):
    """An integrator that writes nothing, or that nobody has written anything for, leaves a problem stuck."""
    tokenizer = write_tokenizer(tmp_path / "tokenizer", "digits")
    checkpoints = [
        write_checkpoint(
            tmp_path / f"model-{index}", tokenizer, "qwen2", index, habits=Habits(eos=30.0 * silent)
        )
        for index, silent in enumerate((mute == 2, True))
    ]
    proposers = tuple(Proposer(f"p{index}", checkpoint) for index, checkpoint in enumerate(checkpoints))
    pool = Pool(proposers, MetaProver(checkpoints[0]))
    found = engine_rows(write_run(tmp_path / "run", pool, "p1"), "out", slots=3, **SETTINGS)
    expected = reference_integration(pool, PROBLEMS, proposers[1], **LIMITS)
    assert_equal(found, expected)
    for trace, tree in expected:
        assert trace["status"] == "stuck" and [row["dropped"] is None for row in tree] == [mute == 1, False]


@pytest.mark.slow
@pytest.mark.parametrize("selector", ["predictive_perplexity", "random"])
def test_draws_are_the_problems_own(small, tmp_path, selector):
    """With sampling: neither slots nor devices change a row, and the integrator does not draw what proposers drew."""
    pool = small(1)
    warm = dataclasses.replace(
        pool, proposers=tuple(dataclasses.replace(p, temperature=0.7) for p in pool.proposers)
    )
    directory = write_run(tmp_path, warm, None)
    one, four = (
        engine_rows(directory, f"run-{slots}", slots=slots, mesh=mesh, selector=selector, **SETTINGS)
        for slots, mesh in ((1, "data:1,model:1"), (4, "data:2,model:2"))
    )
    for name, (trace, tree) in one.items():
        other, other_tree = four[name]
        assert other["reasoning"] == trace["reasoning"] and other["response"] == trace["response"]
        assert [row["text"] for row in tree] == [row["text"] for row in other_tree]
        assert trace["usage"] == other["usage"] and set(trace["usage"]) == {
            *(p.name for p in pool.proposers),
            "meta_prover",
        }
        if trace["status"] != "stuck":  # random networks may leave the integrator nothing to read
            assert {step["teacher"] for step in trace["steps"]} == {"meta_prover"}
            if selector == "random":
                assert trace["score"] not in [row["score"] for row in tree]
    assert any(trace["status"] != "stuck" for trace, _ in one.values())


@pytest.mark.slow
def test_two_processes(small, tmp_path):
    """The integrator's prompts are made of texts that one process alone has seen."""
    pool = small(1)
    directory = write_run(tmp_path, pool, "llama-1")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "launch.synthesize", "--mesh=data:2,model:1", "--slots=4"]
    command += [f"--pool={directory}/pool.toml", f"--problems={directory}/problems.jsonl"]
    command += [f"--output_dir={directory}/run", *(f"--{name}={value}" for name, value in SETTINGS.items())]
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
    both = [
        subprocess.Popen(
            [*command, f"--distributed={address},2,{index}"],
            cwd=REPOSITORY,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for index in range(2)
    ]
    said = [process.communicate(timeout=900)[0].decode() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    traces = [json.loads(line) for line in (directory / "run" / "traces.jsonl").open()]
    tree = [json.loads(line) for line in (directory / "run" / "tree.jsonl").open()]
    found = {row["id"]: (row, [r for r in tree if r["problem"] == row["id"]]) for row in traces}
    assert_equal(found, reference_integration(pool, PROBLEMS, named(pool, "llama-1"), **LIMITS))


def test_the_integrator_is_a_proposer_or_the_meta_prover():
    writer = ProposerSpec("a", Path("/a"), temperature=0.0, system_prompt="A")
    other = dataclasses.replace(writer, name="b", system_prompt="B", user_prompt="So: {question}")
    pool = PoolSpec((writer, other), MetaProverSpec.of(other))
    by_default = integrator_of(pool)
    assert by_default == dataclasses.replace(other, temperature=0.6)
    assert integrator_of(dataclasses.replace(pool, integrator="a")) == writer
    table = MetaProverSpec(Path("/c"), "C", "bfloat16", temperature=0.3)
    unnamed = integrator_of(dataclasses.replace(pool, meta_prover=table))
    assert unnamed == ProposerSpec("meta_prover", Path("/c"), 0.6, system_prompt="C", dtype="bfloat16")


def test_what_the_integrator_is_asked():
    """As the method, section 3.15, says: numbers count what was not dropped, and texts stand as their rows have them."""
    rows = [("### Step 1. a\n\n", None, 0.25), ("", "empty", None), ("### Step 1. b\n\n", None, 0.5)]
    candidates = [
        dict(text=text, own_tokens=3, score=score, ended="eos", dropped=dropped, sampled=4)
        for text, dropped, score in rows
    ]
    whole = WholeTraces(SettledRound.from_row({"candidates": candidates}), 0.0)
    assert whole.request("Now.") == (
        "\n\n### Solution 1\n### Step 1. a\n\n\n\n### Solution 2\n### Step 1. b\n\n\n\nNow."
    )
    kept = [(row.kept, row.rank, row.score) for row in whole.rows("p", ("x", "y", "z"))]
    assert kept == [(False, None, 0.25), (False, None, None), (True, 0, 0.5)]
