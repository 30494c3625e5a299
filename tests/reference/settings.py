"""The settings of a brute-force search, and the pool that it asks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from . import text
from .reward import RewardReader

# (a step without its heading, the steps before it likewise) -> whether it is dropped
Unwanted = Callable[[str, list[str]], bool]
# (a stated answer, its problem) -> whether it is right
Right = Callable[[str, dict], bool]


def equals_a_form(stated: str, problem: dict) -> bool:
    """Whether an answer is one of the accepted forms, letter by letter."""
    return stated in text.answer_forms(problem)


@dataclass(frozen=True)
class Proposer:
    """A teacher checkpoint with its settings. `name` is what the rows record."""

    name: str
    checkpoint: str | Path
    temperature: float = 0.0
    system_prompt: str | None = None


@dataclass(frozen=True)
class MetaProver:
    checkpoint: str | Path
    system_prompt: str | None = None


@dataclass(frozen=True)
class Pool:
    proposers: tuple[Proposer, ...]
    meta_prover: MetaProver


@dataclass
class Margins:
    """How near the run came to being decided by rounding.

    token: the smallest lead of a sampled token's logit over the next best.
    score: the smallest difference of two neighbouring scores of a round that are not equal.
    """

    token: float = float("inf")
    score: float = float("inf")


@dataclass
class Settings:
    method: str
    segmentation: str
    beam_width: int
    max_steps: int
    max_step_tokens: int
    max_thinking_tokens: int
    max_answer_tokens: int
    closing: str
    margins: Margins = field(default_factory=Margins)
    decoding: str = "beam"
    exploration: float = 0.2
    max_expansions: int = 0
    selector: str = "predictive_perplexity"
    decoys: int = 0
    seed: int = 0
    reward_model: RewardReader | None = None
    reward_of: str = "last"
    max_judgment_tokens: int = 32
    right: Right = equals_a_form
    filters: Mapping[str, Unwanted] = field(default_factory=dict)


def decimal(score: np.float32 | None) -> float | None:
    """The shortest decimal that reads back as the same float32."""
    return None if score is None else float(str(np.float32(score)))
