"""The library as its users call it: the README's script, run as written."""

import importlib
import json
import os
import re
import subprocess
import sys

import pytest

import cord_jax
from tests.conftest import REPOSITORY


def scripts() -> list[str]:
    """The README's Python blocks."""
    return re.findall(
        r"^```python\n(.*?)^```", (REPOSITORY / "README.md").read_text(), re.DOTALL | re.MULTILINE
    )


AGAIN = """
config = SynthesisConfig(pool=POOL, problems=problems, output_dir="runs/two", **limits)
assert synthesize(config) == summary  # finished: nothing is searched
try:
    synthesize(SynthesisConfig(pool=POOL, problems=problems[1:], output_dir="runs/two", **limits))
except Exception as error:
    print(f"{type(error).__name__}: {error}")
"""


def test_the_readmes_script_searches_problems_in_memory(tmp_path):
    (script,) = [block for block in scripts() if "synthesize(" in block]
    assert len(script.strip().splitlines()) <= 12
    environment = os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", script + AGAIN], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    printed, refusal = done.stdout.strip().rsplit("\n", 1)
    rows = [json.loads(line) for line in (tmp_path / "runs/two/traces.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] in (["ida", "gus"], ["gus", "ida"])
    assert {step["teacher"] for row in rows for step in row["steps"]} <= {"sums", "products", "shares"}
    summary = json.loads((tmp_path / "runs/two/summary.json").read_text())
    assert printed.startswith(f"{summary['accuracy']} {{") and summary["problems"] == 2
    assert refusal.startswith("UserError: ") and "holds a run with other settings: problems.count" in refusal


def test_every_public_name_is_what_its_module_has():
    for name in cord_jax.__all__:
        assert getattr(cord_jax, name) is getattr(importlib.import_module(cord_jax._HOME[name]), name)
        assert name in dir(cord_jax)
    with pytest.raises(AttributeError, match="no attribute 'synthesise'"):
        cord_jax.synthesise  # noqa: B018
