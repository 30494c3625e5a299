"""Step-level beam search: the B best hypotheses of a round stay (paper, section 3; method, section 3.8)."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from cord_jax.config import SynthesisConfig
from cord_jax.search.decodings import Decision, Round
from cord_jax.search.packing import pick
from cord_jax.search.tree import LOST, NONE, ROOT, Frontier, Tree, first_node, of_node


@dataclasses.dataclass(frozen=True)
class Beam:
    """A beam of hypotheses, of which complete ones keep their place; a beam of one is greedy.

    Attributes:
      places: hypotheses that are extended in a round, at most.
      kept: hypotheses that a selection keeps, at most.
      opened_first: places at which the root is extended in the first round.
      max_rounds: steps of a trace, at most.
    """

    places: int
    kept: int
    opened_first: int
    max_rounds: int
    goes_back = False

    def empty_memory(self, slots: int, nodes: int) -> Any:
        """Nothing: the tree says all."""
        return ()

    def decide(self, memory: Any, tree: Tree, frontier: Frontier, settled: Round) -> tuple[Any, Decision]:
        """Keeps the best of complete hypotheses and new candidates, numbered by descending score."""
        beams, candidates = self.places, settled.score_rj.shape[1]
        carried_rb = (frontier.node_nb > ROOT) & ~frontier.open_nb
        carried_score_rb = of_node(tree.score_nmj, frontier.node_nb)
        kept_rb, source_rb = select(carried_score_rb, carried_rb, settled.score_rj, settled.valid_rj, beams)
        kept_rb &= jnp.arange(beams) < self.kept
        stepped_rb = kept_rb & (source_rb >= beams)
        chosen_rb = jnp.maximum(source_rb - beams, 0)
        new_rb = first_node(settled.number_r, candidates)[:, None] + chosen_rb
        node_rb = jnp.where(
            source_rb >= beams, new_rb, pick(frontier.node_nb, jnp.minimum(source_rb, beams - 1))
        )
        goes_on_rb = stepped_rb & ~pick(settled.complete_rj, chosen_rb)
        over_r = ~goes_on_rb.any(1) | (settled.number_r + 1 >= self.max_rounds)
        # When a search ends only the winner matters any more.
        stays_rb = kept_rb & (~over_r[:, None] | (jnp.arange(beams) == 0))
        rank_rj = jnp.full(settled.score_rj.shape, LOST, jnp.int16)
        for beam in range(beams):
            is_rj = jnp.arange(candidates) == chosen_rb[:, beam, None]
            rank_rj = jnp.where(is_rj & stepped_rb[:, beam, None], jnp.int16(beam), rank_rj)
        by_beam_rbk = settled.valid_rj.reshape(-1, beams, candidates // beams)
        lost_rb = frontier.open_nb & ~by_beam_rbk.any(-1)
        lost_r1 = lost_rb.argmax(1)[:, None]
        return memory, Decision(
            node_rb=jnp.where(stays_rb, node_rb, NONE),
            open_rb=goes_on_rb & ~over_r[:, None],
            label_rb=jnp.broadcast_to(jnp.arange(beams, dtype=jnp.int32), node_rb.shape),
            rank_rj=rank_rj,
            over_r=over_r,
            stuck_r=~kept_rb.any(1),
            stuck_node_r=pick(frontier.node_nb, lost_r1)[:, 0],
        )

    def keeps(self, memory: Any, tree: Tree, lineage_rbi):
        """The nodes of the beam and their ancestors: no other is ever gone back to."""
        return lineage_rbi.any(1)


def decoding(config: SynthesisConfig) -> Beam:
    """The paper's decoding: B hypotheses, which start from one empty trace."""
    width = config.beam_width
    return Beam(places=width, kept=width, opened_first=1, max_rounds=config.max_steps)


def select(carried_score_rb, carried_rb, candidate_score_rj, candidate_rj, num_beams: int):
    """Finds the B best of the complete hypotheses carried from before and of the candidates not dropped.

    Ties go to the carried first, then to the lower beam, then to the lower proposer: the order of the pool
    itself.

    Args:
      carried_score_rb, carried_rb: float32 scores of the beams, and which of them are carried.
      candidate_score_rj, candidate_rj: float32 scores of the candidates (j = beam * proposers + proposer),
        and which of them count.

    Returns:
      `(kept_rb, source_rb)`: whether a new beam exists, and its place in the pool [carried ++ candidates]; beams are
      numbered by descending score.
    """
    score = jnp.concatenate([carried_score_rb, candidate_score_rj], axis=1)
    valid = jnp.concatenate([carried_rb, candidate_rj], axis=1)
    # A score that is not a number (an overflowing network) must not win.
    order = jnp.argsort(jnp.where(valid & ~jnp.isnan(score), -score, jnp.inf), axis=1, stable=True)
    source_rb = order[:, :num_beams]
    return jnp.take_along_axis(valid, source_rb, axis=1), source_rb.astype(jnp.int32)
