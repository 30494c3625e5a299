"""Monte Carlo tree search: any node may be gone back to (paper, ablations; method, section 3.14)."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from cord_jax.config import SynthesisConfig
from cord_jax.search.decodings import Decision, Round
from cord_jax.search.jax_tools import axes, pytree
from cord_jax.search.tree import LOST, NONE, ROOT, UNRANKED, Frontier, Tree, ancestors, first_node, of_node


@pytree
class Visits:
    """Visits and values of every node, which the search remembers beside the tree.

    Attributes:
      count_ni: int32, visits; sum_ni: float32, of the values that they brought.
      closed_ni: bool, nothing can be won below it: it is complete, as deep as a trace may be, or all below it is closed.
      child_ni: bool, it is a valid candidate.
      done_ni: bool, it is complete, or as deep as a trace may be.
      stuck_n: int32, the first node whose expansion brought no valid child, else `tree.NONE`.
    """

    count_ni: jax.Array = axes("slot", "node")
    sum_ni: jax.Array = axes("slot", "node")
    closed_ni: jax.Array = axes("slot", "node")
    child_ni: jax.Array = axes("slot", "node")
    done_ni: jax.Array = axes("slot", "node")
    stuck_n: jax.Array = axes("slot")


@dataclasses.dataclass(frozen=True)
class MonteCarlo:
    """Expands one node at a time, which is found by upper confidence bounds.

    Attributes:
      wanted: complete nodes of so many different parents end the search.
      exploration: weight of the bound's width against the mean value.
      max_depth: steps of a trace, at most.
      max_rounds: expansions, at most.
    """

    wanted: int
    exploration: float
    max_depth: int
    max_rounds: int
    places = 1
    opened_first = 1
    goes_back = True

    @property
    def kept(self) -> int:
        """As many as a beam would keep, to begin with; KV caches grow with the tree."""
        return self.wanted

    def empty_memory(self, slots: int, nodes: int) -> Visits:
        """No node has been visited."""
        zeros, none = jnp.zeros((slots, nodes), jnp.int32), jnp.zeros((slots, nodes), bool)
        return Visits(zeros, zeros.astype(jnp.float32), none, none, none, zeros[:, 0] + NONE)

    def decide(
        self, memory: Visits, tree: Tree, frontier: Frontier, settled: Round
    ) -> tuple[Visits, Decision]:
        """Adds the expansion's children, hands their best score to all ancestors, and finds the next node."""
        memory = self._added(memory, tree, frontier, settled)
        expansions_r = settled.number_r + 1
        parent_ri = _with_root(tree.parent_nmj, NONE)
        finished_r = _parents(memory.done_ni, parent_ri).sum(1) >= self.wanted
        over_r = finished_r | (expansions_r >= self.max_rounds) | memory.closed_ni[:, ROOT]
        expanded_ri = _parents(memory.child_ni, parent_ri)
        complete_ri = memory.done_ni
        open_ri = memory.child_ni & ~memory.closed_ni & ~expanded_ri
        best_r = _best(jnp.where(complete_ri.any(1, keepdims=True), complete_ri, open_ri), tree)
        stuck_r = over_r & (best_r < ROOT)
        next_r = self._descended(memory, parent_ri, expanded_ri, over_r)
        node_r1 = jnp.where(over_r, best_r, next_r)[:, None]
        return memory, Decision(
            node_rb=node_r1,
            open_rb=~over_r[:, None],
            label_rb=expansions_r[:, None],
            rank_rj=jnp.where(settled.valid_rj, jnp.int16(UNRANKED), jnp.int16(LOST)),
            over_r=over_r,
            stuck_r=stuck_r,
            stuck_node_r=memory.stuck_n,
        )

    def keeps(self, memory: Visits, tree: Tree, lineage_rbi):
        """All nodes below which something is left, the path to where the search is, and that of the best trace so far."""
        return ~memory.closed_ni | lineage_rbi.any(1) | ancestors(tree, _best(memory.done_ni, tree))

    def _added(self, memory: Visits, tree: Tree, frontier: Frontier, settled: Round) -> Visits:
        """The memory after an expansion."""
        candidates = settled.score_rj.shape[1]
        node_rj = first_node(settled.number_r, candidates)[:, None] + jnp.arange(candidates)
        number_i = jnp.arange(memory.count_ni.shape[1])
        is_rji = node_rj[..., None] == number_i
        new_ri = (is_rji & settled.valid_rj[..., None]).any(1)
        score_ri = _with_root(tree.score_nmj, 0.0)
        depth_ri = _with_root(tree.depth_nmj, 0)
        done_ri = new_ri & (_with_root(tree.complete_nmj, False) | (depth_ri >= self.max_depth))
        expanded_r = frontier.node_nb[:, 0]
        lineage_ri = frontier.lineage_nbi[:, 0]
        best_r = jnp.where(settled.valid_rj, settled.score_rj, -jnp.inf).max(1)
        value_r = jnp.where(settled.valid_rj.any(1), best_r, 0.0)
        count_ri = jnp.where(new_ri, 1, memory.count_ni + lineage_ri)
        sum_ri = jnp.where(new_ri, score_ri, memory.sum_ni + jnp.where(lineage_ri, value_r[:, None], 0.0))
        child_ri = memory.child_ni | new_ri
        closed_ri = self._closed(memory.closed_ni | done_ri, child_ri, tree, expanded_r)
        barren_r = ~settled.valid_rj.any(1) & (memory.stuck_n == NONE)
        return Visits(
            count_ri,
            sum_ri,
            closed_ri,
            child_ri,
            memory.done_ni | done_ri,
            jnp.where(barren_r, expanded_r, memory.stuck_n),
        )

    def _closed(self, closed_ri, child_ri, tree: Tree, expanded_r):
        """Closes the expanded node and its ancestors as far as none has a child that is open."""
        parent_ri = _with_root(tree.parent_nmj, NONE)
        number_i = jnp.arange(closed_ri.shape[1])

        def close(carry):
            node_r, closed_ri = carry
            open_child_r = (child_ri & ~closed_ri & (parent_ri == node_r[:, None])).any(1)
            closes_r = (node_r >= ROOT) & ~open_child_r
            closed_ri = closed_ri | (closes_r[:, None] & (number_i == node_r[:, None]))
            above_r = of_node(tree.parent_nmj, node_r[:, None], root=NONE)[:, 0]
            return jnp.where(closes_r, above_r, NONE), closed_ri

        return lax.while_loop(lambda carry: (carry[0] >= ROOT).any(), close, (expanded_r, closed_ri))[1]

    def _descended(self, memory: Visits, parent_ri, expanded_ri, over_r):
        """Goes down from the root to a node without children, always to the open child with the greatest bound."""
        mean_ri = memory.sum_ni / jnp.maximum(memory.count_ni, 1)

        def pick(x_ri, node_r):
            return jnp.take_along_axis(x_ri, node_r[:, None], axis=1)[:, 0]

        def goes(node_r):
            return pick(expanded_ri, node_r) & ~over_r

        def down(node_r):
            visits_r1 = jnp.maximum(pick(memory.count_ni, node_r), 1)[:, None].astype(jnp.float32)
            width_ri = jnp.sqrt(jnp.log(visits_r1) / jnp.maximum(memory.count_ni, 1))
            open_ri = memory.child_ni & ~memory.closed_ni & (parent_ri == node_r[:, None])
            bound_ri = jnp.where(open_ri, mean_ri + self.exploration * width_ri, -jnp.inf)
            return jnp.where(goes(node_r), bound_ri.argmax(1).astype(jnp.int32), node_r)

        start_r = jnp.full(over_r.shape, ROOT, jnp.int32)
        return lax.while_loop(lambda node_r: goes(node_r).any(), down, start_r)


def _with_root(values_rmj, root):
    """Values by node, [r, i]."""
    flat_ri = values_rmj.reshape(values_rmj.shape[0], -1)
    return jnp.pad(flat_ri, ((0, 0), (1, 0)), constant_values=root)


def _parents(chosen_ri, parent_ri):
    """The nodes that have a chosen child, bool [r, i]."""
    rows_r1, beyond = jnp.arange(parent_ri.shape[0])[:, None], parent_ri.shape[1]
    places_ri = jnp.where(chosen_ri, parent_ri, beyond)
    return jnp.zeros_like(chosen_ri).at[rows_r1, places_ri].set(True, mode="drop")


def _best(chosen_ri, tree: Tree):
    """The chosen node with the highest score, the first among equals; `NONE` without one; int32 [r]."""
    score_ri = jnp.where(chosen_ri, _with_root(tree.score_nmj, -jnp.inf), -jnp.inf)
    return jnp.where(chosen_ri.any(1), score_ri.argmax(1).astype(jnp.int32), NONE)


def decoding(config: SynthesisConfig) -> MonteCarlo:
    """Monte Carlo tree search of a run; `config` is resolved."""
    return MonteCarlo(config.beam_width, config.exploration, config.max_steps, config.max_expansions)
