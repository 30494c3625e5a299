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
class Granularity:
    """How much is computed at a time.

    Attributes:
      chunk: tokens of a packed text that attend at a time; a problem takes whole chunks.
      together: chunks, of one problem or of several, that are multiplied by weights at a time.
      block: columns of a block of a pool, at least; blocks of which nothing is in use are not read.
      blocks: of a pool, at most; where layers are not stacked, attention to each is compiled for every layer.
      unit: the columns of a block are a multiple of it.
    """

    chunk: int
    together: int
    block: int
    blocks: int
    unit: int


# Features of networks whose products keep all cores of a CPU busy.
WIDE = 512
# Elements of the last axis that a TPU lays out together.
TPU_LANES = 128


def leaves_out_rows(width: int, mesh: Mesh) -> bool:
    """Whether products with the weights of a network of so many features leave out rows that do not matter: on CPUs,
    where that saves time if matrices are large.

    Not where a product is divided over `model`: all its devices would have to leave out the same.
    """
    return mesh.devices.flat[0].platform == "cpu" and mesh.shape["model"] == 1 and width >= WIDE


def granularity(width: int, mesh: Mesh) -> Granularity:
    """What suits networks of so many features (`hidden_size`) on the devices of a mesh.

    On a CPU arithmetic is what costs, so little is computed at a time; where matrices are large, many rows must be
    multiplied at a time.
    """
    platform = mesh.devices.flat[0].platform
    if platform == "cpu":
        if mesh.shape["model"] > 1:
            return Granularity(chunk=32, together=1, block=288, blocks=3, unit=32)
        # On its own a device reads pieces of a block (`models.piecewise_attention`).
        together = 8 if leaves_out_rows(width, mesh) else 4
        return Granularity(chunk=32, together=together, block=288, blocks=1, unit=32)
    if platform == "gpu":  # `models.flash_attention` leaves out what is not seen
        return Granularity(chunk=512, together=1, block=1024, blocks=1, unit=512)
    # Where columns lie over `model`, a TPU turns keys around whose columns on a device do not fill its lanes, and with
    # them whole pools, again and again.
    unit = packing.round_up(512, TPU_LANES * mesh.shape.get("model", 1))
    return Granularity(chunk=512, together=1, block=1024, blocks=8, unit=unit)


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
      blocks: columns of each block of a pool. An estimate: the engine compacts and widens pools that turn out too
        narrow.
    """

    max_steps: int
    step_tokens: int
    step_width: int
    blocks: tuple[int, ...]


def capacities(settings: SearchSettings, problems: ProblemSizes, grain: Granularity) -> Capacities:
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
        blocks=pool_blocks(columns, grain),
    )


def pool_blocks(columns: int, grain: Granularity) -> tuple[int, ...]:
    """The blocks of a pool of at least so many columns; all but the last, which takes the rest, are alike."""
    block = packing.round_up(max(grain.block, -(-columns // grain.blocks)), grain.unit)
    number = -(-columns // block)
    last = packing.round_up(columns - (number - 1) * block, grain.unit)
    return (block,) * (number - 1) + (last,)


def plan_search(
    readers: Sequence[ReaderPlan],
    meta: int,
    settings: SearchSettings,
    sizes: Capacities,
    problems: ProblemSizes,
    mesh: Mesh,
    grain: Granularity,
) -> SearchPlan:
    """The plan of a search.

    Args:
      readers: with `blocks` from `capacities`; `meta` is the index of the meta-prover's.
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
        chunk=grain.chunk,
        together=grain.together,
        unit=grain.unit,
        quantum=settings.quantum or min(32, max(4, sizes.step_tokens // 2)),
        score_group=group,
        seed=settings.seed,
    )
