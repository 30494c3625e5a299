"""The answer: the writer of the winner's last step continues after `</think>` until EOS (design, section
3.9).

An answer may be longer than a row's ring. It is then written in pieces: a full ring is committed to the pool
of the reader that writes it, and the row goes on.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from cord_jax import commits, packing, proposals, readers, slots
from cord_jax.commits import Chosen
from cord_jax.control import when
from cord_jax.readers import ReaderConstants
from cord_jax.state import DONE, SearchPlan, SearchState, start_rows


@jax.named_scope("answer")
def settle_answers(
    plan: SearchPlan, constants: tuple[ReaderConstants, ...], state: SearchState, ready_n
) -> SearchState:
    """Takes over what answering rows have written; a row whose ring is full commits its piece and goes on.
    Of one shard.
    """
    shards = plan.shards
    slot_r = slots.choose(ready_n.astype(jnp.int32), shards.rows)
    take = functools.partial(slots.take, slot_r=slot_r)
    valid_r = take(ready_n)
    writer_r, had_r = take(state.writer_n), take(state.answer_count_n)
    ring = plan.max_step_tokens
    piece_rt = jnp.zeros((slot_r.shape[0], ring), jnp.int32)
    count_r, stopped_r = jnp.zeros_like(had_r), jnp.zeros_like(had_r)
    for reader, s in zip(plan.readers, state.readers):
        if s.rows is None:
            continue
        mine = jax.tree.map(take, dataclasses.replace(s.rows, local=()))
        token_rqt = proposals.sampled_tokens(mine)
        for place, proposer in enumerate(reader.proposers):  # rows of beam 0 come first
            is_writer_r = writer_r == proposer
            piece_rt = jnp.where(is_writer_r[:, None], token_rqt[:, place], piece_rt)
            count_r = jnp.where(is_writer_r, mine.count_nq[:, place], count_r)
            stopped_r = jnp.where(is_writer_r, mine.stopped_nq[:, place], stopped_r)
    total_r = had_r + count_r
    done_r = (stopped_r == readers.EOS) | (total_r >= plan.max_answer_tokens)
    place_ru = jnp.arange(state.answer_nu.shape[1]) - had_r[:, None]
    new_ru = (place_ru >= 0) & (place_ru < count_r[:, None])
    answer_ru = jnp.where(
        new_ru, packing.pick(piece_rt, jnp.clip(place_ru, 0, ring - 1)), take(state.answer_nu)
    )
    taken = dict(
        answer_nu=slots.put(state.answer_nu, slot_r, valid_r, answer_ru),
        answer_count_n=slots.put(state.answer_count_n, slot_r, valid_r, total_r),
        phase_n=slots.put(state.phase_n, slot_r, valid_r & done_r, jnp.full_like(had_r, DONE)),
    )
    if plan.max_answer_tokens <= ring:  # a row ends within its ring
        return dataclasses.replace(state, **taken)
    going_on_r = valid_r & ~done_r
    chosen = [
        _piece(plan, reader, slot_r, going_on_r, writer_r, piece_rt, count_r) for reader in plan.readers
    ]
    rooms = [
        commits.room(s, c, c.length_rb.sum(1), reader.blocks)
        for reader, s, c in zip(plan.readers, state.readers, chosen)
    ]
    short = jnp.stack([(c.valid_r & ~fits).any() for c, (_, fits) in zip(chosen, rooms)])
    # Without room nothing is taken over, until the host has made some.
    stalled = shards.agreed(short.any())
    taken = {name: jnp.where(stalled, getattr(state, name), new) for name, new in taken.items()}
    state = dataclasses.replace(state, **taken, short_yx=state.short_yx | short)

    def go_on(state: SearchState) -> SearchState:
        new_readers = []
        for index, (reader, k, s, c, (compacts_r, _)) in enumerate(
            zip(plan.readers, constants, state.readers, chosen, rooms)
        ):
            if s.rows is not None:
                s = commits.compact(reader.stacked, s, shards, c, c.valid_r & compacts_r)
                s, full_rbs = commits.append(reader, k, s, shards, c, chunk=plan.chunk, only_first=True)
                limit_rb = jnp.minimum(ring, plan.max_answer_tokens - total_r)[:, None] + jnp.zeros_like(
                    c.length_rb
                )
                s = start_rows(
                    plan,
                    index,
                    s,
                    slot_r,
                    c.valid_r,
                    full_rbs,
                    jnp.zeros_like(c.length_rb, bool),
                    limit_rb,
                    jnp.zeros_like(had_r),
                    take(state.key_n2),
                    total_r,
                    c.valid_r,
                    writer_r,
                )
            new_readers.append(s)
        return dataclasses.replace(state, readers=tuple(new_readers))

    return when(shards.agreed(~stalled & going_on_r.any()), go_on, state)


def _piece(plan, reader, slot_r, going_on_r, writer_r, piece_rt, count_r) -> Chosen:
    """A full ring of answer tokens as what beam 0 commits, in the reader that writes it."""
    mine_r = going_on_r & jnp.isin(writer_r, np.asarray(reader.proposers, np.int32))
    shape = (slot_r.shape[0], plan.num_beams)
    return Chosen(
        slot_r=slot_r,
        valid_r=mine_r,
        parent_rb=jnp.zeros(shape, jnp.int32),
        length_rb=jnp.where(mine_r[:, None] & (jnp.arange(plan.num_beams) == 0), count_r[:, None], 0),
        token_rbt=jnp.broadcast_to(piece_rt[:, None], (*shape, piece_rt.shape[1])),
        cue_rb=jnp.full(shape, -1, jnp.int32),
        permanent_r=jnp.ones_like(mine_r),
    )
