"""launch.synthesize: its flags, its errors, the files of a run and their continuation."""

import json
import shutil

import numpy as np
import pytest

from cord_jax import Problem, SynthesisConfig, UserError, synthesize
from cord_jax.synthesis import share_of
from launch import common
from launch import synthesize as entry_point
from tests.reference.tiny import PROBLEMS, write_checkpoint, write_tokenizer

LIMITS = {
    "beam_width": 2,
    "max_steps": 3,
    "max_step_tokens": 16,
    "max_thinking_tokens": 60,
    "max_answer_tokens": 8,
    "grader": "exact",
    "mesh": "data:1",
    "decoys": 1,
}
TRACE_FIELDS = [
    "id",
    "question",
    "answer",
    "status",
    "score",
    "reasoning",
    "response",
    "predicted_answer",
    "correct",
    "steps",
    "usage",
    "seconds",
]


def launch(capsys, **values) -> tuple[int, str]:
    """Exit status and stderr of the entry point."""
    for name in entry_point.FLAGS:
        entry_point.FLAGS[name].unparse()
    status = common.run_with(
        entry_point.main,
        entry_point.FLAGS,
        entry_point.__doc__,
        ["synthesize", *(f"--{name}={value}" for name, value in values.items())],
    )
    return status, capsys.readouterr().err


