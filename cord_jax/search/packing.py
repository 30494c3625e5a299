"""Forks of prefix trees, packed for `models.prefill`: each is a text and what follows it.

To score, a candidate's step is followed by the closings with the answer; to commit, a chosen step is followed by the
heading of the next. Either way every row of a sub-batch has a few forks, and all rows of a shard lie one behind another
in one packed text.
"""

import functools

import jax
import jax.numpy as jnp

from cord_jax.search.jax_tools import pytree
from cord_jax.search.shards import Shards
from models.attention.prefix_tree import Packed
from models.execution import Execution


@pytree
class Forks:
    """Forks x of the rows of a sub-batch; all int32.

    Attributes:
      token_rxt, length_rx: a text each.
      base_rx: depth of its first token; branch_rx: the path that it continues.
      tail_rxa, tail_length_rx: what follows it.
      form_rxa: the text 1, 2, ... of the tail that each token belongs to; offset_rxa: its place in that text.
    """

    token_rxt: jax.Array
    length_rx: jax.Array
    base_rx: jax.Array
    branch_rx: jax.Array
    tail_rxa: jax.Array
    tail_length_rx: jax.Array
    form_rxa: jax.Array
    offset_rxa: jax.Array

    @property
    def reach(self) -> int:
        """Most tokens of a fork."""
        return self.token_rxt.shape[2] + self.tail_rxa.shape[2]


def pack(forks: Forks, shards: Shards, execution: Execution) -> tuple[Packed, jax.Array]:
    """Packs the rows of a shard into one text for a network that runs so; a row takes whole chunks.

    Returns:
      The packed text, and the place of each fork's first token in it, int32 [r, x].
    """
    rows, num_forks, _ = forks.token_rxt.shape
    chunk, together = execution.chunk, execution.together
    width = round_up(rows * round_up(num_forks * forks.reach, chunk), together * chunk)
    length_rx = forks.length_rx + forks.tail_length_rx
    chunks_r = (length_rx.sum(1) + chunk - 1) // chunk
    start_rx = chunk * starts(chunks_r[None])[0][:, None] + starts(length_rx)
    start_f, length_f = start_rx.reshape(-1), forks.length_rx.reshape(-1)  # f: forks of all rows
    place_w = jnp.arange(width, dtype=jnp.int32)
    # The last fork that begins here or before: one without tokens begins where the next one does.
    fork_w = (place_w[:, None] >= start_f).sum(-1, dtype=jnp.int32) - 1
    offset_w = place_w - start_f[fork_w]
    beyond_w = offset_w - length_f[fork_w]
    in_text_w = beyond_w < 0
    in_fork_w = beyond_w < forks.tail_length_rx.reshape(-1)[fork_w]

    def of_fork(values_rxa, index_w):
        """`values[row, fork, index]` of each place's fork."""
        size = values_rxa.shape[2]
        return values_rxa.reshape(-1)[fork_w * size + jnp.clip(index_w, 0, size - 1)]

    tail = functools.partial(of_fork, index_w=beyond_w)
    depth_w = jnp.where(in_text_w, offset_w, offset_w - beyond_w + tail(forks.offset_rxa))
    packed = Packed(
        token_w=jnp.where(in_text_w, of_fork(forks.token_rxt, offset_w), tail(forks.tail_rxa)),
        position_w=forks.base_rx.reshape(-1)[fork_w] + depth_w,
        branch_w=forks.branch_rx.reshape(-1)[fork_w],
        segment_w=jnp.where(in_fork_w, fork_w, -1),
        alternative_w=jnp.where(in_text_w, 0, tail(forks.form_rxa)),
        row_k=fork_w[::chunk] // num_forks,
        chunks=shards.agreed(chunks_r.sum()),
        reach=forks.reach,
    )
    return packed, start_rx


def starts(length_rx):
    """Adds up where each segment begins."""
    return jnp.cumsum(length_rx, axis=1) - length_rx


def places(length_rx, width: int):
    """Finds for each of `width` places the segment that it lies in and its offset there, both int32 [r, w].

    Places behind the last segment get the last segment and offsets beyond its end.
    """
    end_rx = jnp.cumsum(length_rx, axis=1)
    place_w = jnp.arange(width, dtype=jnp.int32)
    segment_rw = (place_w[None, :, None] >= end_rx[:, None]).sum(-1, dtype=jnp.int32)
    segment_rw = jnp.minimum(segment_rw, length_rx.shape[1] - 1)
    return segment_rw, place_w - pick(starts(length_rx), segment_rw)


def pick(values_rx, index_rw):
    """Looks up `values[r, index[r, w]]`."""
    return jnp.take_along_axis(values_rx, index_rw, axis=1)


def round_up(number: int, multiple: int) -> int:
    """Finds the least multiple that is not below `number`."""
    return -(-number // multiple) * multiple


def in_parts(function, parts: int, *arrays):
    """Applies `function` to the leading axes' parts one after another, to bound its memory."""
    if parts == 1:
        return function(*arrays)
    split = [x.reshape(parts, x.shape[0] // parts, *x.shape[1:]) for x in arrays]
    return jax.tree.map(
        lambda x: x.reshape(-1, *x.shape[2:]), jax.lax.map(lambda xs: function(*xs), tuple(split))
    )
