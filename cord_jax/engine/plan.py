"""The planner: from settings and sizes to how long, wide and many everything on the device is.

The engine, evaluation and the dry run plan with the same functions. Nothing here needs weights, tokenizers or devices, so
that a search can be planned for a machine that is not there (`cord_jax.dry_run`).
"""

import dataclasses
import math
from collections.abc import Sequence

from flax import nnx
from jax.sharding import Mesh

import models
from cord_jax.engine.tables import Tables
from cord_jax.search import packing
from cord_jax.search.decodings import Decoding
from cord_jax.search.readers import ReaderPlan, heads_or_columns
from cord_jax.search.sampling import SamplingSettings
from cord_jax.search.scorers import Scorer
from cord_jax.search.shards import Shards
from cord_jax.search.state import SearchPlan, SlotPlan
from models.attention import tree_triton

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
    """How to search: what a method makes of a `SynthesisConfig`. All but `slots` and `quantum` decide the traces.

    Attributes:
      segmentation: one of `segmentation.SEGMENTATIONS`.
      decoding: which nodes are extended next.
      scorer: what ranks candidates.
      max_steps: steps of a trace, at most.
      max_step_tokens, max_thinking_tokens, max_answer_tokens: limits (method, section 3.6).
      closing: text between the reasoning and the answer when a candidate is scored.
      filters: what drops candidates, as `filters.parse_filters` reads it; filters_together: whether a problem's
        candidates of a round are filtered as one group.
      scored_together: candidates of a problem that are scored in one pass, 0 for all; fewer take less memory.
      seed: of all draws.
      slots: problems searched at a time.
      quantum: tokens that proposers write in a round, None for a fitting number.
    """

    segmentation: str
    decoding: Decoding
    scorer: Scorer
    max_steps: int
    max_step_tokens: int
    max_thinking_tokens: int
    max_answer_tokens: int
    closing: str
    filters: str
    filters_together: bool
    scored_together: int
    seed: int
    slots: int
    quantum: int | None = None


@dataclasses.dataclass(frozen=True)
class ProblemSizes:
    """What a run's problems need room for, in tokens.

    Attributes:
      prompt_width: capacity for a prompt, of any reader.
      closing_width: most tokens of all closings of a problem; scored_width: most scored tokens among them.
      num_forms: most accepted forms of an answer.
    """

    prompt_width: int
    closing_width: int = 1
    scored_width: int = 1
    num_forms: int = 1


@dataclasses.dataclass(frozen=True)
class ReaderParts:
    """What a reader is made of.

    Attributes:
      model: its network, real or abstract.
      vocabulary: index of its vocabulary among the distinct ones.
      proposers: indices of the proposers that write through it; sampling: their settings.
      tables: what the search asks of the vocabulary.
    """

    model: models.Decoder
    vocabulary: int
    proposers: tuple[int, ...]
    sampling: SamplingSettings
    tables: Tables


