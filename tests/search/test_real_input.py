"""Real problems through networks with the real vocabularies and chat templates of the paper's teachers."""

import gzip
import json

import pytest

from tests.reference.search import reference_search
from tests.reference.tiny import write_pool
from tests.search.inputs import write_inputs
from tests.search.test_reference_equality import assert_same, engine_rows

VOCABULARIES = ("qwq-32b", "deepseek-r1-distill-qwen", "phi-4")
LIMITS = dict(max_steps=3, max_step_tokens=16, max_thinking_tokens=48, max_answer_tokens=8)
ENDED = ("marker", "think_end", "eos", "cap", "budget")


@pytest.fixture(scope="module")
def directory(shared_dir, tmp_path_factory):
    """The first 20 problems of GSM8K, and random small Qwen2, Llama and Phi-3 networks."""
    directory = tmp_path_factory.mktemp("real")
    pool = write_pool(
        directory, 0, tokenizers=tuple(shared_dir / "tokenizers" / name for name in VOCABULARIES)
    )
    with open(shared_dir / "data" / "gsm8k_test.jsonl", encoding="utf-8") as file:
        problems = [json.loads(line) for line, _ in zip(file, range(20))]
    write_inputs(directory, pool, problems)
    return directory, pool, problems


def assert_contract(trace: dict, tree: list[dict]) -> None:
    """What every row promises, whatever was written."""
    assert trace["reasoning"] == "".join(step["text"] for step in trace["steps"])
    assert "</think>" not in trace["reasoning"]
    assert trace["status"] in ("complete", "budget", "max_steps", "stuck")
    assert all(step["ended"] in ENDED and 0 <= step["score"] <= 1 for step in trace["steps"])
    order = [(row["step"], row["beam"]) for row in tree]
    assert order == sorted(order)
    for row in tree:
        assert (row["score"] is None) == (row["dropped"] is not None)
        assert (row["rank"] is not None) == row["kept"]
        parents = [r for r in tree if r["step"] == row["step"] - 1 and r["rank"] == row["beam"]]
        assert len(parents) == (row["step"] > 1)
    for number, step in enumerate(trace["steps"], start=1):
        assert any(
            r["text"] == step["text"] and r["teacher"] == step["teacher"] and r["kept"]
            for r in tree
            if r["step"] == number
        )


def test_twenty_problems_keep_the_contract(directory):
    directory, _, problems = directory
    settings = dict(beam_width=2, slots=8, **LIMITS)
    rows = engine_rows(directory, "twenty", **settings)
    assert list(sorted(rows)) == sorted(problem["id"] for problem in problems)
    for trace, tree in rows.values():
        assert_contract(trace, tree)
    summary = json.loads((directory / "twenty" / "summary.json").read_text())
    assert set(summary["seam_rate"].values()) == {0.0}

    written = {path.name: path.read_bytes() for path in (directory / "twenty").glob("*.jsonl")}
    assert engine_rows(directory, "twenty", **settings) == rows
    assert {path.name: path.read_bytes() for path in (directory / "twenty").glob("*.jsonl")} == written


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tatqa.jsonl.gz", "pubmedqa.jsonl"])
def test_questions_about_a_context_keep_the_contract(directory, shared_dir, tmp_path, name):
    """Tables and abstracts in the prompt, words and choices as answers."""
    _, pool, _ = directory
    path = shared_dir / "data" / name
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
        problems = [json.loads(line) for line, _ in zip(file, range(20))]
    write_inputs(tmp_path, pool, problems)
    rows = engine_rows(tmp_path, "run", beam_width=2, slots=8, grader="auto", **LIMITS)
    assert sorted(rows) == sorted(problem["id"] for problem in problems)
    for problem in problems:
        trace, tree = rows[problem["id"]]
        assert_contract(trace, tree)
        assert trace["messages"][0]["content"].startswith(problem["context"] + "\n\n" + problem["question"])


@pytest.mark.slow
def test_real_vocabularies_equal_brute_force(directory, tmp_path):
    _, pool, problems = directory
    write_inputs(tmp_path, pool, problems[:2])
    found = engine_rows(tmp_path, "two", beam_width=2, slots=2, **LIMITS)
    for trace, tree in reference_search(pool, problems[:2], beam_width=2, **LIMITS):
        assert_same(found[trace["id"]], (trace, tree))
