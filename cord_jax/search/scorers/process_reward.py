"""The selector `process_reward`: a process reward model reads every step (paper, "selection criteria"; method, section 3.13).

The reward model is one more reader: steps are committed to its own KV cache, so that each is read once. A step's reward is
the probability of class 1 at the separator behind it.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from cord_jax.config import SynthesisConfig
from cord_jax.search import packing, readers
from cord_jax.search.commits import Passage
from cord_jax.search.jax_tools import axes, pytree
from cord_jax.search.packing import Forks
from cord_jax.search.scorers import Scorer, Scores
from cord_jax.search.tree import at_round, of_node
from models.prefill import prefill


@pytree
class Rewards:
    """The rewards of the steps from the root to each node, taken together.

    Attributes:
      value_nmj: float32, the last, the least, the sum or the product of them.
      count_nmj: int32, how many there are: a step without text has none.
    """

    value_nmj: jax.Array = axes("slot", "round", "candidate")
    count_nmj: jax.Array = axes("slot", "round", "candidate")


@dataclasses.dataclass(frozen=True)
class ProcessReward(Scorer):
    """The reward of a reasoning.

    Attributes:
      reward_of: "last", "min", "mean" or "product" of its steps' rewards.
    """

    reward_of: str
    needs_reward_model = True
    # Rewards of earlier steps are asked for again, and no journal has them.
    scores_replayed = True

    def empty_memory(self, slots: int, rounds: int, candidates: int) -> Rewards:
        """No rewards."""
        shape = (slots, rounds, candidates)
        return Rewards(jnp.zeros(shape), jnp.zeros(shape, jnp.int32))

    @jax.named_scope("reward")
    def __call__(self, plan, constants, state, batch, candidates):
        """Scores as `Scorer` says."""
        reader, s, k = plan.readers[plan.reward], state.readers[plan.reward], constants[plan.reward]
        place_j = np.arange(plan.candidates) // plan.num_proposers
        valid_rj = candidates.remaining(batch)
        token_rjt = candidates.token_urjt[reader.vocabulary]
        length_rj = jnp.where(valid_rj, candidates.length_urj[reader.vocabulary], 0)
        nothing_rj1 = jnp.zeros((*valid_rj.shape, 1), jnp.int32)
        forks = Forks(
            token_rxt=token_rjt,
            length_rx=length_rj,
            base_rx=batch.take(s.length_nb)[:, place_j],
            branch_rx=jnp.broadcast_to(place_j.astype(np.int32), valid_rj.shape),
            tail_rxa=nothing_rj1,
            tail_length_rx=nothing_rj1[..., 0],
            form_rxa=nothing_rj1,
            offset_rxa=nothing_rj1,
        )
        packed, start_rj = packing.pack(forks, plan.shards, reader.execution)
        model, tree = readers.decoder(reader, k), s.tree(batch, batch.take(s.path_nbs))
        scratch, hidden_wd = prefill(model, tree, packed, reader.execution)
        reward_w = jax.nn.softmax(model.score(hidden_wd), axis=-1)[:, 1]
        offset_t = jnp.arange(token_rjt.shape[2])
        place_rjt = jnp.minimum(start_rj[..., None] + offset_t, len(reward_w) - 1)
        ends_rjt = (token_rjt == plan.reward_separator) & (offset_t < length_rj[..., None])
        take = functools.partial(jax.tree.map, batch.take)
        memory, node_rb = take(state.scorer_memory), batch.take(state.frontier.node_nb)
        parent_rj = node_rb[:, place_j]
        before_rj = of_node(memory.value_nmj, parent_rj), of_node(memory.count_nmj, parent_rj)
        value_rj, count_rj = self._together(*before_rj, reward_w[place_rjt], ends_rjt)
        number_r = batch.take(state.progress.round_n)
        memory = Rewards(
            at_round(memory.value_nmj, number_r, value_rj), at_round(memory.count_nmj, number_r, count_rj)
        )
        score_rj = value_rj / jnp.maximum(count_rj, 1) if self.reward_of == "mean" else value_rj
        return Scores(score_rj, {plan.reward: Passage(packed, scratch, start_rj)}, memory)

    def _together(self, value_rj, count_rj, reward_rjt, ends_rjt):
        """The rewards of a reasoning with those of a candidate's steps, and how many they are."""
        more_rj = ends_rjt.sum(-1, dtype=jnp.int32)
        match self.reward_of:
            case "last":
                last_rj = jnp.where(ends_rjt, jnp.arange(ends_rjt.shape[-1]), 0).max(-1)
                new_rj = jnp.take_along_axis(reward_rjt, last_rj[..., None], axis=2)[..., 0]
                value_rj = jnp.where(more_rj > 0, new_rj, value_rj)
            case "min":
                new_rj = jnp.where(ends_rjt, reward_rjt, jnp.inf).min(-1)
                value_rj = jnp.minimum(jnp.where(count_rj > 0, value_rj, jnp.inf), new_rj)
            case "mean":
                value_rj = value_rj + jnp.where(ends_rjt, reward_rjt, 0.0).sum(-1)
            case "product":
                value_rj = jnp.where(count_rj > 0, value_rj, 1.0) * jnp.where(ends_rjt, reward_rjt, 1.0).prod(
                    -1
                )
        return value_rj, count_rj + more_rj


def scorer(config: SynthesisConfig) -> ProcessReward:
    """The scorer of a run; `config` is resolved."""
    return ProcessReward(config.reward_of)
