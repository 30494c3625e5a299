"""The study's cells, tasks and comparisons; the writing itself runs in the slow test at the end."""

import dataclasses
import errno
import gzip
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from cord_jax.errors import UserError
from cord_jax.miniature import ASSETS, world
from cord_jax.miniature.wording import WORDINGS, read_steps, write_solution
from cord_jax.study import arms, cells, comparisons, definitions, job, learning, members, page, writing
from cord_jax.study.arms import Learner, Writing
from cord_jax.study.config import StudyConfig
from tests.conftest import REPOSITORY


@pytest.fixture
def config(tmp_path):
    return StudyConfig(
        output_dir=tmp_path, seeds=2, train_problems=6, held_out_problems=5, arms="cord,after_cord,base"
    )


def fill(config, arm, seed, results):
    cells.write_cell(config.output_dir, arm.name, seed, definitions.definition_of(arm, config), results)


def answers(correct):
    return {"correct": correct, "samples": 2, "rows": 6, "right_rows": 3}


def test_names_are_unique_and_every_student_has_its_traces():
    assert len(arms.BY_NAME) == len(arms.IN_ORDER) == len(arms.WRITINGS) + len(arms.LEARNERS)
    assert not set(arms.BY_NAME) & set(arms.GROUPS)
    for arm in arms.LEARNERS:
        assert arm.traces is None or isinstance(arms.BY_NAME[arm.traces], Writing)
    for group in arms.GROUPS:
        chosen = arms.choose(group)
        assert {a.traces for a in chosen if isinstance(a, Learner)} <= {None, *(a.name for a in chosen)}


def test_a_condition_is_cord_and_curation_under_it():
    assert [arm.name for arm in arms.choose("useless")] == ["useless_cord", "useless_curation"]
    with pytest.raises(UserError, match="--arms=after: must be names of arms, of conditions or of groups"):
        arms.choose("after")


def test_a_cell_is_taken_for_what_it_is_the_result_of(config):
    cord, base = arms.BY_NAME["cord"], arms.BY_NAME["base"]
    definition = definitions.definition_of(base, config)
    assert cells.read_cell(config.output_dir, "base", 0, definition) is None
    fill(config, base, 0, answers([1] * 5))
    assert cells.read_cell(config.output_dir, "base", 0, definition) == answers([1] * 5)
    with pytest.raises(UserError, match="samples differ"):
        cells.read_cell(config.output_dir, "base", 0, definition | {"samples": 3})
    (config.output_dir / "cells" / "cord.seed_0.json").write_text("{")
    with pytest.raises(UserError, match="is no result of a study"):
        cells.read_cell(config.output_dir, "cord", 0, definitions.definition_of(cord, config))


def test_the_results_that_are_kept_are_of_the_arms_as_they_are():
    of_arms, directory = {}, REPOSITORY / "docs" / "evidence"
    for path in sorted((directory / "cells").iterdir()):
        name, _, seed = path.stem.rpartition(".seed_")
        if name not in of_arms:
            of_arms[name] = definitions.definition_of(arms.BY_NAME[name], StudyConfig(output_dir=directory))
        assert cells.read_cell(directory, name, int(seed), of_arms[name]) is not None
    assert {"cord", "after_cord"} < of_arms.keys()


def test_what_is_done_is_not_done_again_and_rows_that_are_gone_are_written_again(config):
    chosen = arms.choose(config.arms)
    cord, after = arms.BY_NAME["cord"], arms.BY_NAME["after_cord"]

    def left():
        return [(task.arm.name, task.seeds) for task in job.tasks(chosen, config)]

    assert left() == [
        ("cord", (0, 1)),
        *[(name, (seed,)) for name in ("base", "after_cord") for seed in (0, 1)],
    ]
    fill(config, arms.BY_NAME["base"], 0, answers([0] * 5))
    fill(config, cord, 1, {"right": [1] * 6})
    fill(config, after, 1, answers([1] * 5))
    assert left() == [("cord", (0,)), ("base", (1,)), ("after_cord", (0,))]
    fill(config, cord, 0, {"right": [1] * 6})
    assert left()[0] == ("cord", (0,))  # the student needs its rows
    rows = cells.rows_path("cord", config.output_dir, 0)
    rows.parent.mkdir()
    rows.write_bytes(b"")
    assert left() == [("base", (1,)), ("after_cord", (0,))]


