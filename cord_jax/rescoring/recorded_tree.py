"""The recorded tree of one problem, as a search meets it: what every node's teachers have proposed.

An expansion is made as in a search (docs/method.md, sections 3.5, 3.6 and 3.16), of the candidates of some teachers alone:
without the others a candidate may be no duplicate any more, and a filter that was spared, or had something to drop, may
not be.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

from cord_jax.endings import CLOSING, CONCLUDING
from cord_jax.filters import Filter, drop_reasons
from cord_jax.text import segmentation
from cord_jax.traces import Candidate

# Reasons that a candidate has of itself, whatever stands beside it.
_UNREADABLE = ("empty", "invalid_utf8")


class NotRecorded(Exception):
    """A search needs what the tree does not hold; the message says what."""


@dataclasses.dataclass(frozen=True)
class Budget:
    """The thinking budget in the tokens of a meta-prover with another vocabulary than the recorded one.

    Attributes:
      thinking: node -> tokens of the reasoning that ends with it.
      max_step_tokens, max_thinking_tokens: the run's limits.
    """

    thinking: Mapping[int, int]
    max_step_tokens: int
    max_thinking_tokens: int


@dataclasses.dataclass(frozen=True)
class Child:
    """A candidate as a search with some of the teachers meets it.

    Attributes:
      candidate: as it is recorded.
      beam: the beam that it extends in this search.
      dropped: why it cannot be selected; None if it can.
      ended: what ended it.
    """

    candidate: Candidate
    beam: int
    dropped: str | None
    ended: str

    @property
    def node(self) -> int:
        """Its node."""
        return self.candidate.node

    @property
    def complete(self) -> bool:
        """Whether its reasoning has ended."""
        return self.ended in CONCLUDING


class RecordedTree:
    """The candidates of one problem; they know which of them extend which."""

    def __init__(self, candidates: Sequence[Candidate]):
        """Raises: `ValueError` for a candidate that extends one that is not before it, or at another depth."""
        self.by_node: dict[int, Candidate] = {}
        self.children: dict[int, list[Candidate]] = {}
        for candidate in candidates:
            if candidate.parent and candidate.parent not in self.by_node:
                raise ValueError(
                    f"node {candidate.node} of problem {candidate.problem} extends node {candidate.parent}, "
                    "which is not before it"
                )
            parent = self.by_node.get(candidate.parent)
            if candidate.step != (parent.step + 1 if parent else 1) or not 0 <= candidate.beam < len(
                candidates
            ):
                raise ValueError(
                    f"node {candidate.node} of problem {candidate.problem} has no step or beam of this tree"
                )
            self.by_node[candidate.node] = candidate
            self.children.setdefault(candidate.parent, []).append(candidate)

    def path(self, node: int) -> list[Candidate]:
        """The candidates from the root to a node."""
        steps = []
        while node:
            steps.append(self.by_node[node])
            node = steps[-1].parent
        return steps[::-1]

    def writers(self, candidate: Candidate) -> frozenset[str]:
        """Those who have written a candidate's text as the next step of the node that it extends."""
        beside = self.children[candidate.parent]
        return frozenset(c.teacher for c in beside if c.beam == candidate.beam and c.text == candidate.text)

    def find(self, steps: Sequence[tuple[str, str]]) -> int | None:
        """The node to which steps lead, each a text and its teacher; None if they lead to none."""
        node = 0
        for text, teacher in steps:
            fits = [c for c in self.children.get(node, []) if (c.text, c.teacher) == (text, teacher)]
            if not fits:
                return None
            node = fits[0].node
        return node

    def score(self, candidate: Candidate, scores: Mapping[int, float]) -> float:
        """The score of a candidate, or of one that says the same of the same node.

        Raises: `NotRecorded` if neither has one.
        """
        for other in (candidate, *self.children[candidate.parent]):
            if other.text == candidate.text and other.node in scores:
                return scores[other.node]
        raise NotRecorded(f"{_name(candidate)} was dropped ({candidate.dropped}) and has no score")

    def expand(
        self,
        node: int,
        beam: int,
        teachers: Sequence[str] | None,
        filters: Mapping[str, Filter],
        heading_of: str,
        budget: Budget | None = None,
    ) -> list[Child]:
        """The candidates that extend a node.

        Args:
          beam: that of the node in this search.
          teachers: those who propose; None for all.
          filters: the run's.
          heading_of: the run's segmentation.
          budget: None where the recorded one holds.

        Raises: `NotRecorded` if the node was not extended, or would have been under another budget.
        """
        recorded = self._extensions(node)
        mine = [c for c in recorded if teachers is None or c.teacher in teachers]
        if budget is not None:
            self._check_budget(node, mine, budget)
        children = [Child(c, beam, c.dropped, _ended(c, budget)) for c in mine]
        if teachers is None and budget is None:
            return children
        children = _without_duplicates(children)
        before = [c.text for c in self.path(node)]
        return filtered(children, filters, heading_of, lambda child: before)

    def samples(
        self, teachers: Sequence[str] | None, width: int, filters: Mapping[str, Filter]
    ) -> list[Child]:
        """The whole traces of a problem, so many of each teacher.

        Raises: `NotRecorded` if there are fewer.
        """
        recorded = self.children.get(0, [])
        held = 1 + max((c.beam for c in recorded), default=-1)
        if width > held:
            raise NotRecorded(f"{held} whole traces of each teacher were written, not {width}")
        mine = [c for c in recorded if c.beam < width and (teachers is None or c.teacher in teachers)]
        if len(mine) == len(recorded):
            return [Child(c, c.beam, c.dropped, c.ended) for c in mine]
        children = [Child(c, c.beam, c.dropped if c.dropped in _UNREADABLE else None, c.ended) for c in mine]
        return filtered(children, filters, "whole", lambda child: [])

    def _extensions(self, node: int) -> list[Candidate]:
        """The candidates that extend a node, or else one with the same text: what follows depends on the text alone."""
        if node == 0:
            return self.children[0]
        mine = self.by_node[node]
        for other in (mine, *self.children[mine.parent]):
            if other.text == mine.text and other.node in self.children:
                return self.children[other.node]
        raise NotRecorded(f"{_name(mine)} was not extended")

    def _check_budget(self, node: int, candidates: Sequence[Candidate], budget: Budget) -> None:
        left = budget.max_thinking_tokens - (budget.thinking[node] if node else 0)
        cut = [c for c in candidates if c.ended == "budget" and c.dropped is None]
        # At the root nothing is used up yet, in any vocabulary: proposals have the same limit.
        unlike = left < budget.max_step_tokens or cut if node else False
        if unlike or any(budget.thinking[c.node] < budget.max_thinking_tokens for c in cut):
            name = _name(self.by_node[node]) if node else "the empty trace"
            raise NotRecorded(f"{name} would be extended under another thinking budget")


