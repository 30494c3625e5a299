"""The answer: the writer of the winner's last step continues after `</think>` until EOS (method, section 3.9).

An answer may be longer than what a row may write between two commits. It is then written in pieces: a full piece is
committed to the KV cache of the reader that writes it, and the row goes on.
"""

import dataclasses

import jax
import jax.numpy as jnp

from cord_jax.search import packing, proposals, readers
from cord_jax.search.commits import Branches, Chosen
from cord_jax.search.slots import SubBatch
from cord_jax.search.state import ANSWERING, DONE, SearchPlan, SearchState
from cord_jax.search.tasks import Start, Task


def answer_task(plan: SearchPlan, state: SearchState, batch: SubBatch) -> Task:
    """Takes over what answering rows have written; a row that has written as much as it may commits it and goes on."""
    answer = jax.tree.map(batch.take, state.answer)
    writer_r, had_r = answer.writer_n, answer.count_n
    piece, rows = plan.max_step_tokens, len(writer_r)
    piece_rt = jnp.zeros((rows, piece), jnp.int32)
    count_r, stopped_r = jnp.zeros_like(had_r), jnp.zeros_like(had_r)
    for reader, s in zip(plan.readers, state.readers):
        if s.rows is None:
            continue
        mine = jax.tree.map(batch.take, s.rows.small())
        token_rqt = proposals.sampled_tokens(mine)
        for place, proposer in enumerate(reader.proposers):  # rows of place 0 come first
            is_writer_r = writer_r == proposer
            piece_rt = jnp.where(is_writer_r[:, None], token_rqt[:, place], piece_rt)
            count_r = jnp.where(is_writer_r, mine.count_nq[:, place], count_r)
            stopped_r = jnp.where(is_writer_r, mine.stopped_nq[:, place], stopped_r)
    total_r = had_r + count_r
    done_r = (stopped_r == readers.EOS) | (total_r >= plan.max_answer_tokens)
    place_ra = jnp.arange(answer.token_na.shape[1]) - had_r[:, None]
    new_ra = (place_ra >= 0) & (place_ra < count_r[:, None])
    token_ra = jnp.where(new_ra, packing.pick(piece_rt, jnp.clip(place_ra, 0, piece - 1)), answer.token_na)
    zeros_rb = jnp.zeros((rows, plan.places), jnp.int32)
    first_b = jnp.arange(plan.places) == 0
    most = min(piece, plan.max_answer_tokens)
    token_rt = jnp.pad(piece_rt[:, :most], ((0, 0), (0, plan.read_width - most)))
    chosen = []
    for reader in plan.readers:
        mine_r = ~done_r & reader.writes(writer_r)
        chosen.append(
            Chosen(
                length_rb=jnp.where(mine_r[:, None] & first_b, count_r[:, None], 0),
                token_rbt=jnp.broadcast_to(token_rt[:, None], (*zeros_rb.shape, plan.read_width)),
                cue_rb=zeros_rb - 1,
                permanent_r=jnp.zeros_like(done_r),
                shared_r=jnp.zeros_like(done_r),
            )
        )
    start = Start(
        open_rb=jnp.zeros_like(zeros_rb, bool),
        limit_rb=zeros_rb + jnp.minimum(piece, plan.max_answer_tokens - total_r)[:, None],
        step_rb=zeros_rb,
        label_rb=zeros_rb,
        drawn_r=total_r,
        answering_r=~done_r,
        writer_r=writer_r,
    )
    # The winner alone matters, and what is committed of its answer belongs to its node.
    frontier = jax.tree.map(batch.take, state.frontier)
    branches = Branches(frontier.node_nb, frontier.lineage_nbi, frontier.lineage_nbi[:, 0])
    clock = jax.tree.map(batch.take, state.clock)
    updates = dict(
        answer=dataclasses.replace(answer, token_na=token_ra, count_n=total_r),
        clock=dataclasses.replace(
            clock, phase_n=jnp.where(done_r, DONE, ANSWERING), waited_n=jnp.zeros_like(had_r)
        ),
    )
    return Task(tuple(chosen), branches, start, updates)
