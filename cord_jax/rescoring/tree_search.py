"""Monte Carlo tree search over a recorded tree (docs/method.md, section 3.14)."""

from __future__ import annotations

import dataclasses

import numpy as np

from cord_jax.rescoring.recorded_tree import Budget, Child, RecordedTree
from cord_jax.rescoring.rules import Found, Place, Rules, Scores, stuck, won


@dataclasses.dataclass(eq=False)
class _Node:
    """A node with its visits and the sum of their values; the root has no place."""

    place: Place | None
    parent: _Node | None
    visits: int
    value: np.float32
    children: list[_Node] = dataclasses.field(default_factory=list)
    expanded: bool = False

    @property
    def steps(self) -> tuple[Child, ...]:
        """The steps of its trace."""
        return () if self.place is None else self.place.steps

    def complete(self, max_steps: int) -> bool:
        """Whether its trace has ended, or is as long as one may be."""
        return self.place is not None and (self.place.last.complete or len(self.steps) >= max_steps)

    def closed(self, max_steps: int) -> bool:
        """Whether nothing is left to be expanded below it."""
        return self.complete(max_steps) or (
            self.expanded and all(child.closed(max_steps) for child in self.children)
        )

    def bound(self, exploration: float) -> np.float32:
        """The upper confidence bound by which it is gone down to."""
        visits = np.float32(self.visits)
        width = np.sqrt(np.log(np.float32(self.parent.visits)) / visits) if self.parent is not None else 0
        return np.float32(self.value / visits + np.float32(exploration) * width)


def search_tree(tree: RecordedTree, rules: Rules, scores: Scores, budget: Budget | None) -> Found:
    """Searches a recorded tree by expansions. Raises: `NotRecorded` if it lacks one."""
    root = _Node(None, None, 0, np.float32(0))
    nodes, barren = [root], None
    same_places, most = True, rules.max_steps
    for expansion in range(rules.max_expansions):
        parents = {id(node.parent) for node in nodes if node.complete(most)}
        if len(parents) >= rules.beam_width or root.closed(most):
            break
        node = root
        while node.children:
            open_children = [child for child in node.children if not child.closed(most)]
            node = max(open_children, key=lambda child: child.bound(rules.exploration))
        at = node.place.last.node if node.place is not None else 0
        children = tree.expand(at, expansion, rules.teachers, rules.filters, rules.segmentation, budget)
        same_places &= all(child.candidate.beam == expansion for child in children)
        for child in children:
            if child.dropped is None:
                score = np.float32(scores(tree, child))
                place = Place((*node.steps, child), float(score))
                node.children.append(_Node(place, node, 1, score))
        nodes += node.children
        node.expanded = True
        if not node.children and barren is None:
            barren = node
        value = max((child.value for child in node.children), default=np.float32(0))
        above: _Node | None = node
        while above is not None:
            above.visits, above.value = above.visits + 1, np.float32(above.value + value)
            above = above.parent
    places = [node.place for node in nodes if node.complete(most)]
    places = places or [n.place for n in nodes[1:] if not n.closed(most) and not n.expanded]
    found = [place for place in places if place is not None]
    if found:
        return won(max(found, key=lambda place: np.float32(place.score)), same_places)
    return stuck(barren.place if barren is not None else None, same_places)
