"""The whole quickstart on a few puzzles, by its command: what must hold of any run, and what it leaves."""

import json
import os
import subprocess
import sys

import pytest

from cord_jax.miniature.quickstart import METHODS
from cord_jax.miniature.report import NAMES
from cord_jax.miniature.wording import wrong_equations
from tests.conftest import REPOSITORY


def run(directory):
    """What the command says, and its summary; on as many devices as there are cores, not on the tests' eight."""
    sizes = ("--train_problems=8", "--held_out_problems=8", "--samples=1")
    command = [sys.executable, "-m", "launch.quickstart", f"--output_dir={directory}", *sizes]
    environment = os.environ | {"XLA_FLAGS": ""}
    said = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    return said.stdout, json.loads((directory / "summary.json").read_text())


@pytest.mark.long
def test_end_to_end(tmp_path):
    said, summary = run(tmp_path)

    found = summary["decomposition"]
    for cord in ("cord", "cord_filtered"):
        assert found[cord]["implied"] > found["curation"]["implied"]
        assert summary["mean_score"][cord]["mean"] > summary["mean_score"]["curation"]["mean"]
        assert found[cord]["wrong_lines"] < 0.05
    check_filter(tmp_path / "seed_0" / "cord_filtered")

    report = (tmp_path / "report.txt").read_text()
    assert report.strip() in said
    assert set(summary["accuracy"]) == set(NAMES)
    for name in NAMES.values():
        assert name in report
    assert (tmp_path / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count('id="tree-') == 8 * len(METHODS) and page.count('id="samples-') == 8
    for method in METHODS:
        assert len((tmp_path / "seed_0" / method / "traces.jsonl").read_text().splitlines()) == 8
        assert (tmp_path / "seed_0" / f"student_after_{method}" / "hf" / "config.json").exists()

    _, again = run(tmp_path)  # nothing is run again
    assert {k: v for k, v in again.items() if k != "seconds"} == {
        k: v for k, v in summary.items() if k != "seconds"
    }


def check_filter(directory):
    """A kept step has a wrong equation only where all candidates of its beam have one."""
    rows = [json.loads(line) for line in (directory / "tree.jsonl").read_text().splitlines()]
    rivals = {}
    for row in rows:
        rivals.setdefault((row["problem"], row["step"], row["beam"]), []).append(row)
    for beam in rivals.values():
        valid = [row for row in beam if row["dropped"] in (None, "arithmetic")]
        dropped = [row for row in beam if row["dropped"] == "arithmetic"]
        wrong = [row for row in valid if wrong_equations(row["text"])]
        if any(not wrong_equations(row["text"]) for row in valid):
            assert dropped == wrong
            assert not any(wrong_equations(row["text"]) for row in beam if row["kept"])
        else:
            assert not dropped
    assert any(row["dropped"] == "arithmetic" for row in rows)
