"""The whole quickstart on a few puzzles: what must hold of any run, and what it leaves."""

import json

from cord_jax.miniature.config import QuickstartConfig
from cord_jax.miniature.quickstart import METHODS, quickstart
from cord_jax.miniature.report import NAMES
from cord_jax.miniature.wording import wrong_equations


def test_end_to_end(tmp_path):
    said = []
    config = QuickstartConfig(tmp_path, train_problems=16, held_out_problems=8, samples=1)
    summary = quickstart(config, said.append)

    found = summary["decomposition"]
    for cord in ("cord", "cord_filtered"):
        assert found[cord]["implied"] > found["curation"]["implied"]
        assert summary["mean_score"][cord]["mean"] > summary["mean_score"]["curation"]["mean"]
        assert found[cord]["wrong_lines"] < 0.05
    check_filter(tmp_path / "seed_0" / "cord_filtered")

    assert summary == json.loads((tmp_path / "summary.json").read_text())
    report = (tmp_path / "report.txt").read_text()
    assert report.strip() in "\n".join(said)
    assert set(summary["accuracy"]) == set(NAMES)
    for name in NAMES.values():
        assert name in report
    assert (tmp_path / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    for method in METHODS:
        assert len((tmp_path / "seed_0" / method / "traces.jsonl").read_text().splitlines()) == 16
        assert (tmp_path / "seed_0" / f"student_after_{method}" / "hf" / "config.json").exists()

    again = quickstart(config, said.append)  # nothing is run again
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
