"""What a brute-force search holds: steps, hypotheses, drafts that are not scored yet, and nodes of a Monte Carlo tree."""

from dataclasses import dataclass, field

import numpy as np

CONCLUDED = ("think_end", "eos", "budget")


@dataclass(frozen=True)
class Step:
    """A committed step: canonical text, index of its proposer, score, meta-prover tokens, how it ended."""

    text: str
    proposer: int
    score: np.float32
    tokens: int
    ended: str


@dataclass(frozen=True)
class Hypothesis:
    """A beam: its steps, its node in the tree (its row, from 1), and whether its thinking is over."""

    steps: tuple[Step, ...] = ()
    node: int = 0

    @property
    def reasoning(self) -> str:
        return "".join(step.text for step in self.steps)

    @property
    def score(self) -> np.float32 | None:
        return self.steps[-1].score if self.steps else None

    @property
    def complete(self) -> bool:
        return bool(self.steps) and self.steps[-1].ended in CONCLUDED


@dataclass(frozen=True)
class Candidate:
    """A hypothesis in the pool of a round. `row` is its tree row, None if it was carried over."""

    hypothesis: Hypothesis
    beam: int
    proposer: int
    row: dict | None


@dataclass(eq=False)
class Node:
    """A node of a Monte Carlo tree."""

    hypothesis: Hypothesis
    parent: "Node | None"
    children: list["Node"] = field(default_factory=list)
    expanded: bool = False
    visits: int = 0
    value: np.float32 = np.float32(0)

    def __post_init__(self):
        if self.parent is not None:
            self.visits, self.value = 1, self.hypothesis.score

    @property
    def depth(self) -> int:
        return len(self.hypothesis.steps)

    def complete(self, max_steps: int) -> bool:
        return self.hypothesis.complete or self.depth >= max_steps

    def closed(self, max_steps: int) -> bool:
        if self.complete(max_steps):
            return True
        return self.expanded and all(child.closed(max_steps) for child in self.children)

    def bound(self, exploration: float) -> float:
        width = np.sqrt(np.log(np.float32(self.parent.visits)) / np.float32(self.visits))
        return np.float32(self.value / np.float32(self.visits) + np.float32(exploration) * width)


@dataclass
class Draft:
    """A proposal that has not been scored yet: the step it would add to its parent, the beam of that number."""

    beam: int
    parent: Hypothesis
    proposer: int
    step: int
    text: str
    tokens: int
    ended: str
    dropped: str | None

    @property
    def complete(self) -> bool:
        return self.ended in CONCLUDED