def test_defaults_are_the_contracts():
    config = SynthesisConfig(pool="pool.toml", problems="problems.jsonl", output_dir="out").resolved
    contract = {
        "method": "cord",
        "decoding": "beam",
        "selector": "predictive_perplexity",
        "segmentation": "prompt",
        "beam_width": 4,
        "max_thinking_tokens": 16384,
        "max_answer_tokens": 4096,
        "mesh": "data:1,model:-1",
        "closing": "</think>\n\nThe final answer is ",
    }
    assert {name: getattr(config, name) for name in contract} == contract


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A pool of one small checkpoint with two ways of sampling, and its problems."""
    directory = tmp_path_factory.mktemp("world")
    write_checkpoint(directory / "model", write_tokenizer(directory / "tokenizer", "digits"), "qwen2", seed=5)
    proposers = "".join(
        f'[[proposer]]\nname = "{name}"\ncheckpoint = "model"\ntemperature = {temperature}\n'
        for name, temperature in (("calm", 0.6), ("lively", 1.2))
    )
    (directory / "pool.toml").write_text('meta_prover = "calm"\n' + proposers)
    problems = [problem | {"level": index, "score": "easy"} for index, problem in enumerate(PROBLEMS)]
    (directory / "problems.jsonl").write_text("".join(json.dumps(problem) + "\n" for problem in problems))
    return directory


def rows(directory, name) -> list:
    return [json.loads(line) for line in (directory / name).read_text().splitlines()]


def without_seconds(row) -> dict:
    """The row without its duration, and with scores to five decimals: another number of slots rounds otherwise."""
    row = {name: value for name, value in row.items() if name != "seconds"}
    for name in ("predictive_perplexity", "decoy_scores"):
        if row.get(name) is not None:
            row[name] = np.round(row[name], 5).tolist()
    if "steps" in row:
        row["steps"] = [without_seconds(step) for step in row["steps"]]
    return row | {"score": None if row["score"] is None else round(row["score"], 5)}


@pytest.fixture(scope="module")
def whole(world):
    """A finished run."""
    inputs = {"pool": world / "pool.toml", "problems": world / "problems.jsonl"}
    synthesize(SynthesisConfig(**inputs, **LIMITS, output_dir=world / "whole", slots=3))
    return world / "whole"


def test_an_interrupted_run_continues_to_the_same_rows(world, whole, tmp_path, capsys):
    inputs = {"pool": world / "pool.toml", "problems": world / "problems.jsonl"}
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(whole / "config.json", run)
    trace_lines = (whole / "traces.jsonl").read_bytes().splitlines(keepends=True)
    tree_lines = (whole / "tree.jsonl").read_bytes().splitlines(keepends=True)
    (run / "traces.jsonl").write_bytes(trace_lines[0] + trace_lines[1][:50])
    (run / "tree.jsonl").write_bytes(b"".join(tree_lines[:-2]) + tree_lines[-2][:9])
    assert launch(capsys, **inputs, **LIMITS, output_dir=run, slots=1)[0] == 0

    traces, tree = rows(run, "traces.jsonl"), rows(run, "tree.jsonl")
    assert {row["id"]: without_seconds(row) for row in traces} == {
        row["id"]: without_seconds(row) for row in rows(whole, "traces.jsonl")
    }
    assert len(traces) == len(PROBLEMS) and len(tree) == len(tree_lines)
    for problem in PROBLEMS:
        assert [without_seconds(row) for row in tree if row["problem"] == problem["id"]] == [
            without_seconds(row) for row in rows(whole, "tree.jsonl") if row["problem"] == problem["id"]
        ]
    for row in traces:
        assert list(row)[: len(TRACE_FIELDS)] == TRACE_FIELDS
        assert row["level"] == [problem["id"] for problem in PROBLEMS].index(row["id"])
        assert row["problem_score"] == "easy" and set(row["usage"]) == {"calm", "lively"}
    summary = json.loads((run / "summary.json").read_text())
    assert summary["problems"] == len(PROBLEMS) and set(summary["share"]["all"]) == {"calm", "lively"}

    status, error = launch(capsys, **inputs, **LIMITS | {"max_steps": 5}, output_dir=run)
    assert status == 2 and "max_steps is 3 there, 5 here" in error and error.count("\n") == 1


def test_shards_share_the_problems_out():
    problems = [Problem(str(number), "?", "1") for number in range(8)]
    parts = [share_of(problems, f"{index}/3") for index in (1, 2, 3)]
    assert [[problem.id for problem in part] for part in parts] == [
        ["0", "3", "6"],
        ["1", "4", "7"],
        ["2", "5"],
    ]
    assert share_of(problems, "1/1") == problems
    with pytest.raises(UserError, match="--shard=9/9: there are 8 problems only"):
        share_of(problems, "9/9")


@pytest.mark.slow
def test_a_shard_writes_the_rows_of_the_whole(world, whole, tmp_path, capsys):
    pytest.importorskip("pyarrow")
    from pyarrow import parquet, table

    problems = [json.loads(line) for line in (world / "problems.jsonl").read_text().splitlines()]
    names = list(dict.fromkeys(name for problem in problems for name in problem))
    columns = {
        "prompt" if name == "question" else name: [problem.get(name) for problem in problems]
        for name in names
    }
    parquet.write_table(table(columns), tmp_path / "problems.parquet")
    inputs = {
        "pool": world / "pool.toml",
        "problems": tmp_path / "problems.parquet",
        "columns": "question:prompt",
    }
    run = tmp_path / "run"
    assert launch(capsys, **inputs, **LIMITS, output_dir=run, slots=1, shard="2/2")[0] == 0
    ids = [problem["id"] for problem in problems[1::2]]
    assert sorted(row["id"] for row in rows(run, "traces.jsonl")) == sorted(ids)
    for name, key in (("traces.jsonl", "id"), ("tree.jsonl", "problem")):
        found, expected = (
            [without_seconds(row) for row in rows(directory, name) if row[key] in ids]
            for directory in (run, whole)
        )
        assert sorted(found, key=lambda row: row[key]) == sorted(expected, key=lambda row: row[key])
    assert json.loads((run / "config.json").read_text())["settings"]["shard"] == "2/2"
    status, error = launch(capsys, **inputs, **LIMITS, output_dir=run, shard="1/2")
    assert status == 2 and 'shard is "2/2" there, "1/2" here' in error
    status, error = launch(capsys, **inputs, **LIMITS, output_dir=tmp_path / "none", shard="9/9")
    assert status == 2 and f"--shard=9/9: there are {len(problems)} problems only" in error
    assert not (tmp_path / "none").exists()
    kept = json.loads((run / "prompts.json").read_text())
    assert kept["problem"] == ids[0] and list(kept["prompts"]) == ["calm", "lively"]
    assert all(
        problems[1]["question"] in text and text.endswith("<think>\n") for text in kept["prompts"].values()
    )


def edit(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


BREAK = {
    "a proposer that does not exist": (
        lambda world: edit(world / "pool.toml", 'meta_prover = "calm"', 'meta_prover = "calmer"'),
        ["calmer", "calm"],
    ),
    "an integrator that does not exist": (
        lambda world: edit(
            world / "pool.toml", 'meta_prover = "calm"', 'meta_prover = "calm"\nintegrator = "loud"'
        ),
        ["pool.toml", 'integrator "loud"', "calm, lively"],
    ),
    "a key that does not exist": (
        lambda world: edit(world / "pool.toml", "temperature = 1.2", "temprature = 1.2"),
        ["temprature", "temperature"],
    ),
    "a checkpoint that does not exist": (lambda world: shutil.rmtree(world / "model"), ["model"]),
    "weights that end early": (
        lambda world: (world / "model/model.safetensors").write_bytes(
            (world / "model/model.safetensors").read_bytes()[:-999]
        ),
        ["model.safetensors"],
    ),
    "a network of no known family": (
        lambda world: edit(world / "model/config.json", "Qwen2ForCausalLM", "MambaForCausalLM"),
        ["Mamba", "config.json"],
    ),
    "a vocabulary that cannot write every text": (
        lambda world: edit(world / "model/tokenizer.json", '"type": "ByteLevel"', '"type": "Whitespace"'),
        ["model"],
    ),
    "a problem without an answer": (
        lambda world: edit(world / "problems.jsonl", '"answer": "7", ', ""),
        ["problems.jsonl", "line 1", "answer"],
    ),
    "a problem file that is not JSON": (
        lambda world: edit(world / "problems.jsonl", '{"id": "b"', '"id": "b"'),
        ["problems.jsonl", "line 2"],
    ),
}


@pytest.mark.parametrize("what", BREAK)
def test_input_that_cannot_be_used_is_one_line_and_leaves_nothing(world, tmp_path, capsys, what):
    damage, parts = BREAK[what]
    shutil.copytree(world, tmp_path / "world")
    damage(tmp_path / "world")
    status, error = launch(
        capsys,
        pool=tmp_path / "world/pool.toml",
        problems=tmp_path / "world/problems.jsonl",
        output_dir=tmp_path / "run",
        **LIMITS,
    )
    assert status == 2 and error.startswith("error: ") and error.count("\n") == 1, error
    assert all(part in error for part in parts), error
    assert not (tmp_path / "run").exists()


def test_a_filter_that_does_not_exist_is_one_line_and_leaves_nothing(world, tmp_path, capsys):
    inputs = {
        "pool": world / "pool.toml",
        "problems": world / "problems.jsonl",
        "output_dir": tmp_path / "run",
    }
    status, error = launch(capsys, **inputs, **LIMITS, filters="arithmetics")
    assert status == 2 and error.startswith("error: --filters=arithmetics: ") and error.count("\n") == 1
    assert not (tmp_path / "run").exists()
