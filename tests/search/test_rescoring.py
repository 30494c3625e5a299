"""What a recorded tree gives under other settings equals what a brute-force search with these settings finds.

Recorded runs, and those that they are compared with, are the reference's: a run of 4 beams, say, is asked for 2.
"""

import dataclasses
import functools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cord_jax import settings as settings_of
from cord_jax.config import SynthesisConfig
from cord_jax.errors import UserError
from cord_jax.fingerprints import fingerprint
from cord_jax.pool import described, read_pool
from cord_jax.rescoring import scoring
from cord_jax.rescoring.config import RescoringConfig
from cord_jax.rescoring.job import rescore
from cord_jax.run_directory import open_run
from tests.conftest import REPOSITORY
from tests.reference.reward import write_reward_model
from tests.reference.search import reference_search
from tests.reference.settings import MetaProver
from tests.reference.tiny import PROBLEMS
from tests.search.inputs import LIMITS, write_inputs
from tests.search.test_judgments import Even, even

# All need a recorded run; what needs none is in tests/rescoring.
pytestmark = pytest.mark.slow
SLOW = functools.partial(pytest.param, marks=pytest.mark.slow)
COUNTS = ("problems", "covered", "exact", "same_winner", "not_covered", "correct_known")
WHOLE = {name: LIMITS[name] for name in ("max_thinking_tokens", "max_answer_tokens")}


def write_run(path: Path, pool_file: Path, rows, **settings) -> Path:
    """The output directory of a run whose traces and trees a reference has made."""
    config, spec = (
        SynthesisConfig(pool=pool_file, problems="-", output_dir=path, **settings),
        read_pool(pool_file),
    )
    proposers = [described(proposer) for proposer in spec.proposers]
    decides = settings_of.deciding(config) | {
        "proposers": proposers,
        "meta_prover": described(spec.meta_prover),
    }
    judge = spec.meta_prover.checkpoint
    inputs = {f"checkpoint 1 ({judge.name})": fingerprint(judge)}
    made = {"method": config.method, "selector": config.selector, "decoding": "beam", "run": "-"}
    with open_run(
        path, job="synthesize", settings=decides, inputs=inputs, environment=settings_of.free(config)
    ) as run:
        for trace, tree in rows:
            problem = next(p for p in PROBLEMS if p["id"] == trace["id"])
            run.json_lines("tree.jsonl").append(*tree)
            row = trace | {"correct": trace["id"] == "a", "seconds": 0.0, "messages": []} | made
            run.json_lines("traces.jsonl").append(problem | row)
        run.write_json("summary.json", {})
    return path


@pytest.fixture(scope="module")
def searched(pools):
    """The reference's rows for a pool and settings, each searched once."""
    made = {}

    def search(pool, **settings):
        key = str((pool, settings))
        if key not in made:
            made[key] = reference_search(pool, PROBLEMS, **settings)
        return made[key]

    return search


@pytest.fixture(scope="module")
def recorded(pools, searched, tmp_path_factory):
    """A run of 4 beams, its pool, and the file of that."""
    directory, pool = pools("prompt", 0)
    path = tmp_path_factory.mktemp("recorded") / "run"
    return write_run(path, directory / "pool.toml", searched(pool, **LIMITS), **LIMITS), pool, directory


def asked(run: Path, output_dir: Path, **question):
    """The summary, and the winners by problem."""
    summary = rescore(RescoringConfig(run=run, output_dir=output_dir, mesh="data:1,model:1", **question))
    lines = (output_dir / "winners.jsonl").read_text().splitlines()
    return summary, {row["problem"]: row for row in map(json.loads, lines)}


def paths(rows):
    """The text from the root to each candidate, with who wrote the last step -> its score, by problem."""
    found = {}
    for trace, tree in rows:
        reasoning = {0: ""}
        for row in tree:
            reasoning[row["node"]] = reasoning[row["parent"]] + row["text"]
            key = reasoning[row["node"]], row["teacher"], row["step"]
            if row["score"] is not None:
                found.setdefault(trace["id"], {})[key] = row["score"]
    return found


def assert_winners(winners, expected, abs=0.0):
    """Winners are those of the run, where the recorded tree holds all that it extends; returns how many those are."""
    covered = 0
    for trace, _ in expected:
        row = winners[trace["id"]]
        if not row["covered"]:
            assert row["why"] and row["new_node"] is None
            continue
        covered += 1
        assert row["exact"]
        steps = [{name: step[name] for name in ("text", "teacher", "ended")} for step in trace["steps"]]
        assert row["steps"] == steps
        assert row["new_status"] == trace["status"]
        assert row["new_score"] == pytest.approx(trace["score"], abs=abs)
    return covered


