"""Proposing: every proposer writes its next step, one token a row and tick, without contact with the host.

The loop stops when no row is inside a proposal any more or after a quantum of tokens; rows whose problem
still waits for others stand still, and a problem whose proposals are long goes on in the next round (design,
section 4).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cord_jax import readers
from cord_jax.readers import ReaderConstants, ReaderPlan, ReaderState, Rows
from cord_jax.sampling import sample
from cord_jax.shards import Shards
from models.prefix_tree import decode_attention, view_of


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
    view = view_of(plan.attention, plan.blocks, state.view_nbs, branch_nq, state.depth_ns, slot_n, busy_nq)

    def goes_on(done, rows):
        return shards.agreed((done < quantum) & rows.running_nq.any())

    def tick(carry):
        done, column, rows, _ = carry
        age_nqt = (column_t - rows.start_nq[..., None]) % ring
        position_nq = rows.position_nq + rows.count_nq
        attend = decode_attention(
            view,
            column,
            position_nq,
            age_nqt <= rows.count_nq[..., None],
            rows.position_nq[..., None] + age_nqt,
            rows.running_nq.any(-1),
        )
        x_nqd = model.embed_tokens(rows.feed_nq)
        x_nqd, local = model.run_layers(x_nqd, position_nq, attend, state.pool, rows.local)
        logits_nqv = jnp.where(constants.defined_v, model.unembed(x_nqd), -jnp.inf)
        token_nq = sample(logits_nqv, rows.key_nq2, rows.drawn_nq + rows.count_nq, plan.sampling)

        running = rows.running_nq
        count_nq = rows.count_nq + running
        token_class = constants.token_class_v[token_nq]
        boundary_nq = jnp.where(running, constants.table_uc[rows.boundary_nq, token_class], rows.boundary_nq)
        stopped_nq = jnp.where(count_nq >= rows.limit_nq, readers.LIMIT, 0)
        stopped_nq = jnp.where(constants.done_u[boundary_nq], readers.BOUNDARY, stopped_nq)
        stopped_nq = jnp.where(constants.eos_v[token_nq], readers.EOS, stopped_nq)
        stopped_nq = jnp.where(running, stopped_nq, rows.stopped_nq)
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
        )
        return done + 1, (column + 1) % ring, rows, goes_on(done + 1, rows)

    start = jnp.int32(0), state.tick_y[0], state.rows, goes_on(0, state.rows)
    ticks, column, rows, _ = lax.while_loop(lambda carry: carry[3], tick, start)
    return dataclasses.replace(state, tick_y=column[None], rows=rows), ticks


def sampled_tokens(rows: Rows):
    """The rows' tokens in the order in which they were sampled, int32 [n, q, t]; what lies beyond the count
    is stale.
    """
    ring = rows.token_nqt.shape[2]
    index_nqt = (rows.start_nq[..., None] + jnp.arange(ring)) % ring
    return jnp.take_along_axis(rows.token_nqt, index_nqt, axis=2)
