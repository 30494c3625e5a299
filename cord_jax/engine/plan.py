"""From settings and sizes to a `SearchPlan`: how long, wide and many everything in a search is.

Nothing here needs weights, tokenizers or devices, so that a search can be planned for a machine that is not
there (`cord_jax.compilation`).
"""

import dataclasses
from collections.abc import Sequence

from jax.sharding import Mesh

from cord_jax.config import CLOSING
from cord_jax.search import packing
from cord_jax.search.readers import ReaderPlan
from cord_jax.search.shards import Shards
from cord_jax.search.state import SearchPlan

# Tokens of a packed text up to which a pass takes more than one problem of a data shard.
PASS_TOKENS = 8192


@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """How to search; see the flags of `launch.synthesize`. All but `slots` decide the traces.

    Attributes:
      segmentation: "prompt", "line_break" or "prefix"; "whole" writes whole traces (curation).
      beam_width: B; with "whole", traces a proposer.
      max_steps, max_step_tokens, max_thinking_tokens, max_answer_tokens: limits (design, section 3.6).
      closing: text between the reasoning and the answer when a candidate is scored.
      seed: of all draws.
      slots: problems searched at a time.
      quantum: tokens that proposers write in a round, None for a fitting number; changes no trace.
    """

    segmentation: str = "prompt"
    beam_width: int = 4
    max_steps: int = 128
    max_step_tokens: int = 1024
    max_thinking_tokens: int = 16384
    max_answer_tokens: int = 4096
    closing: str = CLOSING
    seed: int = 0
    slots: int = 8
    quantum: int | None = None

    @property
    def whole(self) -> bool:
        """Whether proposers write whole traces instead of steps."""
        return self.segmentation == "whole"


@dataclasses.dataclass(frozen=True)
class ProblemSizes:
    """What a run's problems need room for, in tokens.

    Attributes:
      prompt_width: capacity for a prompt, of any reader; a multiple of the chunk.
      closing_width: most tokens of all closings of a problem; scored_width: most scored tokens among them.
      num_forms: most accepted forms of an answer.
    """

    prompt_width: int
    closing_width: int
    scored_width: int
    num_forms: int


@dataclasses.dataclass(frozen=True)
class Capacities:
    """What follows from the settings for every reader.

    Attributes:
      max_steps: rounds of a search.
      step_tokens: cap of a step in its writer's tokens.
      step_width: capacity of a canonical step in any vocabulary's tokens, which may split text finer.
      columns: of a pool. An estimate: the engine compacts and widens pools that turn out too narrow.
    """

    max_steps: int
    step_tokens: int
    step_width: int
    columns: int


def capacities(settings: SearchSettings, problems: ProblemSizes) -> Capacities:
    """The capacities of a search."""
    step_tokens = settings.max_thinking_tokens if settings.whole else settings.max_step_tokens
    step_tokens = min(step_tokens, settings.max_thinking_tokens)
    step_width = packing.round_up(step_tokens + step_tokens // 8 + 16, 16)
    columns = (
        problems.prompt_width
        + settings.max_thinking_tokens
        + (1 if settings.whole else settings.beam_width) * step_width
        + settings.max_answer_tokens
    )
    return Capacities(
        max_steps=1 if settings.whole else settings.max_steps,
        step_tokens=step_tokens,
        step_width=step_width,
        columns=columns,
    )


def plan_search(
    readers: Sequence[ReaderPlan],
    meta: int,
    settings: SearchSettings,
    sizes: Capacities,
    problems: ProblemSizes,
    mesh: Mesh,
) -> SearchPlan:
    """The plan of a search.

    Args:
      readers: with pools of `sizes.columns`; `meta` is the index of the meta-prover's.
      mesh: the slots are rounded up to a multiple of its data shards.
    """
    data = mesh.shape["data"]
    slots = packing.round_up(settings.slots, data)
    proposers = sum(len(reader.proposers) for reader in readers)
    group = 1 if settings.whole else settings.beam_width * proposers
    rows = PASS_TOKENS // (group * (sizes.step_width + problems.closing_width))
    return SearchPlan(
        readers=tuple(readers),
        meta=meta,
        num_proposers=proposers,
        num_beams=settings.beam_width,
        slots=slots,
        whole=settings.whole,
        max_steps=sizes.max_steps,
        max_step_tokens=sizes.step_tokens,
        max_thinking_tokens=settings.max_thinking_tokens,
        max_answer_tokens=settings.max_answer_tokens,
        step_width=sizes.step_width,
        num_forms=problems.num_forms,
        shards=Shards(mesh, max(1, min(4, slots // data, rows))),
        quantum=settings.quantum or min(32, max(4, sizes.step_tokens // 2)),
        score_group=group,
        seed=settings.seed,
    )