def test_the_run_itself_is_found_again(recorded, tmp_path):
    run, pool, _ = recorded
    summary, winners = asked(run, tmp_path / "again")
    assert (summary["covered"], summary["same_winner"], summary["exact"]) == (3, 3, 3)
    assert summary["correct_known"] == 3 and summary["correct"] == 1
    assert [row["correct"] for row in winners.values()] == [True, False, False]
    # The fourth proposer is the first once more: each is worth what the other is.
    shares = summary["shapley"]["share"]
    assert summary["shapley"]["covered"] and shares["qwen2-0"] == shares["again"]
    assert summary["without"]["again"]["covered"] == 3


def test_an_unfinished_run_is_asked_without_any_model(recorded, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(recorded[0], run)
    (run / "summary.json").unlink()
    lines = (run / "traces.jsonl").read_text().splitlines(keepends=True)
    (run / "traces.jsonl").write_text("".join(lines[:2]))
    script = (
        "import sys; from launch import common, rescore as job\n"
        f"arguments = ['rescore', '--run={run}', '--output_dir={tmp_path / 'out'}', '--beam_width=2']\n"
        "assert common.run_with(job.main, job.FLAGS, '', arguments) == 0 and 'cord_jax.engine.engine' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "not finished; its 2 traces so far are used" in done.stderr
    assert json.loads(done.stdout)["problems"] == 2


@pytest.mark.parametrize("beam_width, least", [SLOW(2, 3), SLOW(1, 2), SLOW(5, 0)])
def test_width(recorded, searched, tmp_path, beam_width, least):
    run, pool, _ = recorded
    summary, winners = asked(run, tmp_path / "out", beam_width=beam_width)
    covered = assert_winners(winners, searched(pool, **LIMITS | {"beam_width": beam_width}))
    assert covered == summary["covered"] >= least


@pytest.mark.parametrize("chosen", [SLOW((0, 1, 2)), SLOW((2,)), SLOW((1, 3))])
def test_part_of_the_pool(recorded, searched, tmp_path, chosen):
    run, pool, _ = recorded
    part = dataclasses.replace(pool, proposers=tuple(pool.proposers[k] for k in chosen))
    names = ",".join(proposer.name for proposer in part.proposers)
    summary, winners = asked(run, tmp_path / "out", teachers=names)
    assert assert_winners(winners, searched(part, **LIMITS)) == summary["covered"] >= 1


@pytest.mark.slow
def test_filters_and_part_of_the_pool(pools, searched, tmp_path):
    directory, pool = pools("prompt", 0)
    name = "tests.search.own_filters:has_odd_length"
    from tests.search.own_filters import has_odd_length

    settings = LIMITS | {"filters": {name: has_odd_length}}
    rows = searched(pool, **settings)
    run = write_run(tmp_path / "run", directory / "pool.toml", rows, **LIMITS | {"filters": name})
    covered = 0
    for chosen in [(0, 1), (2, 3)]:
        part = dataclasses.replace(pool, proposers=tuple(pool.proposers[k] for k in chosen))
        names = ",".join(proposer.name for proposer in part.proposers)
        _, winners = asked(run, tmp_path / f"without-{names}", teachers=names)
        covered += assert_winners(winners, searched(part, **settings))
    assert covered


@pytest.mark.slow
def test_another_meta_prover(recorded, searched, tmp_path):
    """Of another vocabulary, whose scores and choices are its own."""
    run, pool, directory = recorded
    other = dataclasses.replace(pool, meta_prover=MetaProver(pool.proposers[1].checkpoint))
    other_dir = tmp_path / "pool"
    other_dir.mkdir()
    write_inputs(other_dir, other, PROBLEMS)
    wide = LIMITS | {"max_thinking_tokens": 300}
    run = write_run(tmp_path / "run", directory / "pool.toml", searched(pool, **wide), **wide)
    summary, winners = asked(run, tmp_path / "out", pool=other_dir / "pool.toml")
    expected = searched(other, **wide)
    assert assert_winners(winners, expected, abs=1e-4) == summary["covered"]
    assert_scores(tmp_path / "out", searched(pool, **wide), expected)
    assert summary["rank_correlation"]["spearman"] < 1
    # Half of it is asked again, as after an interruption.
    first = [json.loads(line) for line in (tmp_path / "out" / "scores.jsonl").read_text().splitlines()]
    lines = (tmp_path / "out" / "winners.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "out" / "winners.jsonl").write_text("".join(lines[:-1]))
    (tmp_path / "out" / "summary.json").unlink()
    again, _ = asked(run, tmp_path / "out", pool=other_dir / "pool.toml")
    rows = [json.loads(line) for line in (tmp_path / "out" / "scores.jsonl").read_text().splitlines()]
    for row, before in zip(rows, first, strict=True):  # scored beside others, a score is rounded otherwise
        assert row | {"new_score": 0} == before | {"new_score": 0}
        assert (row["new_score"] is None) == (before["new_score"] is None)
        if before["new_score"] is not None:
            assert row["new_score"] == pytest.approx(before["new_score"], rel=1e-5)
    assert {name: again[name] for name in COUNTS} == {name: summary[name] for name in COUNTS}
    with pytest.raises(UserError, match="other settings: settings.beam_width|beam_width is 0 there"):
        asked(run, tmp_path / "out", pool=other_dir / "pool.toml", beam_width=2)


def assert_scores(output_dir: Path, old, new) -> int:
    """New scores are those of the other run, of texts that both have; returns how many those are."""
    rows = [json.loads(line) for line in (output_dir / "scores.jsonl").read_text().splitlines()]
    by_node = {(row["problem"], row["node"]): row for row in rows}
    expected, shared = paths(new), 0
    for trace, tree in old:
        reasoning = {0: ""}
        for row in tree:
            reasoning[row["node"]] = reasoning[row["parent"]] + row["text"]
            found = by_node[row["problem"], row["node"]]
            assert found["old_score"] == row["score"]
            assert (found["new_score"] is None) == (row["score"] is None)
            key = reasoning[row["node"]], row["teacher"], row["step"]
            wanted = expected[trace["id"]].get(key)
            if wanted is not None and row["score"] is not None:
                assert found["new_score"] == pytest.approx(wanted, abs=1e-4)
                shared += 1
    assert shared > len(old) * 4
    return shared


@pytest.mark.slow
@pytest.mark.parametrize("selector", ["max_length", "process_reward", "confidence", "binary_judgment"])
def test_another_selector(recorded, searched, tmp_path, monkeypatch, selector):
    run, pool, directory = recorded
    question, wanted = {"selector": selector}, {"selector": selector}
    if selector == "binary_judgment":
        wanted["right"] = even
        monkeypatch.setattr(scoring, "open_grader", lambda *_, **__: Even())
    if selector == "process_reward":
        rewards = write_reward_model(tmp_path / "rewards", pool.proposers[0].checkpoint, 3)
        text = (directory / "pool.toml").read_text() + f'\n[reward_model]\ncheckpoint = "{rewards}"\n'
        (tmp_path / "pool.toml").write_text(text)
        question["pool"] = tmp_path / "pool.toml"
        wanted = {"reward_model": rewards, "reward_of": "last"}
    summary, winners = asked(run, tmp_path / "out", **question)
    expected = searched(pool, **wanted, **LIMITS)
    assert_scores(tmp_path / "out", searched(pool, **LIMITS), expected)
    assert assert_winners(winners, expected, abs=1e-4) == summary["covered"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{"method": "curation", "beam_width": 2, **WHOLE}, {"decoding": "mcts", **LIMITS}]
)
def test_whole_traces_and_expansions_are_scored_alike(pools, searched, tmp_path, settings):
    directory, pool = pools("prompt", 0)
    rows = searched(pool, **settings)
    run = write_run(tmp_path / "run", directory / "pool.toml", rows, **settings)
    summary, winners = asked(run, tmp_path / "out", pool=directory / "pool.toml")
    assert_scores(tmp_path / "out", rows, rows)
    assert assert_winners(winners, rows, abs=1e-4) == summary["covered"] >= 2
    _, winners = asked(run, tmp_path / "one", beam_width=1)
    limit = {"max_expansions": 4 * LIMITS["max_steps"]} if "decoding" in settings else {}
    assert assert_winners(winners, searched(pool, **settings | limit | {"beam_width": 1})) == 3


REFUSED = {
    "no proposer of": {"teachers": "qwen2-0,nobody"},
    "different proposers": {"teachers": "again,again"},
    "must be one of predictive_perplexity": {"selector": "best"},
    "needs a reward model": {"selector": "process_reward"},
    "at least 0": {"beam_width": -1},
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_asked(recorded, tmp_path, message):
    with pytest.raises(UserError, match=message) as refusal:
        asked(recorded[0], tmp_path / "out", **REFUSED[message])
    assert "\n" not in str(refusal.value) and not (tmp_path / "out").exists()