def filtered(
    children: Sequence[Child],
    filters: Mapping[str, Filter],
    heading_of: str,
    before: Callable[[Child], Sequence[str]],
) -> list[Child]:
    """The children of a beam, or all whole traces, after the filters.

    Args:
      before: the canonical steps before a child.
    """
    body = functools.partial(segmentation.body, heading_of)
    valid = [i for i, child in enumerate(children) if child.dropped is None]
    texts = []
    for i in valid:
        earlier = [body(number, text) for number, text in enumerate(before(children[i]), start=1)]
        texts.append((body(len(earlier) + 1, children[i].candidate.text), earlier))
    after = list(children)
    for i, reason in zip(valid, drop_reasons(filters, texts)):
        after[i] = dataclasses.replace(children[i], dropped=reason)
    return after


def _without_duplicates(children: Sequence[Child]) -> list[Child]:
    """The children of a beam, of which equal ones are dropped but for the first (docs/method.md, section 3.5)."""
    seen: set[tuple[str, bool]] = set()
    after = []
    for child in children:
        dropped = child.candidate.dropped if child.candidate.dropped in _UNREADABLE else None
        key = child.candidate.text, child.complete
        if dropped is None and key in seen:
            dropped = "duplicate"
        elif dropped is None:
            seen.add(key)
        after.append(dataclasses.replace(child, dropped=dropped))
    return after


def _ended(candidate: Candidate, budget: Budget | None) -> str:
    if budget is None or candidate.dropped in _UNREADABLE or candidate.ended in CLOSING:
        return candidate.ended
    return "budget" if budget.thinking[candidate.node] >= budget.max_thinking_tokens else candidate.ended


def _name(candidate: Candidate) -> str:
    return f"node {candidate.node} (step {candidate.step}, {candidate.teacher})"
