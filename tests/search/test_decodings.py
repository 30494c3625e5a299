"""Monte Carlo tree search, and selectors that need no answer, equal a brute-force search over transformers' torch models."""

import json

import pytest

from cord_jax.errors import UserError
from cord_jax.problems import Problem
from cord_jax.synthesis import SynthesisConfig, synthesize
from tests.reference.reward import write_reward_model
from tests.reference.search import reference_search
from tests.reference.tiny import PROBLEMS
from tests.search.inputs import LIMITS, write_inputs
from tests.search.test_reference_equality import assert_same, engine_rows, interrupted_rows


@pytest.mark.parametrize(
    "exploration, slots", [(0.2, 8), pytest.param(1.0, 1, marks=pytest.mark.slow)], ids=["narrow", "wide"]
)
def test_mcts_equals_brute_force(pools, exploration, slots):
    directory, pool = pools("prompt", 1)
    settings = dict(decoding="mcts", beam_width=2, exploration=exploration, max_expansions=6)
    found = engine_rows(directory, f"mcts-{exploration}", slots=slots, **settings, **LIMITS)
    for trace, tree in reference_search(pool, PROBLEMS, **settings, **LIMITS):
        assert_same(found[trace["id"]], (trace, tree))


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(dict(selector="max_length", beam_width=2, decoys=2), marks=pytest.mark.slow),
        pytest.param(dict(beam_width=2, decoys=1), marks=pytest.mark.slow),
        pytest.param(
            dict(selector="max_length", decoding="mcts", beam_width=2, max_expansions=5),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["max_length", "decoys", "max_length-mcts"],
)
def test_selectors_and_decoys_equal_brute_force(pools, settings):
    """The perplexity of a winner that another selector has chosen, too."""
    directory, pool = pools("prompt", 1)
    output = "-".join(map(str, settings.values()))
    found = engine_rows(directory, output, slots=3, grader="exact", **settings, **LIMITS)
    for trace, tree in reference_search(pool, PROBLEMS, **settings, **LIMITS):
        assert_same(found[trace["id"]], (trace, tree))


@pytest.mark.slow
def test_random_draws_depend_on_the_problem_alone(pools):
    directory, _ = pools("prompt", 1)
    runs = [
        engine_rows(directory, f"random-{slots}", slots=slots, selector="random", beam_width=2, **LIMITS)
        for slots in (1, 3)
    ]
    scores = [
        [row["score"] for _, tree in run.values() for row in tree if row["score"] is not None] for run in runs
    ]
    assert len(set(scores[0])) > 8 and all(0 <= score < 1 for score in scores[0])
    for name in runs[0]:
        assert runs[0][name][1] == runs[1][name][1]


def test_questions_without_answers(pools, tmp_path):
    directory, _ = pools("prompt", 1)
    rows = [
        {"id": "q", "question": "What is 3 + 4?"},
        {"id": "r", "question": "What is 5 + 4?", "answer": "9"},
    ]
    problems = [Problem(**row) for row in rows]
    config = dict(pool=directory / "pool.toml", problems=problems, output_dir=tmp_path / "run", **LIMITS)
    with pytest.raises(UserError, match=r"problem 1: .*answer"):
        synthesize(SynthesisConfig(**config))
    synthesize(SynthesisConfig(**config, selector="max_length", beam_width=2, decoys=1))
    traces = {row["id"]: row for row in map(json.loads, (tmp_path / "run" / "traces.jsonl").open())}
    unknown = traces["q"]
    assert (unknown["answer"], unknown["correct"], unknown["predictive_perplexity"]) == (None, None, None)
    assert unknown["decoy_scores"] is None and unknown["score"] > 0
    assert 0 <= traces["r"]["predictive_perplexity"] <= 1 and isinstance(traces["r"]["correct"], bool)


@pytest.mark.parametrize(
    "settings",
    [
        dict(reward_of="min", beam_width=2),
        pytest.param(dict(reward_of="mean", method="curation", beam_width=2), marks=pytest.mark.slow),
        pytest.param(dict(reward_of="last", beam_width=2), marks=pytest.mark.slow),
        pytest.param(dict(reward_of="product", beam_width=2), marks=pytest.mark.slow),
        pytest.param(dict(reward_of="last", method="curation", beam_width=2), marks=pytest.mark.slow),
        pytest.param(
            dict(reward_of="mean", decoding="mcts", beam_width=2, max_expansions=5), marks=pytest.mark.slow
        ),
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_process_rewards_equal_brute_force(pools, tmp_path, monkeypatch, settings):
    """In a run that was interrupted, too: rewards of earlier steps are read again."""
    directory, pool = pools("prompt", 1)
    limits = LIMITS
    if settings.get("method") == "curation":
        limits = {name: LIMITS[name] for name in ("max_thinking_tokens", "max_answer_tokens")}
    reward_model = write_reward_model(tmp_path / "rewards", pool.proposers[0].checkpoint, 3)
    write_inputs(tmp_path, pool, PROBLEMS)
    with (tmp_path / "pool.toml").open("a") as file:
        file.write(f'\n[reward_model]\ncheckpoint = "{reward_model}"\n')
    found, _ = interrupted_rows(
        tmp_path, monkeypatch, "run", slots=3, selector="process_reward", **settings, **limits
    )
    for trace, tree in reference_search(pool, PROBLEMS, reward_model=reward_model, **settings, **limits):
        assert_same(found[trace["id"]], (trace, tree))
