"""The results of one seed of the quickstart."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from cord_jax.miniature.decomposition import Rounds, Trace


@dataclasses.dataclass(frozen=True)
class SeedResults:
    """What one seed's runs came to.

    Attributes:
        accuracy: contestant -> problem id -> fraction of its answers that are right.
        steps: problem id -> the steps that it takes.
        score: method -> problem id -> score of the trace.
        traces: method -> problem id -> what became of it.
        rounds: method -> problem id -> its rounds, for the methods that search step by step.
        share: method -> part of a trace -> teacher -> share of the steps.
        example: a trace of the filtered search, as a row of `traces.jsonl`.
    """

    accuracy: dict[str, dict[str, float]]
    steps: dict[str, int]
    score: dict[str, dict[str, float]]
    traces: dict[str, dict[str, Trace]]
    rounds: dict[str, dict[str, Rounds]]
    share: dict[str, dict[str, dict[str, float]]]
    example: Mapping[str, Any]
