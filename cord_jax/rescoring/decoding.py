"""The decoding that follows a recorded tree: every node that was extended is extended again, in the same rounds."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cord_jax.endings import ENDINGS
from cord_jax.search.decodings import Decision, Round
from cord_jax.search.jax_tools import axes, pytree
from cord_jax.search.round_record import DROPPED, VALID, CandidateText, SettledRound
from cord_jax.search.tree import LOST, NONE, ROOT, Frontier, Tree
from cord_jax.traces import Candidate


@pytree
class Followed:
    """The record that each slot follows; after_nmb: int32, the nodes that round m + 1 extends, `tree.NONE` for none."""

    after_nmb: jax.Array = axes("slot", "round", "place")


@dataclasses.dataclass(frozen=True)
class Recorded:
    """Extends what the record says.

    Attributes:
      places, opened_first, max_rounds, kept, goes_back: as in `Decoding`.
    """

    places: int
    opened_first: int
    max_rounds: int
    kept: int
    goes_back: bool

    def empty_memory(self, slots: int, nodes: int) -> Followed:
        """A record without a second round."""
        return Followed(jnp.full((slots, self.max_rounds, self.places), NONE, jnp.int32))

    def decide(
        self, memory: Followed, tree: Tree, frontier: Frontier, settled: Round
    ) -> tuple[Followed, Decision]:
        """Looks up what the next round extends; the search is over where there is none, and has no winner."""
        rounds_r11 = settled.number_r[:, None, None]
        node_rb = jnp.take_along_axis(memory.after_nmb, rounds_r11, axis=1)[:, 0]
        over_r = (node_rb == NONE).all(1)
        label_b = jnp.arange(self.places, dtype=jnp.int32)
        # One that goes back has one place, whose label is the number of the expansion.
        label_rb = label_b + (settled.number_r + 1)[:, None] if self.goes_back else label_b
        return memory, Decision(
            node_rb=node_rb,
            open_rb=node_rb > ROOT,
            label_rb=jnp.broadcast_to(label_rb, node_rb.shape),
            rank_rj=jnp.full(settled.score_rj.shape, LOST, jnp.int8),
            over_r=over_r,
            stuck_r=over_r,
            stuck_node_r=jnp.full(over_r.shape, ROOT, jnp.int32),
        )

    def keeps(self, memory: Followed, tree: Tree, lineage_rbi):
        """The nodes of the frontier and their ancestors; all, where any of them may be gone back to."""
        return jnp.ones_like(lineage_rbi[:, 0]) if self.goes_back else lineage_rbi.any(1)


@dataclasses.dataclass(frozen=True)
class Record:
    """A recorded tree as the engine reads it.

    Attributes:
      rounds: all of its rounds.
      after_mb: int32, the nodes that the round after each one extends, as `Followed` takes them.
      place_of: node of `tree.jsonl` -> round and candidate j.
    """

    rounds: Sequence[SettledRound]
    after_mb: np.ndarray
    place_of: Mapping[int, tuple[int, int]]


def record_of(
    candidates: Sequence[Candidate], teachers: Sequence[str], places: int, by_expansion: bool
) -> Record:
    """Lays out the candidates of a problem as the rounds of its search.

    Args:
      teachers: the run's proposers, in their order.
      places: of the search's frontier.
      by_expansion: each round is an expansion (`mcts`), whose number `beam` is; else it is a step of all beams.
    """
    number, proposer = len(teachers), {name: k for k, name in enumerate(teachers)}
    place_of: dict[int, tuple[int, int]] = {}
    for c in candidates:
        m, place = (c.beam, 0) if by_expansion else (c.step - 1, c.beam)
        place_of[c.node] = m, place * number + proposer[c.teacher]
    rounds = 1 + max(m for m, _ in place_of.values())
    width = places * number
    texts: list[list[CandidateText | None]] = [[None] * width for _ in range(rounds)]
    after_mb = np.full((rounds, places), NONE, np.int32)
    dropped_mj = np.full((rounds, width), -1, np.int8)
    ended_mj = np.zeros((rounds, width), np.int8)
    for c in candidates:
        m, j = place_of[c.node]
        texts[m][j] = CandidateText(c.text, 0, c.dropped)
        dropped_mj[m, j] = VALID if c.dropped is None else DROPPED
        ended_mj[m, j] = ENDINGS.index(c.ended)
        if c.parent:
            parent_m, parent_j = place_of[c.parent]
            after_mb[m - 1, j // number] = 1 + parent_m * width + parent_j
    nothing_j = np.zeros(width)
    settled = [
        SettledRound(
            texts[m],
            nothing_j.astype(np.float32),
            ended_mj[m],
            dropped_mj[m],
            nothing_j.astype(np.int32),
        )
        for m in range(rounds)
    ]
    return Record(settled, after_mb, place_of)
