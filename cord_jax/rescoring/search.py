"""A search over a recorded tree: which candidate wins under other scores, another width or fewer teachers.

The selection is that of docs/method.md, section 3.8, or 3.12 for whole traces. Nothing is proposed: where a node would be
extended, the children are those that it has in the tree. So a search is *covered* if every node that it extends was
extended, and then it is the search that a run would have made, as far as what teachers write does not depend on draws; of
those it would have made others for a node that stands at another beam (`Found.same_places`).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from cord_jax.filters import Filter
from cord_jax.rescoring.recorded_tree import CONCLUDED, Budget, Child, NotRecorded, RecordedTree


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
      beam_width: traces that are kept; of whole traces, how many each teacher wrote.
      max_steps: steps of a trace, at most.
      filters: what drops candidates, in their order.
      teachers: those who propose, None for all of the run.
    """

    whole: bool
    segmentation: str
    beam_width: int
    max_steps: int
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


def search(tree: RecordedTree, rules: Rules, scores: Scores, budget: Budget | None = None) -> Found:
    """Searches a recorded tree anew.

    Args:
      budget: as in `RecordedTree.expand`.
    """
    try:
        return _whole(tree, rules, scores) if rules.whole else _steps(tree, rules, scores, budget)
    except NotRecorded as missing:
        return Found(None, None, None, str(missing), False)


def _whole(tree: RecordedTree, rules: Rules, scores: Scores) -> Found:
    children = tree.samples(rules.teachers, rules.beam_width, rules.filters)
    best = _best([_Place((child,), scores(tree, child)) for child in children if child.dropped is None], 1)
    if not best:
        return _stuck(None, True)
    return _won(best[0], True)


@dataclasses.dataclass(frozen=True)
class _Place:
    """A trace that is kept, step by step, and its score."""

    steps: tuple[Child, ...]
    score: float

    @property
    def last(self) -> Child:
        """Its last step."""
        return self.steps[-1]


def _best(pool: Sequence[_Place], width: int) -> list[_Place]:
    """The best of a pool by their float32 scores, in its order among equals."""
    order = np.argsort(-np.array([place.score for place in pool], np.float32), kind="stable")
    return [pool[i] for i in order[:width]]


def _steps(tree: RecordedTree, rules: Rules, scores: Scores, budget: Budget | None) -> Found:
    kept: list[_Place] = []
    extended: list[tuple[int, _Place | None]] = [
        (0, None)
    ]  # beams, and what they hold: at first the empty trace
    same_places = True
    for _ in range(rules.max_steps):
        pool = [place for place in kept if place.last.complete]
        lost = []
        for beam, place in extended:
            node, before = (place.last.node, place.steps) if place is not None else (0, ())
            children = tree.expand(node, beam, rules.teachers, rules.filters, rules.segmentation, budget)
            same_places &= all(child.candidate.beam == beam for child in children)
            valid = [child for child in children if child.dropped is None]
            pool += [_Place((*before, child), scores(tree, child)) for child in valid]
            lost += [] if valid else [place]
        if not pool:
            return _stuck(lost[0], same_places)
        kept = _best(pool, rules.beam_width)
        extended = [(beam, place) for beam, place in enumerate(kept) if not place.last.complete]
        if not extended:
            break
    return _won(kept[0], same_places)


def _won(place: _Place, same_places: bool) -> Found:
    ended = place.last.ended
    status = "complete" if ended in CONCLUDED else "budget" if ended == "budget" else "max_steps"
    return Found(place.last.node, place.score, status, None, same_places, place.steps)


def _stuck(place: _Place | None, same_places: bool) -> Found:
    if place is None:
        return Found(0, None, "stuck", None, same_places)
    return Found(place.last.node, place.score, "stuck", None, same_places, place.steps)
