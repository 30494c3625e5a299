"""Attention over a prefix tree of keys and values.

Many continuations of one text share most of their past. Each slot therefore owns ONE pool of keys and values,
and a branch of its tree is a boolean mask over the pool's columns, its *path*. Selecting branches copies
nothing; a column is read once for all branches that share it. Two kinds of queries meet the pool:

* `decode_attention`: one new token for every query row of every slot. The keys of the tokens that a row has
written
  since its branch point lie in a small row-local ring buffer, whose current column is the same for all rows.
* `extend`: several forks of every row, packed one after another and run in chunks. Their keys go to a scratch
buffer;
  `commit` then moves the columns that are to stay into the pool.

Keys are stored head-major and already rotated, `[n, g, s, e]`. A cache is a tuple with one entry a layer when
the decoder keeps a list of layers, and one entry whose arrays have a leading `[l]` axis when it keeps a stack
of them.

Shape letters: n slots, b branches, q query rows of a slot, r rows of a sub-batch, c chunk of tokens, s pool
columns, w scratch columns, t columns of a row's ring buffer, g key-value heads, m query heads of one
key-value head, e head width, d model width.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import lax

MASKED = -1e30  # finite, so that a row that sees nothing gives a number and not NaN
LEAST_BLOCK = 1024  # columns of a pool that are read at a time, at least; a loop over fewer costs more than it saves


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["token_rw", "position_rw", "branch_rw", "fork_rw", "form_rw", "length_r"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class Packed:
    """Tokens of several forks of each row, one fork after another; all int32.

    Attributes:
      token_rw: token ids; what lies beyond `length_r` is padding.
      position_rw: depth of each token in its branch, for rope and sliding windows.
      branch_rw: which of the row's paths the token continues.
      fork_rw: tokens of different forks do not see each other.
      form_rw: 0 for the trunk of a fork; the twigs 1, 2, ... of a fork see its trunk and themselves only.
      length_r: number of tokens of each row.
    """

    token_rw: jax.Array
    position_rw: jax.Array
    branch_rw: jax.Array
    fork_rw: jax.Array
    form_rw: jax.Array
    length_r: jax.Array


def over_layers(stacked: bool, function, *caches):
    """Applies `function` to the entries of one layer after another: a loop over tuples, or a scan over a
    stack.
    """
    if stacked:
        return lax.scan(lambda _, entries: (None, function(*entries)), None, caches)[1]
    return tuple(function(*entries) for entries in zip(*caches))


def empty_cache(config, stacked: bool, leading: tuple[int, ...], columns: int, dtype):
    """Zero keys and values, `leading + (g, columns, e)` for each layer."""
    shape = (*leading, config.num_kv_heads, columns, config.head_dim)
    if stacked:
        shape = (config.num_layers, *shape)
        return jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)
    return tuple((jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)) for _ in range(config.num_layers))


def columns(cache) -> int:
    """Capacity of a cache in tokens."""
    return jax.tree.leaves(cache)[0].shape[-2]


def _gather(parts, query, key, value, seen, keys_of, values_of):
    """Softmax attention over one more part of the keys.

    Args:
      parts: `(greatest logit, sum of weights, weighted sum of values)` over the parts so far, float32; None
        before the first. The weights are relative to the greatest logit.
      keys_of, values_of: the two products, as `einsum` names them.
    """
    logits = jnp.where(seen, jnp.einsum(keys_of, query, key, preferred_element_type=jnp.float32), MASKED)
    top = logits.max(-1, keepdims=True)
    if parts is not None:
        top = jnp.maximum(top, parts[0])
    weight = jnp.exp(logits - top)
    total = weight.sum(-1, keepdims=True)
    out = jnp.einsum(values_of, weight.astype(value.dtype), value, preferred_element_type=jnp.float32)
    if parts is not None:
        fade = jnp.exp(parts[0] - top)
        total, out = total + fade * parts[1], out + fade * parts[2]
    return top, total, out


def _gather_pool(parts, query, pool, used, whole: bool, seen):
    """`_gather` over the first `used` columns of a pool, a block at a time; the rest is not read.

    Args:
      query: [n, c, g, m, e].
      whole: all columns at once.
      seen: `seen(start, width)`, the columns from `start` on that a query sees, broadcast to [n, g, m, c, s].
    """
    keys_of, values_of = "ncgme,ngse->ngmcs", "ngmcs,ngse->ngmce"
    width = columns(pool)
    block = width if whole else min(width, max(LEAST_BLOCK, width // 8))
    if block == width:
        return _gather(parts, query, *pool, seen(0, width), keys_of, values_of)

    def one(index, parts):
        start = jnp.minimum(index * block, width - block)
        key, value = (lax.dynamic_slice_in_dim(x, start, block, 2) for x in pool)
        fresh_s = start + jnp.arange(block) >= index * block  # the last block overlaps the one before
        return _gather(parts, query, key, value, seen(start, block) & fresh_s, keys_of, values_of)

    return lax.fori_loop(0, (used + block - 1) // block, one, parts)


def _used(mask_nbs):
    """One more than the greatest column in any mask."""
    return jnp.where(mask_nbs.any((0, 1)), jnp.arange(1, mask_nbs.shape[2] + 1), 0).max()


def _grouped(query, num_kv_heads):
    """[..., h, e] -> [..., g, m, e], scaled by 1 / sqrt(e)."""
    *lead, heads, width = query.shape
    return (query * (width**-0.5)).reshape(*lead, num_kv_heads, heads // num_kv_heads, width)


def decode_attention(
    column, view_nbs, depth_ns, position_nq, written_nqt, local_position_nqt, *, whole: bool = False
):
    """The `attend` of one decoded token for every query row.

    Args:
      column: ring-buffer column that this token writes, int32 scalar.
      view_nbs: pool columns that the rows of a branch see. Rows are ordered by branch: q = b * p.
      depth_ns: depth of the token in each pool column (for sliding windows).
      position_nq: depth of the new token.
      written_nqt: ring-buffer columns that a row sees, this token's included.
      local_position_nqt: depth of the token in each ring-buffer column.
      whole: read the pool as a whole, because its columns lie over several devices; else no more of it than
        some branch sees.

    Returns:
      A function for `Decoder.run_layers` whose cache entry of a layer is `(pool, local)`, with pool keys `[n,
      g, s, e]` and local keys `[n, q, g, t, e]`, and which returns the new local entry.
    """
    num_branches = view_nbs.shape[1]
    used = _used(view_nbs)

    def attend(query_nqhe, key_nqge, value_nqge, cache, window):
        pool, (local_key, local_value) = cache
        local_key = lax.dynamic_update_slice_in_dim(
            local_key, key_nqge[:, :, :, None].astype(local_key.dtype), column, 3
        )
        local_value = lax.dynamic_update_slice_in_dim(
            local_value, value_nqge[:, :, :, None].astype(local_value.dtype), column, 3
        )
        query = _grouped(query_nqhe, key_nqge.shape[2])
        per_branch = query.shape[1] // num_branches

        def seen(start, width):
            view_nqs = jnp.repeat(lax.dynamic_slice_in_dim(view_nbs, start, width, 2), per_branch, axis=1)
            if window is not None:
                depth_ns1 = lax.dynamic_slice_in_dim(depth_ns, start, width, 1)[:, None]
                view_nqs &= position_nq[..., None] - depth_ns1 < window
            return view_nqs[:, None, None]

        near = written_nqt
        if window is not None:
            near = written_nqt & (position_nq[..., None] - local_position_nqt < window)
        top, total, out = _gather(
            None,
            query,
            local_key,
            local_value,
            near[:, :, None, None],
            "nqgme,nqgte->nqgmt",
            "nqgmt,nqgte->nqgme",
        )
        parts = tuple(jnp.moveaxis(x, 1, 3) for x in (top, total, out))
        _, total, out = _gather_pool(parts, query, pool, used, whole, seen)
        out = jnp.moveaxis(out / total, 3, 1).astype(query.dtype)
        return out.reshape(query_nqhe.shape), (local_key, local_value)

    return attend


def _fork_attention(
    start, near, span, path_rcs, own_rcw, depth_rs, position_rc, position_rw, used, whole: bool
):
    """The `attend` of one chunk of packed forks; a layer's cache entry is `(pool rows, scratch)`.

    The chunk is written to the scratch's columns from `start` on and sees `span` of them from `near` on;
    masks and positions with the letter w are those of these columns.
    """

    def attend(query_rche, key_rcge, value_rcge, cache, window):
        pool, (scratch_key, scratch_value) = cache
        scratch_key = lax.dynamic_update_slice_in_dim(
            scratch_key, key_rcge.swapaxes(1, 2).astype(scratch_key.dtype), start, 2
        )
        scratch_value = lax.dynamic_update_slice_in_dim(
            scratch_value, value_rcge.swapaxes(1, 2).astype(scratch_value.dtype), start, 2
        )
        own_key = lax.dynamic_slice_in_dim(scratch_key, near, span, 2)
        own_value = lax.dynamic_slice_in_dim(scratch_value, near, span, 2)
        query = _grouped(query_rche, key_rcge.shape[2])

        def seen(first, width):
            path_rcs_ = lax.dynamic_slice_in_dim(path_rcs, first, width, 2)
            if window is not None:
                depth_r1s = lax.dynamic_slice_in_dim(depth_rs, first, width, 1)[:, None]
                path_rcs_ &= position_rc[..., None] - depth_r1s < window
            return path_rcs_[:, None, None]

        own = own_rcw
        if window is not None:
            own = own & (position_rc[..., None] - position_rw[:, None] < window)
        parts = _gather(
            None, query, own_key, own_value, own[:, None, None], "rcgme,rgwe->rgmcw", "rgmcw,rgwe->rgmce"
        )
        _, total, out = _gather_pool(parts, query, pool, used, whole, seen)
        out = jnp.moveaxis(out / total, 3, 1).astype(query.dtype)
        return out.reshape(query_rche.shape), (scratch_key, scratch_value)

    return attend


def extend(
    model,
    pool_rows,
    path_rbs,
    depth_rs,
    packed: Packed,
    *,
    chunk: int,
    reach: int | None = None,
    whole: bool = False,
):
    """Runs packed forks of the rows' prefix trees through the decoder, `chunk` tokens of each row at a time.

    As many chunks run as the longest row needs, so cost follows the number of tokens and not the capacity w.

    Args:
      model: the decoder.
      pool_rows: keys and values of the rows' pools, `[r, g, s, e]` a layer. They are only read.
      path_rbs: the columns of each branch.
      depth_rs: depth of the token in each column.
      packed: the tokens; w must be a multiple of `chunk`.
      reach: most tokens from a fork's first to its last, if its tokens lie together; attention then reads
        only so much of the scratch. By default all of it.
      whole: as in `decode_attention`.

    Returns:
      The scratch cache `[r, g, w, e]` a layer with the keys and values of all tokens, and the final hidden
      states `[r, w, d]`. What lies beyond `packed.length_r` is undefined.
    """
    rows, width = packed.token_rw.shape
    if width % chunk:
        raise ValueError(f"the packed width {width} is not a multiple of the chunk of {chunk} tokens")
    dtype = jax.tree.leaves(pool_rows)[0].dtype
    scratch = empty_cache(model.config, model.is_stacked, (rows,), width, dtype)
    hidden_rwd = jnp.zeros((rows, width, model.config.hidden_size), dtype)
    span = width if reach is None else min(width, chunk + reach)
    used = _used(path_rbs)

    def run_chunk(index, carry):
        scratch, hidden_rwd = carry
        start = index * chunk
        near = jnp.clip(start + chunk - span, 0, width - span)
        cut = functools.partial(lax.dynamic_slice_in_dim, start_index=start, slice_size=chunk, axis=1)
        around = functools.partial(lax.dynamic_slice_in_dim, start_index=near, slice_size=span, axis=1)
        token_rc, position_rc, fork_rc, form_rc = map(
            cut, (packed.token_rw, packed.position_rw, packed.fork_rw, packed.form_rw)
        )
        path_rcs = jnp.take_along_axis(path_rbs, cut(packed.branch_rw)[..., None], axis=1)
        earlier_cw = (near + jnp.arange(span))[None] <= (start + jnp.arange(chunk))[:, None]
        form_r1w = around(packed.form_rw)[:, None]
        own_rcw = (
            earlier_cw
            & (around(packed.fork_rw)[:, None] == fork_rc[..., None])
            & ((form_r1w == 0) | (form_r1w == form_rc[..., None]))
        )
        attend = _fork_attention(
            start,
            near,
            span,
            path_rcs,
            own_rcw,
            depth_rs,
            position_rc,
            around(packed.position_rw),
            used,
            whole,
        )
        cache = (pool_rows, scratch) if model.is_stacked else tuple(zip(pool_rows, scratch))
        x_rcd, scratch = model.run_layers(model.embed_tokens(token_rc), position_rc, attend, cache)
        return scratch, lax.dynamic_update_slice_in_dim(hidden_rwd, x_rcd.astype(dtype), start, 1)

    chunks = (packed.length_r.max() + chunk - 1) // chunk
    return lax.fori_loop(0, chunks, run_chunk, (scratch, hidden_rwd))


def commit(stacked: bool, pool, scratch, slot_r, source_rw, cursor_r, length_r, *, chunk: int, write):
    """Moves scratch columns `source_rw[:, :length]` into the pool's columns from `cursor_r` on, a chunk at a
    time.

    The last chunk of a row may write up to `chunk - 1` columns of no meaning behind its end, so pools keep a
    tail of `chunk` spare columns; a row that has finished writes into that tail.

    Args:
      write: `write(pool_ngse, slot_r, start_r, new_rgce) -> pool_ngse`, which knows how slots lie on the
        mesh.
    """
    spare = columns(pool) - chunk

    def move_chunk(index, pool):
        offset = index * chunk
        start_r = jnp.where(offset < length_r, cursor_r + offset, spare)
        index_rc = lax.dynamic_slice_in_dim(source_rw, offset, chunk, 1)

        def move(pool_layer, scratch_layer):
            return tuple(
                write(old, slot_r, start_r, jnp.take_along_axis(new, index_rc[:, None, :, None], axis=2))
                for old, new in zip(pool_layer, scratch_layer)
            )

        return over_layers(stacked, move, pool, scratch)

    return lax.fori_loop(0, (length_r.max() + chunk - 1) // chunk, move_chunk, pool)
