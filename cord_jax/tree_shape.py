"""The shape of a recorded tree: which rows there must be, given those that there are.

A disk that lost the end of `tree.jsonl` may leave a trace whose tree is not whole. Rows come in groups, one of each
proposer; which groups there must be follows from the method.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from cord_jax.endings import CONCLUDING


@dataclasses.dataclass(frozen=True)
class TreeShape:
    """What is known of a run's trees beforehand.

    Attributes:
      proposers: rows of a group.
      whole_traces: groups of whole traces, 0 where steps are searched.
      max_steps: steps of a trace, at most.
      goes_back: any node may be extended at any time (Monte Carlo tree search), so that a last group cannot be missed.
    """

    proposers: int
    whole_traces: int
    max_steps: int
    goes_back: bool

    def is_whole(self, rows: Sequence[Mapping[str, Any]]) -> bool:
        """Whether nothing is missing of the rows of a problem, which are in the order of the file."""
        if not rows or [row["node"] for row in rows] != list(range(1, len(rows) + 1)):
            return False
        groups: dict[tuple[int, int], list[Mapping[str, Any]]] = {}
        for row in rows:
            groups.setdefault((row["step"], row["beam"]), []).append(row)
        if any(len(group) != self.proposers for group in groups.values()):
            return False
        if self.whole_traces:
            return len(groups) == self.whole_traces
        if self.goes_back:
            return {beam for _, beam in groups} == set(range(len(groups)))
        extended = {
            (row["step"] + 1, row.get("rank"))
            for row in rows
            if row["kept"] and row["ended"] not in CONCLUDING and row["step"] < self.max_steps
        }
        return set(groups) == extended | {(1, 0)}
