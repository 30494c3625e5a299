"""The decodings: which nodes of the tree are extended next, and when a search is over (method, sections 3.8 and 3.14).

A decoding is one file, with a frozen dataclass that has the attributes and methods of `Decoding` and a function `decoding`
that makes one, and one line in `names.DECODINGS`, whose name is the file's. The loop does the rest: it makes nodes of the
candidates, brings back texts of nodes that were left aside, and keeps in the KV caches what the decoding says.
"""

import importlib
from typing import Any, Protocol

import jax

from cord_jax.config import SynthesisConfig
from cord_jax.search.jax_tools import axes, pytree
from cord_jax.search.tree import Frontier, Tree


@pytree
class Round:
    """The candidates of the round that is being settled, j = place * K + proposer.

    Attributes:
      number_r: int32, the round, from 0; its nodes are `1 + number * J + j`.
      score_rj: float32, the selector's; -inf if dropped.
      valid_rj: bool, the candidates that were not dropped.
      complete_rj: bool, those whose reasoning has ended.
    """

    number_r: jax.Array = axes("row")
    score_rj: jax.Array = axes("row", "candidate")
    valid_rj: jax.Array = axes("row", "candidate")
    complete_rj: jax.Array = axes("row", "candidate")


@pytree
class Decision:
    """The nodes that a decoding chooses after a round, or the end of the search.

    Attributes:
      node_rb: int32, the node of each place of the next frontier, `tree.NONE` where there is none. Any node of the tree
        may stand there, also one of an earlier round. Of a search that is over place 0 has the winner, if there is one.
      open_rb: bool, the nodes that are extended next; the others keep their place.
      label_rb: int32, the numbers that random keys and records of the next proposals speak of.
      rank_rj: int16, the beam that each of the round's candidates becomes, `tree.LOST` or `tree.UNRANKED`.
      over_r: bool, searches that are over.
      stuck_r: bool, those of them that have no winner; stuck_node_r: int32, the node whose trace is left then.
    """

    node_rb: jax.Array = axes("row", "place")
    open_rb: jax.Array = axes("row", "place")
    label_rb: jax.Array = axes("row", "place")
    rank_rj: jax.Array = axes("row", "candidate")
    over_r: jax.Array = axes("row")
    stuck_r: jax.Array = axes("row")
    stuck_node_r: jax.Array = axes("row")


class Decoding(Protocol):
    """A way of choosing among the nodes of a tree; static, so hashable."""

    @property
    def places(self) -> int:
        """Nodes that are extended in a round, at most."""

    @property
    def opened_first(self) -> int:
        """Places at which the root is extended in the first round."""

    @property
    def max_rounds(self) -> int:
        """Rounds of a search, at most."""

    @property
    def kept(self) -> int:
        """Nodes with texts of their own that the KV caches must hold at a time, about."""

    @property
    def goes_back(self) -> bool:
        """Whether it may choose a node that was left aside when it was proposed, whose text is not in the KV caches then
        and must be brought back.
        """

    def empty_memory(self, slots: int, nodes: int) -> Any:
        """Makes what it remembers of each slot beside the tree when a search begins: a pytree whose fields declare their
        axes, or ().
        """

    def decide(self, memory: Any, tree: Tree, frontier: Frontier, settled: Round) -> tuple[Any, Decision]:
        """Says what is extended after a round, or that the search is over. A pure function of arrays, row by row.

        Args:
          memory, tree, frontier: of the rows. The tree has the round's nodes already; the frontier is the one that
            they were proposed for.
        """

    def keeps(self, memory: Any, tree: Tree, lineage_rbi: jax.Array) -> jax.Array:
        """Names the nodes whose keys and values must stay in the caches, bool [r, i].

        Args:
          lineage_rbi: of the nodes of the new frontier, which must be among them.
        """


def make_decoding(config: SynthesisConfig) -> Decoding:
    """Makes the decoding of a run; `config` is resolved."""
    return importlib.import_module(f"{__name__}.{config.decoding}").decoding(config)