def test_a_second_round_waits_for_the_rows_that_its_proposer_learns_from(config):
    config = dataclasses.replace(config, seeds=1, arms="after_second_cord")
    chosen = arms.choose(config.arms)

    def left():
        return [task.arm.name for task in job.tasks(chosen, config)]

    assert left() == ["cord", "second_cord", "after_second_cord"]
    for name in ("cord", "second_cord"):
        fill(config, arms.BY_NAME[name], 0, {"right": [1] * 6})
    assert left() == ["cord", "second_cord", "after_second_cord"]  # no rows are there
    for name in ("second_cord", "cord"):
        rows = cells.rows_path(name, config.output_dir, 0)
        rows.parent.mkdir(exist_ok=True)
        rows.write_bytes(b"")
        assert left() == ["after_second_cord"]
    definition = definitions.definition_of(arms.BY_NAME["second_cord"], config)
    assert definition["student"] == definitions.definition_of(arms.BY_NAME["after_cord"], config)


def test_what_failed_is_noted_and_left_out_with_what_waits_for_it(config, monkeypatch):
    chosen, said = arms.choose("cord,after_cord"), []

    def fail(*arguments):
        raise ValueError("no such thing")

    monkeypatch.setattr(writing, "write_traces", fail)
    assert job._do_one(chosen, config, said.append)
    note = config.output_dir / "failed" / "cord.part_0.txt"
    assert "no such thing" in note.read_text() and said == [
        f"cord.part_0 failed: ValueError; {note} tells how"
    ]
    assert job.tasks(chosen, config) == []
    note.unlink()
    assert [task.name for task in job.tasks(chosen, config)][:2] == ["cord.part_0", "after_cord.seed_0"]
    few = dataclasses.replace(config, together=1)
    assert [task.name for task in job.tasks(chosen, few)][:2] == ["cord.part_0", "cord.part_1"]


def test_a_full_disk_is_no_failure_of_the_task(config, monkeypatch):
    def full(*unused):
        raise UserError("rows.jsonl: cannot be written") from OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writing, "write_traces", full)
    with pytest.raises(UserError, match="cannot be written"):
        job.study(dataclasses.replace(config, arms="cord"), print)
    assert not (Path(config.output_dir) / "failed").exists()


