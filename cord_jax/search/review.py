"""The review of a finished search: how predictable the gold answer, and wrong ones, are after the winner's reasoning.

It gives the winner's predictive perplexity where another selector has chosen it (method, section 3.13) and the scores of
decoys (section 3.18). Everything here is of one shard.
"""

import dataclasses

import jax
import jax.numpy as jnp

from cord_jax.search.commits import Branches, Chosen
from cord_jax.search.readers import ReaderConstants
from cord_jax.search.scorers.predictive_perplexity import Continuations, score_forms
from cord_jax.search.slots import SubBatch
from cord_jax.search.state import ANSWERING, DONE, SearchPlan, SearchState
from cord_jax.search.tasks import Start, Task


@jax.named_scope("review")
def review_task(
    plan: SearchPlan, constants: tuple[ReaderConstants, ...], state: SearchState, batch: SubBatch
) -> Task:
    """Scores the answers after the winners' reasoning; then the writers of their last steps begin the responses."""
    reader, s, k = plan.readers[plan.meta], state.readers[plan.meta], constants[plan.meta]
    zeros_r1 = jnp.zeros((len(batch.slot_r), 1), jnp.int32)
    nothing = Continuations(
        token_rjt=zeros_r1[..., None],
        length_rj=zeros_r1,
        base_rj=batch.take(s.length_nb)[:, :1],
        branch_rj=zeros_r1,
        valid_rj=batch.valid_r[:, None],
    )
    review = jax.tree.map(batch.take, state.review)
    tree = s.tree(batch, batch.take(s.path_nbs))
    score_fr1, _ = score_forms(reader, k, tree, review.closings, nothing, plan.shards, plan.review_forms)
    frontier, progress = (jax.tree.map(batch.take, part) for part in (state.frontier, state.progress))
    writer_r, answers_r = batch.take(state.answer.writer_n), progress.stuck_n < 0
    zeros_rb, first_b = jnp.zeros_like(frontier.node_nb), jnp.arange(plan.places) == 0
    chosen = []
    for reader in plan.readers:
        mine_r = answers_r & reader.writes(writer_r)
        chosen.append(
            Chosen(
                length_rb=zeros_rb,
                token_rbt=jnp.zeros((*zeros_rb.shape, plan.read_width), jnp.int32),
                cue_rb=jnp.where(mine_r[:, None] & first_b, 0, -1),
                permanent_r=mine_r,
                shared_r=jnp.zeros_like(mine_r),
            )
        )
    start = Start(
        open_rb=jnp.zeros_like(frontier.open_nb),
        limit_rb=zeros_rb + min(plan.max_step_tokens, plan.max_answer_tokens),
        step_rb=zeros_rb,
        label_rb=zeros_rb,
        drawn_r=jnp.zeros_like(writer_r),
        answering_r=answers_r,
        writer_r=writer_r,
    )
    clock = jax.tree.map(batch.take, state.clock)
    clock = dataclasses.replace(
        clock,
        phase_n=jnp.where(answers_r, ANSWERING, DONE),
        waited_n=jnp.zeros_like(clock.waited_n),
    )
    updates = dict(clock=clock, review=dataclasses.replace(review, score_nf=score_fr1[..., 0].T))
    branches = Branches(frontier.node_nb, frontier.lineage_nbi, frontier.lineage_nbi[:, 0])
    return Task(tuple(chosen), branches, start, updates)
