"""The cost of a search's passes on one device: operations, and bytes of memory that must be read or written.

Counted are the products of matrices, and the weights, keys and values that they take; sums between devices
are not. An array that a mesh axis does not divide is held, read and multiplied by every device of the axis.
"""

import dataclasses

import jax
import numpy as np

from cord_jax.dry_run.abstract import AbstractSearch
from cord_jax.dry_run.topologies import Chip
from cord_jax.engine.limits import bytes_per_device
from models.sharding import RULES


@dataclasses.dataclass(frozen=True)
class Work:
    """Operations and bytes of one device."""

    flops: float
    bytes: float

    def __add__(self, other: "Work") -> "Work":
        return Work(self.flops + other.flops, self.bytes + other.bytes)

    def __mul__(self, times: float) -> "Work":
        return Work(self.flops * times, self.bytes * times)

    def seconds(self, chip: Chip) -> float:
        """The least time that the chip's memory and arithmetic allow."""
        return max(self.flops / chip.flops, self.bytes / chip.bandwidth)


def decode_token(search: AbstractSearch, reader: int) -> Work:
    """One token of every row of a reader: B times its proposers in every slot."""
    plan, state = search.plan, search.state.readers[reader]
    slots = _slots(search)
    rows = slots * state.rows.count_nq.shape[1]
    columns = state.token_ns.shape[1] + plan.max_step_tokens
    weights = _products(search, reader, rows, rows)
    cache = bytes_per_device((state.pool, state.rows.local))
    return weights + Work(_attention(search, reader, rows, columns), cache)


def extend_chunk(search: AbstractSearch, reader: int, reach: int) -> Work:
    """One chunk of tokens of one problem of each shard, as scoring, commits and prefills run it, without logits.

    Args:
      reach: most tokens of a fork; the chunk and so many before it are the columns of the scratch that are read.
    """
    plan, state = search.plan, search.state.readers[reader]
    pool, columns = bytes_per_device(state.pool) / _slots(search), state.token_ns.shape[1]
    chunk = plan.readers[reader].execution.chunk
    seen = columns + chunk + reach
    cache = pool * seen / columns
    return _products(search, reader, chunk, 0) + Work(_attention(search, reader, chunk, seen), cache)


def chunks_of_scoring(search: AbstractSearch) -> int:
    """Chunks of a problem's scoring in which every candidate is as long as a step may be sampled."""
    plan = search.plan
    chunk = plan.readers[plan.meta].execution.chunk
    return -(-plan.score_group * (plan.max_step_tokens + _closing(search)) // chunk)


def chunks_of_commit(search: AbstractSearch, reader: int) -> int:
    """Chunks of a problem's commit in which every chosen step is as long as may be sampled, and has a cue."""
    plan = search.plan
    chunk = plan.readers[reader].execution.chunk
    return -(-plan.places * (plan.max_step_tokens + _cue(search, reader)) // chunk)


def scoring_chunk(search: AbstractSearch) -> Work:
    """One chunk of the meta-prover's scoring pass, without the logits, which come once at its end."""
    return extend_chunk(search, search.plan.meta, search.plan.step_width + _closing(search))


def commit_chunk(search: AbstractSearch, reader: int) -> Work:
    """One chunk of a reader's commit."""
    return extend_chunk(search, reader, search.plan.step_width + _cue(search, reader))


def scoring_logits(search: AbstractSearch) -> Work:
    """The logits of a scoring pass over a sub-batch: every answer token of every candidate."""
    plan = search.plan
    positions = plan.shards.rows * plan.score_group * search.state.closings.scored_nz.shape[1]
    head = _local_sizes(search, plan.meta, head=True)
    return Work(2.0 * positions * head[0], head[1])


def _products(search: AbstractSearch, reader: int, tokens: int, logits: int) -> Work:
    """Products with weights: of the layers for `tokens`, of the head for `logits` positions of a device."""
    layer_size, layer_bytes = _local_sizes(search, reader, head=False)
    head_size, head_bytes = _local_sizes(search, reader, head=True)
    return Work(2.0 * (layer_size * tokens + head_size * logits), layer_bytes + (head_bytes if logits else 0))


def _local_sizes(search: AbstractSearch, reader: int, head: bool) -> tuple[float, float]:
    """Numbers that take part in a token's products, and bytes that are read, of the layers or the head."""
    config = search.configs[reader]
    numbers = size = 0.0
    for path, leaf in jax.tree.leaves_with_path(search.constants[reader].weights):
        name = jax.tree_util.keystr(path)
        local = float(np.prod(leaf.sharding.shard_shape(leaf.shape)))
        in_head = "lm_head" in name or ("embed" in name and config.tie_word_embeddings)
        if in_head != head or (not head and "layers" not in name):
            continue
        size += local * leaf.dtype.itemsize
        if "kernel" in name or in_head:
            routed = config.experts is not None and "'experts'" in name
            share = config.experts.experts_per_token / config.experts.num_experts if routed else 1
            numbers += local * share
    return numbers, size


def _attention(search: AbstractSearch, reader: int, queries: int, columns: int) -> float:
    """Operations of the products with keys and values, for `queries` tokens that see `columns` each."""
    config, model = search.configs[reader], search.mesh.shape[RULES["heads"]]
    split = model if search.state.readers[reader].pool is not None and _divided(search, reader) else 1
    return 4.0 * config.head_dim * config.num_heads * config.num_layers * queries * columns / split


def _closing(search: AbstractSearch) -> int:
    """Most tokens of all closings of a problem."""
    return search.state.closings.token_na.shape[1]


def _cue(search: AbstractSearch, reader: int) -> int:
    """Most tokens of a heading."""
    return search.constants[reader].cue_xt.shape[1]


def _divided(search: AbstractSearch, reader: int) -> bool:
    """Whether a pool's heads or columns lie over the `model` axis."""
    leaf = jax.tree.leaves(search.state.readers[reader].pool)[0]
    return "model" in leaf.sharding.spec


def _slots(search: AbstractSearch) -> int:
    """Slots of one device."""
    return search.plan.slots // search.plan.shards.count
