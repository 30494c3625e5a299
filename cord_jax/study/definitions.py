"""What a cell is the result of: everything about an arm and the sizes of the study that decides its numbers."""

import dataclasses
from typing import Any

from cord_jax.study import arms, members
from cord_jax.study.arms import Arm, Writing
from cord_jax.study.config import StudyConfig


def definition_of(arm: Arm, config: StudyConfig) -> dict[str, Any]:
    """All that decides the results of a cell, but for its seed, as JSON."""
    if isinstance(arm, Writing):
        values = {f.name: getattr(arm, f.name) for f in dataclasses.fields(arm)}
        values = {
            name: value
            for name, value in values.items()
            if name not in ("name", "label", "groups", "learner")
        }
        values["pool"], values["lengths"] = list(arm.pool), list(arm.lengths)
        values["settings"] = dict(arm.settings)
        if arm.learner is not None:
            values["student"] = definition_of(arms.BY_NAME[arm.learner], config)
        return values | {
            "train_problems": config.train_problems,
            "members": members.digests((*arm.pool, arm.meta_prover)),
        }
    traces = None if arm.traces is None else definition_of(arms.BY_NAME[arm.traces], config)
    definition = {
        "rows": arm.rows,
        "traces": traces,
        "held_out_problems": config.held_out_problems,
        "samples": config.samples,
        "members": members.digests(("student",)),
    }
    # The results that are kept were written before there were others.
    return definition if arm.objective == "sft" else definition | {"objective": arm.objective}
