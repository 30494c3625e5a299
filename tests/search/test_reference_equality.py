"""The engine's traces equal those of a brute-force search over transformers' torch models,
recomputed from text.
"""

import json
from pathlib import Path

import pytest

import models
from cord_jax.engine.engine import Engine
from cord_jax.synthesis import SynthesisConfig, synthesize
from models.attention.tree_blocks import TreeBlocks
from models.attention.tree_triton import TreeTriton
from tests.reference.search import reference_search
from tests.reference.tiny import PROBLEMS, write_pool
from tests.search import own_filters
from tests.search.inputs import LIMITS, changed, write_inputs


def engine_rows(directory: Path, output: str, execution_of=models.execution_of, **settings):
    """The run's traces and tree rows by problem."""
    synthesize(
        SynthesisConfig(
            pool=directory / "pool.toml",
            problems=directory / "problems.jsonl",
            output_dir=directory / output,
            **({"mesh": "data:1,model:1"} | settings),
        ),
        execution_of=execution_of,
    )
    traces = [json.loads(line) for line in (directory / output / "traces.jsonl").open()]
    tree = [json.loads(line) for line in (directory / output / "tree.jsonl").open()]
    return {row["id"]: (row, [r for r in tree if r["problem"] == row["id"]]) for row in traces}


def assert_same(found, expected):
    """Rows are equal; scores to 1e-4."""
    trace, tree = found
    wanted, wanted_tree = expected
    assert [{**row, "score": None} for row in tree] == [{**row, "score": None} for row in wanted_tree]
    for row, wanted_row in zip(tree, wanted_tree):
        assert row["score"] == (
            None if wanted_row["score"] is None else pytest.approx(wanted_row["score"], abs=1e-4)
        )
    for name, value in wanted.items():
        if name in ("score", "predictive_perplexity"):
            assert trace[name] == (None if value is None else pytest.approx(value, abs=1e-4))
        elif name == "decoy_scores":
            assert trace[name] == (None if value is None else pytest.approx(value, abs=1e-4))
        elif name == "steps":
            assert [{**step, "score": pytest.approx(step["score"], abs=1e-4)} for step in value] == trace[
                name
            ]
        else:
            assert trace[name] == value, name


@pytest.mark.parametrize(
    "segmentation, seed, beam_width, slots, wide",
    [
        pytest.param("prompt", 0, 4, 1, False, marks=pytest.mark.slow),
        ("prompt", 1, 2, 8, True),
        pytest.param("prompt", 2, 1, 8, False, marks=pytest.mark.slow),
        pytest.param("line_break", 0, 4, 8, False, marks=pytest.mark.slow),
        pytest.param("line_break", 1, 2, 1, False, marks=pytest.mark.slow),
        pytest.param("prefix", 0, 4, 1, False, marks=pytest.mark.slow),
        pytest.param("prefix", 1, 2, 8, False, marks=pytest.mark.slow),
    ],
)
def test_engine_equals_brute_force(pools, segmentation, seed, beam_width, slots, wide):
    as_wide = changed(skips_rows=True, outputs_first=True, together=8)  # as wide networks run on a CPU
    directory, pool = pools(segmentation, seed)
    found = engine_rows(
        directory,
        f"b{beam_width}-s{slots}",
        as_wide if wide else models.execution_of,
        segmentation=segmentation,
        beam_width=beam_width,
        slots=slots,
        **LIMITS,
    )
    expected = reference_search(pool, PROBLEMS, segmentation=segmentation, beam_width=beam_width, **LIMITS)
    for trace, tree in expected:
        assert_same(found[trace["id"]], (trace, tree))


@pytest.mark.slow
@pytest.mark.parametrize("attention", [TreeBlocks(), TreeTriton(interpret=True)], ids=["blocks", "triton"])
def test_the_attention_of_accelerators_equals_brute_force(pools, attention):
    directory, pool = pools("prompt", 1)
    run = type(attention).__name__
    found = engine_rows(directory, run, changed(tree=attention), beam_width=2, slots=8, **LIMITS)
    for trace, tree in reference_search(pool, PROBLEMS, beam_width=2, **LIMITS):
        assert_same(found[trace["id"]], (trace, tree))


@pytest.mark.slow
def test_a_pool_with_gemma_equals_brute_force(tmp_path):
    pool = write_pool(tmp_path, 0, families=("gemma3", "llama", "gemma3"))
    write_inputs(tmp_path, pool, PROBLEMS)
    found = engine_rows(tmp_path, "gemma", beam_width=2, slots=8, **LIMITS)
    for trace, tree in reference_search(pool, PROBLEMS, beam_width=2, **LIMITS):
        assert_same(found[trace["id"]], (trace, tree))


@pytest.mark.slow
def test_curation_equals_brute_force(pools):
    directory, pool = pools("prompt", 0)
    limits = {name: LIMITS[name] for name in ("max_thinking_tokens", "max_answer_tokens")}
    found = engine_rows(directory, "curation", method="curation", beam_width=2, slots=8, **limits)
    for trace, tree in reference_search(pool, PROBLEMS, method="curation", beam_width=2, **limits):
        assert_same(found[trace["id"]], (trace, tree))


OWN = "tests.search.own_filters:"
FILTERS = {
    "repetition": lambda step, past: step.strip() in [other.strip() for other in past],
    OWN + "begins_like_an_earlier_step": own_filters.begins_like_an_earlier_step,
    OWN + "has_odd_length": own_filters.has_odd_length,
}


def interrupted_rows(directory, monkeypatch, output, **settings):
    """The rows of a run that breaks off at its second trace and is then continued, with a look at every round."""
    run = Engine.run

    def breaks_off(engine, indices, **arguments):
        yield next(run(engine, indices, **arguments, max_rounds=1))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "run", breaks_off)
        with pytest.raises(KeyboardInterrupt):
            engine_rows(directory, output, **settings)
    assert len((directory / output / "traces.jsonl").read_text().splitlines()) == 1
    settled = (directory / output / "journal.jsonl").read_text().splitlines()
    return engine_rows(directory, output, **settings), settled


@pytest.mark.slow
@pytest.mark.parametrize(
    "segmentation, method", [("prompt", "cord"), ("prefix", "cord"), ("prompt", "curation")]
)
def test_filters_equal_brute_force(pools, monkeypatch, segmentation, method):
    """In a run that was interrupted, too: filters read what steps said before the interruption."""
    directory, pool = pools(segmentation, 0)
    settings = dict(method=method, beam_width=3, **LIMITS)
    if method == "curation":
        settings = {name: settings[name] for name in settings if name not in ("max_steps", "max_step_tokens")}
    else:
        settings["segmentation"] = segmentation
    found, settled = interrupted_rows(
        directory, monkeypatch, f"filters-{method}", slots=3, filters=",".join(FILTERS), **settings
    )
    expected = reference_search(pool, PROBLEMS, filters=FILTERS, **settings)
    for trace, tree in expected:
        assert_same(found[trace["id"]], (trace, tree))
    rows = [row for _, tree in expected for row in tree]
    assert settled and OWN + "has_odd_length" in {row["dropped"] for row in rows}
    if method == "cord":
        assert OWN + "begins_like_an_earlier_step" in {row["dropped"] for row in rows}
        spared = [row for row in rows if row["dropped"] is None and len(row["text"]) % 2]
        assert spared  # a filter drops none where it would drop all
