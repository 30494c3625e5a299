"""Runs that grow: a greater `--limit`, or problems behind those that were there, do not make a run another one.

What a run says of its problems is how many they are and a hash of them. It is the same run if those that it began with
come first.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any

from cord_jax.problems import Problem
from cord_jax.run_directory import CONFIG, RunDirectory, read_run_config


def identity_of(problems: Sequence[Problem]) -> dict[str, Any]:
    """The number of problems and the SHA-256 of all that they say."""
    digest = hashlib.sha256()
    for problem in problems:
        digest.update(json.dumps(dataclasses.asdict(problem), sort_keys=True).encode() + b"\n")
    return {"count": len(problems), "sha256": digest.hexdigest()}


def identity_in(output_dir: str | os.PathLike, problems: Sequence[Problem], may_grow: bool) -> dict[str, Any]:
    """What a run in this directory says of its problems: as it did when it began, if these begin with those.

    Args:
      may_grow: whether more problems leave the rows of others as they are.
    """
    held = (read_run_config(output_dir) or {"inputs": {}})["inputs"].get("problems", {})
    count = held.get("count")
    if may_grow and isinstance(count, int) and 0 < count < len(problems):
        if identity_of(problems[:count]) == held:
            return held
    return identity_of(problems)


def note_growth(run: RunDirectory, problems: Sequence[Problem]) -> None:
    """Writes down that the run has these problems now."""
    held, now = run.config["inputs"]["problems"], identity_of(problems)
    if held != now:
        run.log(f"the run grows from {held['count']} to {now['count']} problems")
        run.config["inputs"]["problems"] = now
        run.write_json(CONFIG, run.config)
