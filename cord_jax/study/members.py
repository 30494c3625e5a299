"""The models of the study's pools: the miniature's members, and others that are made of them.

A member is written as

    sums            one of the miniature's
    prover~0.2      the same with noise: to every matrix, normal numbers of 0.2 times its own standard deviation
    sums!alone      trained further, see `broken`
    prover!rewards  a process reward model made of it, see `reward_model`

Such members are made when they are first asked for, by one process, and kept.
"""

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

from cord_jax.miniature import ASSETS
from cord_jax.pool import MetaProverSpec, PoolSpec, ProposerSpec, RewardModelSpec
from cord_jax.study.arms import Writing
from cord_jax.study.cells import claimed

NOISE, TRAINED, TEMPERATURE = "~", "!", "@"
REWARDS = "rewards"
REWARD_MODEL = f"prover{TRAINED}{REWARDS}"


def pool_of(arm: Writing, directory: Path, student: Path | None = None) -> PoolSpec:
    """The pool of an arm, with `student` as one more proposer; members that are not there are made below `directory`."""
    proposers: list[ProposerSpec] = []
    for text in arm.pool:
        member, _, temperature = text.partition(TEMPERATURE)
        proposers.append(ProposerSpec(text, find(member, directory), float(temperature or arm.temperature)))
    if student is not None:
        proposers.append(ProposerSpec("student", student, arm.temperature))
    rewards = None
    if arm.settings.get("selector") == "process_reward":
        rewards = RewardModelSpec(find(REWARD_MODEL, directory))
    return PoolSpec(tuple(proposers), MetaProverSpec(find(arm.meta_prover, directory)), rewards)


def find(member: str, directory: Path) -> Path:
    """The checkpoint of a member, made if need be."""
    name, noise, strength = member.partition(NOISE)
    name, trained, recipe = name.partition(TRAINED)
    if not noise and not trained:
        return ASSETS / name
    path = directory / member
    with claimed(directory / "locks", member, wait=True):
        if not (path / "config.json").exists():
            if noise:
                add_noise(ASSETS / name, float(strength), path)
            elif recipe == REWARDS:
                from cord_jax.study import reward_model

                reward_model.make(ASSETS / name, path)
            else:
                from cord_jax.study import broken  # brings the trainer

                broken.make(name, recipe, path)
    return path


def digests(members: Sequence[str]) -> dict[str, str]:
    """Name -> the first digits of a hash of the weights, of each of the miniature's members that these are made of."""
    names = sorted({m.partition(TEMPERATURE)[0].partition(NOISE)[0].partition(TRAINED)[0] for m in members})
    return {name: _digest(name) for name in names}


@functools.cache
def _digest(name: str) -> str:
    return hashlib.sha256((ASSETS / name / "model.safetensors").read_bytes()).hexdigest()[:12]


def add_noise(checkpoint: Path, strength: float, directory: Path) -> None:
    """Writes a checkpoint whose matrices are disturbed; the same strength gives the same noise."""
    import numpy as np
    from flax import nnx

    import models

    model = models.load(checkpoint)
    state, rng = nnx.state(model, nnx.Param), np.random.default_rng(0)
    for _, parameter in nnx.to_flat_state(state):
        values = parameter[...]
        if values.ndim > 1:
            noise = rng.standard_normal(values.shape, np.float32)
            parameter[...] = values + strength * np.std(np.asarray(values)) * noise
    nnx.update(model, state)
    unfinished = directory.with_name(directory.name + ".unfinished")
    models.save(model, unfinished, source=checkpoint)
    unfinished.rename(directory)
