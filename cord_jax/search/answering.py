"""The answer: the writer of the winner's last step continues after `</think>` until EOS (design, section
3.9).

An answer may be longer than a row's ring. It is then written in pieces: a full ring is committed to the pool
of the reader that writes it, and the row goes on.
"""

import jax
import jax.numpy as jnp
import numpy as np

from cord_jax.search import packing, proposals, readers
from cord_jax.search.commits import Chosen
from cord_jax.search.slots import SubBatch
from cord_jax.search.state import ANSWERING, DONE, SearchPlan, SearchState
from cord_jax.search.tasks import Start, Task


def answer_task(plan: SearchPlan, state: SearchState, batch: SubBatch) -> Task:
    """Takes over what answering rows have written; a row whose ring is full commits its piece and goes on."""
    writer_r, had_r = batch.take(state.writer_n), batch.take(state.answer_count_n)
    ring, rows = plan.max_step_tokens, len(writer_r)
    piece_rt = jnp.zeros((rows, ring), jnp.int32)
    count_r, stopped_r = jnp.zeros_like(had_r), jnp.zeros_like(had_r)
    for reader, s in zip(plan.readers, state.readers):
        if s.rows is None:
            continue
        mine = jax.tree.map(batch.take, s.rows.small())
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
        new_ru, packing.pick(piece_rt, jnp.clip(place_ru, 0, ring - 1)), batch.take(state.answer_nu)
    )
    zeros_rb = jnp.zeros((rows, plan.num_beams), jnp.int32)
    first_b = jnp.arange(plan.num_beams) == 0
    most = min(ring, plan.max_answer_tokens)
    token_rt = jnp.pad(piece_rt[:, :most], ((0, 0), (0, plan.read_width - most)))
    chosen = []
    for reader in plan.readers:
        mine_r = ~done_r & jnp.isin(writer_r, np.asarray(reader.proposers, np.int32))
        chosen.append(
            Chosen(
                parent_rb=zeros_rb,
                length_rb=jnp.where(mine_r[:, None] & first_b, count_r[:, None], 0),
                token_rbt=jnp.broadcast_to(token_rt[:, None], (*zeros_rb.shape, plan.read_width)),
                cue_rb=zeros_rb - 1,
                permanent_r=jnp.zeros_like(done_r),
                shared_r=jnp.zeros_like(done_r),
            )
        )
    start = Start(
        open_rb=jnp.zeros_like(zeros_rb, bool),
        limit_rb=zeros_rb + jnp.minimum(ring, plan.max_answer_tokens - total_r)[:, None],
        step_r=jnp.zeros_like(had_r),
        drawn_r=total_r,
        answering_r=~done_r,
        writer_r=writer_r,
    )
    updates = dict(
        answer_nu=answer_ru,
        answer_count_n=total_r,
        phase_n=jnp.where(done_r, DONE, ANSWERING),
        waited_n=jnp.zeros_like(had_r),
    )
    return Task(tuple(chosen), start, updates)