def test_a_task_is_one_process_s_until_it_lets_go(tmp_path):
    hold = (
        "import sys, time\nfrom pathlib import Path\nfrom cord_jax.study.cells import claimed\n"
        f"with claimed(Path({str(tmp_path)!r}), 'cord') as mine:\n    print(mine, flush=True)\n    time.sleep(60)\n"
    )
    other = subprocess.Popen([sys.executable, "-c", hold], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "True\n"
    with cells.claimed(tmp_path, "cord") as mine, cells.claimed(tmp_path, "random") as also:
        assert (mine, also) == (False, True)
    other.send_signal(signal.SIGKILL)
    other.wait()
    with cells.claimed(tmp_path, "cord") as mine:
        assert mine


def test_students_are_paired_by_puzzle_and_traces_by_seed_and_puzzle():
    rng = np.random.default_rng(0)
    results = {
        name: {seed: answers(rng.integers(0, 3, 40).tolist()) for seed in range(5)}
        for name in ("after_cord", "base")
    }
    found = comparisons.compare(results, "pass@1", "after_cord", "base")
    values = {name: np.array([of["correct"] for of in by.values()]) / 2 for name, by in results.items()}
    puzzles = values["after_cord"].mean(0) - values["base"].mean(0)
    assert found.difference == pytest.approx(puzzles.mean())
    assert found.interval == pytest.approx(1.96 * puzzles.std(ddof=1) / np.sqrt(40))
    assert found.effect == pytest.approx(puzzles.mean() / puzzles.std(ddof=1))
    by_seed = [values[name].mean(1) for name in ("after_cord", "base")]
    assert found.over_seeds == pytest.approx(stats.ttest_rel(*by_seed).pvalue)
    low, high = stats.ttest_rel(*by_seed).confidence_interval()
    assert found.seeds_interval == pytest.approx((high - low) / 2)
    assert (found.seeds, found.puzzles) == (5, 40)

    results = {
        "cord": {0: {"right": [1, 1, 0]}, 1: {"right": [1, 0, 1]}},
        "curation": {1: {"right": [0, 0]}, 2: {"right": [1, 1, 1]}},
    }
    found = comparisons.compare(results, "right", "cord", "curation")
    assert (found.difference, found.seeds, found.puzzles) == (0.5, 1, 2)
    assert np.isnan(found.over_seeds)
    assert comparisons.correct([found])[0].decision == comparisons.OPEN
    assert comparisons.compare(results, "right", "cord", "mcts") is None


def test_a_decision_needs_both_tests():
    rng = np.random.default_rng(1)
    results = {
        name: {seed: answers((rng.random(80) < chance).astype(int).tolist()) for seed in range(5)}
        for name, chance in (("after_cord", 0.7), ("base", 0.2), ("after_curation", 0.7))
    }
    wanted = list(itertools.permutations(results, 2))
    found = {
        (c.first, c.second): c.decision
        for c in comparisons.family(results, [("pass@1", *pair) for pair in wanted])
    }
    assert found["after_cord", "base"] == comparisons.HOLDS
    assert found["base", "after_curation"] == comparisons.OPPOSITE
    assert found["after_cord", "after_curation"] == comparisons.OPEN


def test_the_page_shows_what_there_is(config):
    rng = np.random.default_rng(2)
    for name in ("base", "after_cord"):
        for seed in (0, 1):
            fill(config, arms.BY_NAME[name], seed, answers(rng.integers(0, 3, 5).tolist()))
    path = page.write_page(config)
    html = path.read_text()
    assert html.count("<table>") == html.count('<div class="scroll"') > 2 and "<td>6</td>" in html.replace(
        ' style="text-align:right"', ""
    )
    assert html.count("data:image/png;base64,") == 1 and 'src="students.png' not in html
    text = (path.parent / "page.md").read_text()
    assert "| after CoRD | 6 | 3.0 |" in text and "| after CoRD - base student |" in text
    assert "after_curation" in text.split("## Without results")[1]
    assert (path.parent / "students.png").read_bytes().startswith(b"\x89PNG")
    (only,) = json.loads((path.parent / "comparisons.json").read_text())
    assert (only["first"], only["second"], only["seeds"]) == ("after_cord", "base", 2)


def test_seeds_have_puzzles_of_their_own_and_fewer_are_the_first_of_more():
    cord, short = arms.BY_NAME["cord"], arms.BY_NAME["short_cord"]
    few, many, others = (writing.puzzles_of(cord, *which) for which in ((0, 4), (0, 9), (1, 9)))
    assert many[:4] == few and not set(many) & set(others)
    assert {len(p.steps) for p in writing.puzzles_of(short, 0, 9)} == {2, 3}
    assert all(puzzle.split == "train" for puzzle in [*many, *others])


def test_rows_for_students():
    rows = [{"id": str(i), "correct": i % 2 == 0, "response": None if i == 3 else "x"} for i in range(8)]
    chosen = {which: learning.choose_rows(rows, which, 4) for which in ("first", "all", "right")}
    assert [[row["id"] for row in of] for of in chosen.values()] == [
        list("012"),
        list("0124567"),
        list("0246"),
    ]


def test_a_student_of_gains_needs_rows_with_scores_of_steps(config):
    row = {"id": "a", "question": "?", "answer": "1", "reasoning": "So.\n\n", "response": "1"}
    row |= {"correct": True, "score": 0.5, "seconds": 1.0}
    row["steps"] = [{"text": "So.\n\n", "teacher": "sums", "score": 0.5, "tokens": 2, "ended": "eos"}]
    kept = writing.row_to_learn(row)
    assert kept.pop("steps") == [{"text": "So.\n\n", "score": 0.5}]
    assert kept == {name: row[name] for name in kept} and "seconds" not in kept
    path = writing.rows_path("cord", config.output_dir, 0)
    path.parent.mkdir()
    path.write_bytes(gzip.compress(json.dumps(kept).encode()))
    with pytest.raises(UserError, match="cord.seed_0.jsonl.gz: holds no scores of steps.*; remove it"):
        learning.learn(arms.BY_NAME["after_cord_gain"], config, 0)


def test_one_wording_keeps_the_numbers():
    import random

    (puzzle,) = world.draw_puzzles(5, 1, "train")
    writers = [WORDINGS[name] for name in ("products", "shares", "sums")] * 4
    solution = write_solution(
        puzzle, writers[: len(puzzle.steps)], {"+": 1.0, "*": 1.0, "%": 1.0}, random.Random(0)
    )
    row = {"reasoning": solution.reasoning, "response": solution.response}
    changed = learning.in_one_wording(row)
    assert read_steps(changed["reasoning"]) == read_steps(row["reasoning"])
    assert changed["reasoning"].count(". ") >= len(puzzle.steps) and ": " not in changed["reasoning"]
    assert changed["response"].startswith("So \\boxed{")


def test_members(tmp_path):
    assert members.find("sums", tmp_path) == ASSETS / "sums"
    assert set(members.digests(("sums@0.5", "prover~0.2", "sums!alone"))) == {"sums", "prover"}
    pool = members.pool_of(arms.BY_NAME["homogeneous_cord"], tmp_path)
    assert [p.temperature for p in pool.proposers] == [0.5, 0.6, 0.7]
    assert {p.checkpoint for p in pool.proposers} == {ASSETS / "sums"}


def test_noise_has_the_strength_that_is_asked_for(tmp_path):
    from flax import nnx

    import models

    noisy = members.find("prover~0.5", tmp_path)
    before, after = (nnx.to_flat_state(nnx.state(models.load(p))) for p in (ASSETS / "prover", noisy))
    for (name, old), (_, new) in zip(before, after, strict=True):
        difference = np.asarray(new[...]) - np.asarray(old[...])
        if old[...].ndim > 1:
            ratio = difference.std() / np.asarray(old[...]).std()
            assert 0.4 < ratio < 0.6, name
        else:
            assert not difference.any()
    assert members.find("prover~0.5", tmp_path) == noisy


@pytest.mark.slow
def test_a_tiny_study_is_killed_and_continued(tmp_path):
    command = [
        *(sys.executable, "-m", "launch.study", f"--output_dir={tmp_path}", "--arms=curation,after_curation"),
        *("--seeds=2", "--train_problems=3", "--held_out_problems=4"),
    ]
    environment = os.environ | {"XLA_FLAGS": ""}
    first = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True)
    written = tmp_path / "cells" / "after_curation.seed_0.json"
    while first.poll() is None and not written.exists():
        time.sleep(0.1)
    first.send_signal(signal.SIGKILL)
    first.wait()
    kept = {path: path.read_bytes() for path in written.parent.iterdir()}
    said = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True
    )
    assert "curation.part" not in said.stdout and "all is done" in said.stdout
    assert all(path.read_bytes() == content for path, content in kept.items())
    assert len(list(written.parent.iterdir())) == 4
    for seed in (0, 1):
        cell = json.loads((tmp_path / "cells" / f"curation.seed_{seed}.json").read_text())["results"]
        assert cell["best_of_fewer"][-1] == sum(cell["implied"])
    refused = subprocess.run([*command, "--train_problems=4"], cwd=REPOSITORY, capture_output=True, text=True)
    assert refused.returncode == 2 and "train_problems" in refused.stderr
