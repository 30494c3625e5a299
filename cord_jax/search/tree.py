"""The search tree of a problem: every candidate that was ever proposed is a node (method, section 3.14).

Node 0 is the root, the empty trace. Candidate j of round m (from 0) is node `1 + m * J + j`, where J is the number of
candidates of a round: those of frontier place b are j = b * K + proposer. All arrays have fixed shapes, so the tree grows
without being copied.
"""

import jax
import jax.numpy as jnp
from jax import lax

from cord_jax.search.jax_tools import axes, pytree

ROOT, NONE = 0, -1
# In place of a rank: not kept, and kept without a rank.
LOST, UNRANKED = -1, -2


@pytree
class Tree:
    """All that is known of the nodes, by round and candidate.

    Attributes:
      parent_nmj: int32, the node that each extends.
      depth_nmj: int32, steps of the trace that ends in it.
      score_nmj: float32, the selector's; -inf if it was dropped.
      complete_nmj: bool, its reasoning has ended.
      beam_nmj: int32, the beam that it extends, or the number of its expansion (`Frontier.label_nb`).
      rank_nmj: int16, its beam after the selection of its round, `LOST` or `UNRANKED`.
      ended_nmj, dropped_nmj: int8, indices into `endings.ENDINGS` and `DROPPED`, or `round_record.ABSENT`.
      tokens_nmj: int32, the meta-prover's tokens of its step.
      thinking_nmj: int32, the meta-prover's tokens of the trace that ends in it.
      sampled_nmj: int32, tokens that its writer sampled for it, EOS included.
      committed_nmj: bool, its text stands in the KV caches.
    """

    parent_nmj: jax.Array = axes("slot", "round", "candidate")
    depth_nmj: jax.Array = axes("slot", "round", "candidate")
    score_nmj: jax.Array = axes("slot", "round", "candidate")
    complete_nmj: jax.Array = axes("slot", "round", "candidate")
    beam_nmj: jax.Array = axes("slot", "round", "candidate")
    rank_nmj: jax.Array = axes("slot", "round", "candidate")
    ended_nmj: jax.Array = axes("slot", "round", "candidate")
    dropped_nmj: jax.Array = axes("slot", "round", "candidate")
    tokens_nmj: jax.Array = axes("slot", "round", "candidate")
    thinking_nmj: jax.Array = axes("slot", "round", "candidate")
    sampled_nmj: jax.Array = axes("slot", "round", "candidate")
    committed_nmj: jax.Array = axes("slot", "round", "candidate")

    @property
    def num_nodes(self) -> int:
        """Nodes that there is room for, the root included."""
        return 1 + self.parent_nmj.shape[1] * self.parent_nmj.shape[2]


@pytree
class Frontier:
    """The nodes that are extended in a round, one a place b, and those that keep their place without.

    Attributes:
      node_nb: int32, the node of each place, `NONE` where there is none.
      open_nb: bool, it is extended.
      label_nb: int32, the number of the beam, or of the expansion, that random keys and records speak of.
      lineage_nbi: bool, the nodes from the root to that of the place, both included.
    """

    node_nb: jax.Array = axes("slot", "place")
    open_nb: jax.Array = axes("slot", "place")
    label_nb: jax.Array = axes("slot", "place")
    lineage_nbi: jax.Array = axes("slot", "place", "node")


def empty_tree(slots: int, rounds: int, candidates: int) -> Tree:
    """Makes trees of so many slots that have a root only."""
    shape = (slots, rounds, candidates)
    kinds = {
        "score_nmj": jnp.float32,
        "complete_nmj": jnp.bool_,
        "committed_nmj": jnp.bool_,
        "rank_nmj": jnp.int16,
        "ended_nmj": jnp.int8,
        "dropped_nmj": jnp.int8,
    }
    fields = Tree.__dataclass_fields__
    return Tree(**{name: jnp.zeros(shape, kinds.get(name, jnp.int32)) for name in fields})


