"""The rules of a search over a recorded tree, the scores that it goes by, and its end."""

import dataclasses
from collections.abc import Mapping
from typing import Protocol

from cord_jax.endings import CLOSING
from cord_jax.filters import Filter
from cord_jax.rescoring.recorded_tree import Child, RecordedTree


class Scores(Protocol):
    """The scores of candidates."""

    def __call__(self, tree: RecordedTree, child: Child) -> float:
        """The score of a candidate that was not dropped. Raises: `NotRecorded` if there is none."""


@dataclasses.dataclass(frozen=True)
class NodeScores:
    """Scores that belong to the text of a candidate: all selectors' but `random`."""

    of_node: Mapping[int, float]

    def __call__(self, tree: RecordedTree, child: Child) -> float:
        """As `Scores` says."""
        return tree.score(child.candidate, self.of_node)


@dataclasses.dataclass(frozen=True)
class Rules:
    """The rules of a search.

    Attributes:
      whole: candidates are whole traces.
      segmentation: the run's.
      beam_width: traces that are kept; of whole traces, how many each teacher wrote; with `max_expansions`, complete
        traces with different last steps but one that end the search.
      max_steps: steps of a trace, at most.
      max_expansions: of a Monte Carlo tree search; None for a search by beams. exploration: of the former.
      filters: what drops candidates, in their order.
      teachers: those who propose, None for all of the run.
    """

    whole: bool
    segmentation: str
    beam_width: int
    max_steps: int
    max_expansions: int | None = None
    exploration: float = 0.0
    filters: Mapping[str, Filter] = dataclasses.field(default_factory=dict)
    teachers: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Found:
    """The end of a search over a recorded tree.

    Attributes:
      winner: the winner's node, 0 for an empty trace; None if the tree does not hold what the search asks for.
      score: the winner's; None without one.
      status: as in `traces.jsonl`; None where the winner is not known.
      why: what the tree does not hold; None if it holds all.
      same_places: whether every node that was extended stood at the beam at which it was extended in the run.
      steps: the candidates that the winner's trace is made of. One of them may extend a node of the same text as the step
        before it, if that was a duplicate in the run.
    """

    winner: int | None
    score: float | None
    status: str | None
    why: str | None
    same_places: bool
    steps: tuple[Child, ...] = ()

    @property
    def covered(self) -> bool:
        """Whether the tree holds all that the search asks for."""
        return self.why is None


@dataclasses.dataclass(frozen=True)
class Place:
    """A trace that is kept, step by step, and its score."""

    steps: tuple[Child, ...]
    score: float

    @property
    def last(self) -> Child:
        """Its last step."""
        return self.steps[-1]


def won(place: Place, same_places: bool) -> Found:
    """The end of a search that a trace has won."""
    ended = place.last.ended
    status = "complete" if ended in CLOSING else "budget" if ended == "budget" else "max_steps"
    return Found(place.last.node, place.score, status, None, same_places, place.steps)


def stuck(place: Place | None, same_places: bool) -> Found:
    """The end of a search of which a lost trace is left; None for the empty one."""
    if place is None:
        return Found(0, None, "stuck", None, same_places)
    return Found(place.last.node, place.score, "stuck", None, same_places, place.steps)