def plan_search(
    parts: Sequence[ReaderParts], meta: int, settings: SearchSettings, sizes: ProblemSizes, mesh: Mesh
) -> SearchPlan:
    """Plans a search.

    The capacities of KV caches and steps are estimates: the engine compacts and widens what turns out too narrow.

    Args:
      meta: index of the meta-prover's reader.
      mesh: the slots are rounded up to a multiple of its data shards.
    """
    decoding, data = settings.decoding, mesh.shape["data"]
    grain = granularity(max(part.model.config.hidden_size for part in parts), mesh)
    num_proposers = sum(len(part.proposers) for part in parts)
    step_tokens = min(settings.max_step_tokens, settings.max_thinking_tokens)
    # Another vocabulary may split the text of a step finer.
    step_width = packing.round_up(step_tokens + step_tokens // 8 + 16, 16)
    columns = (
        packing.round_up(sizes.prompt_width, grain.chunk)
        + settings.max_thinking_tokens
        + decoding.kept * step_width
        + settings.max_answer_tokens
    )
    slots = packing.round_up(settings.slots, data)
    candidates = decoding.places * num_proposers
    group = settings.scored_together or candidates
    rows = PASS_TOKENS // (group * (step_width + sizes.closing_width))
    return SearchPlan(
        readers=_plan_readers(parts, columns, grain, mesh),
        meta=meta,
        num_proposers=num_proposers,
        places=decoding.places,
        opened_first=decoding.opened_first,
        nodes=1 + decoding.max_rounds * candidates,
        slots=slots,
        shards=Shards(mesh, max(1, min(4, slots // data, rows))),
        decoding=decoding,
        scorer=settings.scorer,
        max_steps=settings.max_steps,
        max_step_tokens=step_tokens,
        max_thinking_tokens=settings.max_thinking_tokens,
        max_answer_tokens=settings.max_answer_tokens,
        first_limit=step_tokens,
        step_width=step_width,
        read_width=max(step_width, min(step_tokens, settings.max_answer_tokens), 2 * grain.chunk),
        num_forms=sizes.num_forms,
        quantum=settings.quantum or min(32, max(4, step_tokens // 2)),
        score_group=group,
        seed=settings.seed,
    )


def plan_sampling(
    part: ReaderParts, samples: int, max_tokens: int, slots: int, seed: int, prompt_width: int, mesh: Mesh
) -> SlotPlan:
    """Plans the sampling of whole texts by one model.

    Args:
      samples: texts of a prompt.
      slots: prompts that are written for at a time; rounded up to a multiple of the mesh's data shards.
    """
    data = mesh.shape["data"]
    grain = granularity(part.model.config.hidden_size, mesh)
    slots = packing.round_up(slots, data)
    (reader,) = _plan_readers([part], prompt_width + 1, grain, mesh)
    return SlotPlan(
        readers=(dataclasses.replace(reader, start=reader.free),),  # only EOS and the cap end a text
        places=samples,
        opened_first=samples,
        nodes=1,
        slots=slots,
        shards=Shards(mesh, max(1, min(4, slots // data))),
        max_step_tokens=max_tokens,
        first_limit=max_tokens,
        read_width=2 * grain.chunk,
        quantum=256,
        seed=seed,
    )


def _plan_readers(
    parts: Sequence[ReaderParts], columns: int, grain: Granularity, mesh: Mesh
) -> tuple[ReaderPlan, ...]:
    """Plans readers whose KV caches have `columns` columns at least."""
    blocks, plans = pool_blocks(columns, grain), []
    for part in parts:
        graphdef, _ = nnx.split(part.model)
        heads = part.model.config.num_kv_heads
        plan = ReaderPlan(
            graphdef=graphdef,
            stacked=part.model.is_stacked,
            vocabulary=part.vocabulary,
            proposers=part.proposers,
            blocks=blocks,
            split_columns=heads_or_columns(heads, math.gcd(*blocks), mesh) == "columns",
            attention=attention_of(part.model, mesh),
            leaves_out=leaves_out_rows(part.model.config.hidden_size, mesh),
            chunk=grain.chunk,
            together=grain.together,
            unit=grain.unit,
            start=part.tables.start,
            free=part.tables.free,
            sampling=part.sampling,
        )
        plans.append(plan)
    return tuple(plans)


def pool_blocks(columns: int, grain: Granularity) -> tuple[int, ...]:
    """The blocks of a KV cache of at least so many columns; all but the last, which takes the rest, are alike."""
    block = packing.round_up(max(grain.block, -(-columns // grain.blocks)), grain.unit)
    number = -(-columns // block)
    last = packing.round_up(columns - (number - 1) * block, grain.unit)
    return (block,) * (number - 1) + (last,)


def attention_of(model: models.Decoder, mesh: Mesh) -> str:
    """What of `prefix_tree.ATTENTION` suits a network on a mesh: "blocks" wherever caches lie over `model`."""
    platform = mesh.devices.flat[0].platform
    if mesh.shape["model"] > 1:
        return "blocks"
    if platform == "gpu" and tree_triton.supported(model.dtype, model.config.head_dim):
        return "flash"
    return "pieces" if platform == "cpu" else "blocks"
