"""Whether what is asked for can be: lengths against what a model has been made for, arrays against the memory there is.

Both are told before anything is allocated: the one from configurations, prompts and budgets, the other from shapes.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

import models
from cord_jax.errors import UserError
from cord_jax.problems import Problem
from cord_jax.text.prompt_settings import PromptSettings
from cord_jax.text.prompts import encode_prompts
from cord_jax.text.vocabulary import Vocabulary

_LOG = logging.getLogger(__name__)
# Of so many questions, those with most characters, the longest prompt is looked for.
_CANDIDATES = 8


def check_length(
    checkpoint: Path | str,
    vocabulary: Vocabulary,
    prompt: PromptSettings,
    problems: Sequence[Problem],
    new_tokens: int,
    flags: str | None,
) -> None:
    """Checks prompts and budgets against the positions that a model has been made for (`max_position_embeddings`).

    A model whose rotations are scaled reads more than that; then it is a warning.

    Args:
      new_tokens: what may follow a prompt.
      flags: those that say how much that is, if they were given; None: it is a default, and a warning.

    Raises: `UserError` that names model, problem and numbers.
    """
    rope = models.read_config(checkpoint).rope
    made_for = rope.max_length
    if not made_for or not problems:
        return
    reads = made_for
    if rope.kind in ("linear", "dynamic", "yarn", "llama3"):
        reads = max(made_for, int((rope.original_length or made_for) * rope.factor))
    longest = sorted(problems, key=lambda p: len(p.question) + len(p.context or ""))[-_CANDIDATES:]
    lengths = [len(ids) for ids in encode_prompts(vocabulary, prompt, longest)]
    length, problem = max(zip(lengths, longest), key=lambda pair: pair[0])
    said = f"{checkpoint}: problem {problem.id!r} has a prompt of {length} tokens"
    limit = f"the model reads {reads} (max_position_embeddings" + (", scaled)" if reads > made_for else ")")
    if length >= reads:
        raise UserError(f"{said}, and {limit}; leave that problem out")
    if length + new_tokens > reads:
        whole = f"{said}, and up to {new_tokens} may follow, but {limit}"
        if flags is not None:
            raise UserError(f"{whole}; lower {flags}")
        _LOG.warning("%s; texts that grow longer than that are not to be trusted", whole)
    elif length + new_tokens > made_for:
        _LOG.warning(
            "%s, and up to %d may follow: more than the %d that the model was trained on, which its scaled rotations allow",
            said,
            new_tokens,
            made_for,
        )


def check_room(mesh: Mesh, what: str, needed: int, remedy: str) -> None:
    """Checks bytes of this process's devices against the memory that they have left.

    Args:
      what: is to be allocated; needed: its bytes on each device.
      remedy: how to need less.

    Raises: `UserError` with both numbers.
    """
    devices = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
    if devices[0].platform == "cpu":
        needed, left, where = needed * len(devices), _host_bytes(), "this machine has"
    else:
        stats = devices[0].memory_stats() or {}
        left = stats.get("bytes_limit", 0) - stats.get("bytes_in_use", 0) if "bytes_limit" in stats else None
        where = "a device has"
    if left is not None and needed > left:
        raise UserError(f"{what} takes {_shown(needed)} and {where} {_shown(left)} left; {remedy}")


def bytes_per_device(tree: Any, shardings: Any = None) -> int:
    """Bytes that one device holds of arrays, or of shapes.

    Args:
      shardings: of shapes that do not have theirs.
    """

    def size(x, sharding) -> int:
        return int(np.prod(sharding.shard_shape(x.shape), dtype=object)) * x.dtype.itemsize

    shardings = jax.tree.map(lambda x: x.sharding, tree) if shardings is None else shardings
    return sum(jax.tree.leaves(jax.tree.map(size, tree, shardings)))


def _host_bytes() -> int | None:
    """Memory that this machine, or the container that the process runs in, has left; None where nobody says."""
    left = []
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        left.append(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")))
    except (OSError, StopIteration, ValueError, IndexError):
        pass
    try:
        group = Path("/sys/fs/cgroup")
        limit, used = ((group / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        if limit != "max":
            left.append(int(limit) - int(used))
    except (OSError, ValueError):
        pass
    return min(left) if left else None


def _shown(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB"
