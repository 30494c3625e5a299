"""The selector `max_length`: the longest reasoning (paper, "selection criteria"; method, section 3.13)."""

import dataclasses

import jax.numpy as jnp

from cord_jax.search.scorers import Scorer, Scores
from cord_jax.search.tree import of_node


@dataclasses.dataclass(frozen=True)
class MaxLength(Scorer):
    """Counts the meta-prover's tokens of the reasoning with the candidate's step."""

    def __call__(self, plan, constants, state, batch, candidates):
        """Scores as `Scorer` says."""
        place_j = jnp.arange(plan.candidates) // plan.num_proposers
        thinking_rb = of_node(batch.take(state.tree.thinking_nmj), batch.take(state.frontier.node_nb))
        tokens_rj = candidates.length_urj[plan.readers[plan.meta].vocabulary]
        return Scores((thinking_rb[:, place_j] + tokens_rj).astype(jnp.float32))


def scorer(config) -> MaxLength:
    """The scorer of a run; it has no settings of its own."""
    return MaxLength()
