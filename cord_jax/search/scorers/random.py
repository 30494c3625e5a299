"""The selector `random`: uniform draws (paper, "selection criteria"; method, section 3.13)."""

import dataclasses

import jax
import jax.numpy as jnp

from cord_jax.search.sampling import row_key
from cord_jax.search.scorers import Scorer, Scores
from cord_jax.search.tree import of_node


@dataclasses.dataclass(frozen=True)
class Random(Scorer):
    """Draws from [0, 1), by (seed, problem id, step, beam, proposer) alone."""

    def __call__(self, plan, constants, state, batch, candidates):
        """Scores as `Scorer` says."""
        place_j, proposer_j = jnp.divmod(jnp.arange(plan.candidates), plan.num_proposers)
        node_rb, label_rb = batch.take(state.frontier.node_nb), batch.take(state.frontier.label_nb)
        depth_rb = of_node(batch.take(state.tree.depth_nmj), node_rb)

        def draw(key_2, step, label, proposer):
            return jax.random.uniform(jax.random.wrap_key_data(row_key(key_2, step, label, proposer)))

        of_row = jax.vmap(draw, (None, 0, 0, 0))
        of_rows = jax.vmap(of_row, (0, 0, 0, None))
        steps_rj, label_rj = depth_rb[:, place_j] + 1, label_rb[:, place_j]
        return Scores(of_rows(batch.take(state.clock.key_n2), steps_rj, label_rj, proposer_j))


def scorer(config) -> Random:
    """The scorer of a run; it has no settings of its own."""
    return Random()
