"""Proposing: every proposer writes its next step, one token a row and tick, without contact with the host.

The loop stops when no row is inside a proposal any more or after a quantum of tokens. Rows whose problem still waits
for others stand still, and a problem whose proposals are long goes on in the next round (method, section 4).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cord_jax.search import readers
from cord_jax.search.readers import ReaderConstants, ReaderPlan, ReaderState, Rows
from cord_jax.search.sampling import sample
from cord_jax.search.shards import Shards
from models.attention.prefix_tree import NewTokens


@dataclasses.dataclass(frozen=True)
class Line:
    """The rows of all slots in a line, as [1, p], perhaps in another order.

    Attributes:
      order_p: int32, the row at each place; None for that of slots.
      place_p: int32, the place of each row.
      shape: of slots and rows, (n, q).
    """

    order_p: jax.Array | None
    place_p: jax.Array | None
    shape: tuple[int, int]

    @classmethod
    def of_running_first(cls, running_nq) -> "Line":
        """Those that run come first."""
        order_p = jnp.argsort(~running_nq.reshape(-1), stable=True).astype(jnp.int32)
        return cls(order_p, jnp.argsort(order_p).astype(jnp.int32), running_nq.shape)

    def up(self, x_nq):
        """Rows [n, q, ...] in a line."""
        x_p = x_nq.reshape(-1, *x_nq.shape[2:])
        return (x_p if self.order_p is None else x_p[self.order_p])[None]

    def back(self, x_1p):
        """The counterpart of `up`."""
        x_p = x_1p[0] if self.place_p is None else x_1p[0][self.place_p]
        return x_p.reshape(*self.shape, *x_p.shape[1:])


@jax.named_scope("propose")
def propose(
    plan: ReaderPlan, shards: Shards, constants: ReaderConstants, state: ReaderState, quantum
) -> tuple[ReaderState, object]:
    """Decodes up to `quantum` tokens for all running rows of a reader, on one shard.

    Returns:
      The state, and the number of ticks that ran (int32 scalar).
    """
    model = readers.decoder(plan, constants)
    ring = state.rows.token_nqt.shape[2]
    column_t = jnp.arange(ring)
    num_slots, num_rows = state.rows.count_nq.shape
    branch_q = np.arange(num_rows) // len(plan.proposers)
    branch_nq = jnp.broadcast_to(branch_q, (num_slots, num_rows))
    slot_n = jnp.arange(num_slots, dtype=jnp.int32)
    busy_nq = state.rows.running_nq
    attention = plan.execution.tree
    masks = attention.masks(plan.blocks, state.view_nbs, branch_nq, state.depth_ns, slot_n, busy_nq)

    def goes_on(done, rows):
        return shards.agreed((done < quantum) & rows.running_nq.any())

    def tick(carry):
        done, column, rows, _ = carry
        running = rows.running_nq
        age_nqt = (column_t - rows.start_nq[..., None]) % ring
        position_nq = rows.position_nq + rows.count_nq
        new = NewTokens(
            column=column,
            position_nq=position_nq,
            written_nqt=age_nqt <= rows.count_nq[..., None],
            depth_nqt=rows.position_nq[..., None] + age_nqt,
            running_nq=running,
        )
        attend = attention.decode(masks, new)
        (token_nq, log_probability_nq), local = _next_tokens(
            plan, constants, model, state.pool, rows, position_nq, attend
        )
        count_nq = rows.count_nq + running
        token_class = constants.token_class_v[token_nq]
        boundary_nq = jnp.where(running, constants.table_uc[rows.boundary_nq, token_class], rows.boundary_nq)
        stopped_nq = jnp.where(count_nq >= rows.limit_nq, readers.LIMIT, 0)
        stopped_nq = jnp.where(constants.done_u[boundary_nq], readers.BOUNDARY, stopped_nq)
        stopped_nq = jnp.where(constants.eos_v[token_nq], readers.EOS, stopped_nq)
        stopped_nq = jnp.where(running, stopped_nq, rows.stopped_nq)
        if log_probability_nq is not None:
            counts_nq = running & (stopped_nq != readers.BOUNDARY) & (stopped_nq != readers.EOS)
            log_probability_nq = rows.log_probability_nq + jnp.where(counts_nq, log_probability_nq, 0.0)
        # A row that stands still keeps its tokens: the ring column that others write is not its own to
        # overwrite.
        kept_nq1 = lax.dynamic_slice_in_dim(rows.token_nqt, column, 1, 2)
        written_nq1 = jnp.where(running[..., None], token_nq[..., None], kept_nq1)
        rows = dataclasses.replace(
            rows,
            local=local,
            token_nqt=lax.dynamic_update_slice_in_dim(rows.token_nqt, written_nq1, column, 2),
            feed_nq=jnp.where(running, token_nq, rows.feed_nq),
            count_nq=count_nq,
            boundary_nq=boundary_nq,
            stopped_nq=stopped_nq,
            running_nq=running & (stopped_nq == 0),
            log_probability_nq=log_probability_nq,
        )
        return done + 1, (column + 1) % ring, rows, goes_on(done + 1, rows)

    start = jnp.int32(0), state.tick_y[0], state.rows, goes_on(0, state.rows)
    ticks, column, rows, _ = lax.while_loop(lambda carry: carry[3], tick, start)
    return dataclasses.replace(state, tick_y=column[None], rows=rows), ticks


def _next_tokens(
    plan: ReaderPlan, constants: ReaderConstants, model, pool, rows: Rows, position_nq, attend
) -> tuple[tuple[jax.Array, jax.Array | None], object]:
    """The token that each row writes, int32 [n, q], and the rings with what was fed before it.

    With the token comes its log-probability, float32 [n, q], where the rows add it up: over the ids that the tokenizer
    defines, before temperature and filters.
    """
    running = rows.running_nq
    line = Line(None, None, running.shape)
    if plan.execution.skips_rows:
        line = Line.of_running_first(running)
    per_row = plan.execution.per_row(running.sum())

    def attend_in_line(query_1phe, key_1pge, value_1pge, cache, window):
        out_nqhe, rings = attend(*map(line.back, (query_1phe, key_1pge, value_1pge)), cache, window)
        return line.up(out_nqhe), rings

    x_1pd = model.embed_tokens(line.up(rows.feed_nq))
    x_1pd, local = model.run_layers(
        x_1pd, line.up(position_nq), attend_in_line, pool, rows.local, per_row=per_row
    )

    def draw(x_1pd, *of_row_1p):
        logits_pv = jnp.where(constants.defined_v, model.unembed(x_1pd[0]), -jnp.inf)
        of_row_p = [x_1p[0] for x_1p in of_row_1p]
        token_p = sample(logits_pv, *of_row_p, plan.sampling, plan.execution.argmax)
        if rows.log_probability_nq is None:
            return token_p[None], None
        log_probability_pv = jax.nn.log_softmax(logits_pv, axis=-1)
        return token_p[None], jnp.take_along_axis(log_probability_pv, token_p[:, None], axis=1)[:, 0][None]

    proposer_q = np.arange(running.shape[1], dtype=np.int32) % len(plan.proposers)
    of_row_nq = (
        rows.key_nq2,
        rows.drawn_nq + rows.count_nq,
        jnp.broadcast_to(proposer_q, running.shape),
    )
    drawn = per_row(draw, x_1pd, *map(line.up, of_row_nq))
    return jax.tree.map(line.back, drawn), local


def sampled_tokens(rows: Rows):
    """The rows' tokens in the order in which they were sampled, int32 [n, q, t]; what lies beyond the count is stale."""
    ring = rows.token_nqt.shape[2]
    index_nqt = (rows.start_nq[..., None] + jnp.arange(ring)) % ring
    return jnp.take_along_axis(rows.token_nqt, index_nqt, axis=2)