def empty_frontier(slots: int, places: int, nodes: int) -> Frontier:
    """Makes frontiers without a node."""
    return Frontier(
        node_nb=jnp.full((slots, places), NONE, jnp.int32),
        open_nb=jnp.zeros((slots, places), bool),
        label_nb=jnp.zeros((slots, places), jnp.int32),
        lineage_nbi=jnp.zeros((slots, places, nodes), bool),
    )


def first_frontier(rows: int, places: int, nodes: int, opened: int) -> Frontier:
    """Makes the frontiers of searches that begin: the root at every place, of which `opened` are extended."""
    open_rb = jnp.broadcast_to(jnp.arange(places) < opened, (rows, places))
    return Frontier(
        node_nb=jnp.where(open_rb, ROOT, NONE).astype(jnp.int32),
        open_nb=open_rb,
        label_nb=jnp.broadcast_to(jnp.arange(places, dtype=jnp.int32), (rows, places)),
        lineage_nbi=jnp.broadcast_to(jnp.arange(nodes) == ROOT, (rows, places, nodes)),
    )


def first_node(round_r, candidates: int):
    """Numbers the first candidate of each row's round (from 0)."""
    return 1 + round_r * candidates


def of_node(values_rmj, node_rx, root=0):
    """Looks up a value of each node, [r, x]; `root` for the root and for `NONE`."""
    flat_ri = values_rmj.reshape(values_rmj.shape[0], -1)
    found_rx = jnp.take_along_axis(flat_ri, jnp.maximum(node_rx - 1, 0), axis=1)
    return jnp.where(node_rx > ROOT, found_rx, jnp.asarray(root, flat_ri.dtype))


def at_round(old_rmj, number_r, new_rj):
    """Replaces what is known of a round's candidates."""
    is_round_rm = jnp.arange(old_rmj.shape[1]) == number_r[:, None]
    return jnp.where(is_round_rm[..., None], new_rj[:, None], old_rmj)


def lineages(tree: Tree, frontier: Frontier, node_rb):
    """Finds the nodes from the root to each of `node_rb`, both included, bool [r, b, i].

    It walks from parent to parent until it meets the root or a node of the present frontier, whose lineage is known: in
    a beam search that is one step.

    Args:
      tree, frontier: of the rows; the tree has the nodes already.
      node_rb: int32, `NONE` gives an empty lineage.
    """
    number_i = jnp.arange(tree.num_nodes)
    known_rbi = frontier.lineage_nbi & (frontier.node_nb >= ROOT)[..., None]

    def unfinished(carry):
        return (carry[0] > ROOT).any()

    def walk(carry):
        node_rb, found_rbi = carry
        same_rbb = (node_rb[:, :, None] == frontier.node_nb[:, None]) & (node_rb > ROOT)[:, :, None]
        # The place of the present frontier that a walk has come to, if any.
        met_rb, place_rb = same_rbb.any(-1), same_rbb.argmax(-1)
        joined_rbi = jnp.take_along_axis(known_rbi, place_rb[..., None], axis=1) & met_rb[..., None]
        found_rbi = found_rbi | joined_rbi | ((node_rb[..., None] == number_i) & (node_rb > ROOT)[..., None])
        parent_rb = of_node(tree.parent_nmj, node_rb)
        return jnp.where(met_rb, ROOT, parent_rb), found_rbi

    begun_rbi = (number_i == ROOT) & (node_rb >= ROOT)[..., None]
    return lax.while_loop(unfinished, walk, (node_rb, begun_rbi))[1]


def ancestors(tree: Tree, node_r):
    """Finds the nodes from the root to one node of each row, both included, bool [r, i]."""
    number_i = jnp.arange(tree.num_nodes)

    def walk(carry):
        node_r, found_ri = carry
        parent_r = of_node(tree.parent_nmj, node_r[:, None])[:, 0]
        return parent_r, found_ri | (node_r[:, None] == number_i)

    begun_ri = jnp.broadcast_to(number_i == ROOT, (len(node_r), tree.num_nodes))
    return lax.while_loop(lambda carry: (carry[0] > ROOT).any(), walk, (node_r, begun_ri))[1]
