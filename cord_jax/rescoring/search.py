"""A search over a recorded tree: which candidate wins under other scores, another width or fewer teachers.

The selection is that of docs/method.md, section 3.8, or 3.12 for whole traces, or 3.14. Nothing is proposed: where a node
would be extended, the children are those that it has in the tree. So a search is *covered* if every node that it extends
was extended, and then it is the search that a run would have made, as far as what teachers write does not depend on draws;
of those it would have made others for a node that stands at another beam (`Found.same_places`).
"""

from collections.abc import Sequence

import numpy as np

from cord_jax.rescoring.recorded_tree import Budget, NotRecorded, RecordedTree
from cord_jax.rescoring.rules import Found, Place, Rules, Scores, stuck, won
from cord_jax.rescoring.tree_search import search_tree


def search(tree: RecordedTree, rules: Rules, scores: Scores, budget: Budget | None = None) -> Found:
    """Searches a recorded tree anew.

    Args:
      budget: as in `RecordedTree.expand`.
    """
    try:
        if rules.whole:
            return _whole(tree, rules, scores)
        if rules.max_expansions is not None:
            return search_tree(tree, rules, scores, budget)
        return _steps(tree, rules, scores, budget)
    except NotRecorded as missing:
        return Found(None, None, None, str(missing), False)


def _whole(tree: RecordedTree, rules: Rules, scores: Scores) -> Found:
    children = tree.samples(rules.teachers, rules.beam_width, rules.filters)
    best = _best([Place((child,), scores(tree, child)) for child in children if child.dropped is None], 1)
    if not best:
        return stuck(None, True)
    return won(best[0], True)


def _best(pool: Sequence[Place], width: int) -> list[Place]:
    """The best of a pool by their float32 scores, in its order among equals."""
    order = np.argsort(-np.array([place.score for place in pool], np.float32), kind="stable")
    return [pool[i] for i in order[:width]]


def _steps(tree: RecordedTree, rules: Rules, scores: Scores, budget: Budget | None) -> Found:
    kept: list[Place] = []
    extended: list[tuple[int, Place | None]] = [
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
            pool += [Place((*before, child), scores(tree, child)) for child in valid]
            lost += [] if valid else [place]
        if not pool:
            return stuck(lost[0], same_places)
        kept = _best(pool, rules.beam_width)
        extended = [(beam, place) for beam, place in enumerate(kept) if not place.last.complete]
        if not extended:
            break
    return won(kept[0], same_places)
