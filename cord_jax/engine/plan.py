"""The planner: from settings and sizes to how long, wide and many everything on the device is.

The engine, evaluation and the dry run plan with the same functions. Nothing here needs weights, tokenizers or devices, so
that a search can be planned for a machine that is not there (`cord_jax.dry_run`).
"""

import dataclasses
from collections.abc import Sequence

from flax import nnx
from jax.sharding import Mesh

import models
from cord_jax.engine.tables import Tables
from cord_jax.pool import MetaProverSpec
from cord_jax.search import packing
from cord_jax.search.decodings import Decoding
from cord_jax.search.judgments import Judging
from cord_jax.search.readers import ReaderPlan
from cord_jax.search.sampling import SamplingSettings
from cord_jax.search.scorers import Scorer
from cord_jax.search.shards import Shards
from cord_jax.search.state import SearchPlan, SlotPlan

# Tokens of a packed text up to which a pass takes more than one problem of a data shard.
PASS_TOKENS = 8192


@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """Settings of a search, as a method makes them of a `SynthesisConfig`. All but `slots` and `quantum` decide the traces.

    Attributes:
      segmentation: one of `segmentation.SEGMENTATIONS`.
      decoding: which nodes are extended next.
      scorer: what ranks candidates.
      max_steps: steps of a trace, at most.
      max_step_tokens, max_thinking_tokens, max_answer_tokens: limits (method, section 3.6).
      closing: text between the reasoning and the answer when a candidate is scored.
      filters: what drops candidates, as `filters.parse_filters` reads it; whole_traces: candidates
        are whole traces (method, sections 3.12 and 3.16).
      scored_together: candidates of a problem that are scored in one pass, 0 for all; fewer take less memory.
      answers: winners are reviewed and their writers write the responses; else a search is over when it has chosen.
      rescores: recorded rounds are scored anew, and nothing is proposed.
      draws: is added to the problems' ids where draws depend on them, so that a method's second search draws anew.
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
    whole_traces: bool
    scored_together: int
    seed: int
    slots: int
    answers: bool = True
    rescores: bool = False
    draws: str = ""
    quantum: int | None = None


@dataclasses.dataclass(frozen=True)
class ProblemSizes:
    """Sizes that a run's problems need room for, in tokens.

    Attributes:
      prompt_width: capacity for a prompt, of any reader; prompt_widths: of each reader, where it is known.
      closing_width: most tokens of all closings of a problem; scored_width: most scored tokens among them.
      num_forms: most accepted forms of an answer.
      review_width, review_scored_width, review_forms: the same of what is scored after the winners' reasoning; no forms
        where that is nothing.
    """

    prompt_width: int
    closing_width: int = 1
    scored_width: int = 1
    num_forms: int = 1
    review_width: int = 1
    review_scored_width: int = 1
    review_forms: int = 0
    prompt_widths: tuple[int, ...] | None = None


@dataclasses.dataclass(frozen=True)
class ReaderParts:
    """The parts of a reader.

    Attributes:
      model: its network, real or abstract.
      execution: how it runs.
      vocabulary: index of its vocabulary among the distinct ones.
      proposers: indices of the proposers that write through it; sampling: their settings.
      tables: what the search asks of the vocabulary.
    """

    model: models.Decoder
    execution: models.Execution
    vocabulary: int
    proposers: tuple[int, ...]
    sampling: SamplingSettings
    tables: Tables


def plan_search(
    parts: Sequence[ReaderParts],
    meta: int,
    settings: SearchSettings,
    sizes: ProblemSizes,
    mesh: Mesh,
    reward: tuple[int, int] | None = None,
    judging: Judging | None = None,
) -> SearchPlan:
    """Plans a search.

    The capacities of KV caches and steps are estimates: the engine compacts and widens what turns out too narrow.

    Args:
      meta: index of the meta-prover's reader.
      reward: index of the reward model's reader, and the id of its separator; None without one.
      judging: the judgments that the scorer asks for, None for none.
      mesh: the slots are rounded up to a multiple of its data shards.
    """
    decoding, data = settings.decoding, mesh.shape["data"]
    chunk = max(part.execution.chunk for part in parts)
    num_proposers = sum(len(part.proposers) for part in parts)
    step_tokens = min(settings.max_step_tokens, settings.max_thinking_tokens)
    # Another vocabulary may split the text of a step finer.
    step_width = packing.round_up(step_tokens + step_tokens // 8 + 16, 16)
    written = settings.max_thinking_tokens + decoding.kept * step_width + settings.max_answer_tokens
    widths = sizes.prompt_widths or (sizes.prompt_width,) * len(parts)
    columns = [packing.round_up(width, chunk) + written for width in widths]
    slots = packing.round_up(settings.slots, data)
    candidates = decoding.places * num_proposers
    if judging is not None:  # all candidates of a round, each with a closing
        columns[meta] += candidates * (step_width + sizes.closing_width)
    group = settings.scored_together or candidates
    rows = PASS_TOKENS // (group * (step_width + sizes.closing_width))
    return SearchPlan(
        readers=_plan_readers(parts, columns),
        meta=meta,
        reward=None if reward is None else reward[0],
        reward_separator=-1 if reward is None else reward[1],
        num_proposers=num_proposers,
        places=decoding.places,
        opened_first=decoding.opened_first,
        nodes=1 + decoding.max_rounds * candidates,
        slots=slots,
        shards=Shards(mesh, max(1, min(4, slots // data, rows))),
        decoding=decoding,
        scorer=settings.scorer,
        judging=judging,
        max_steps=settings.max_steps,
        max_step_tokens=step_tokens,
        max_thinking_tokens=settings.max_thinking_tokens,
        max_answer_tokens=settings.max_answer_tokens,
        answers=settings.answers,
        first_limit=step_tokens,
        step_width=step_width,
        read_width=max(step_width, min(step_tokens, settings.max_answer_tokens), 2 * chunk),
        num_forms=sizes.num_forms,
        quantum=settings.quantum or min(32, max(4, step_tokens // 2)),
        score_group=group,
        review_forms=sizes.review_forms,
        seed=settings.seed,
    )


def plan_judging(scorer: Scorer, meta_prover: MetaProverSpec, graded_outside: bool = False) -> Judging | None:
    """Plans the judgments that a scorer asks for; None if it asks for none.

    Those that are not graded are written greedily.

    Args:
      graded_outside: as in `Judging`.
    """
    if scorer.judgments is None:
        return None
    texts, max_tokens, graded = scorer.judgments
    of_one = (meta_prover.temperature, meta_prover.top_k, meta_prover.top_p) if graded else (0.0, 0, 1.0)
    sampling = SamplingSettings(*((value,) * texts for value in of_one))
    return Judging(texts, max_tokens, sampling, graded and graded_outside)


def plan_sampling(
    part: ReaderParts, samples: int, max_tokens: int, slots: int, seed: int, prompt_width: int, mesh: Mesh
) -> SlotPlan:
    """Plans the sampling of whole texts by one model.

    Args:
      samples: texts of a prompt.
      slots: prompts that are written for at a time; rounded up to a multiple of the mesh's data shards.
    """
    data = mesh.shape["data"]
    slots = packing.round_up(slots, data)
    (reader,) = _plan_readers([part], [prompt_width + 1])
    return SlotPlan(
        readers=(dataclasses.replace(reader, start=reader.free),),  # only EOS and the cap end a text
        places=samples,
        opened_first=samples,
        nodes=1,
        slots=slots,
        shards=Shards(mesh, max(1, min(4, slots // data))),
        max_step_tokens=max_tokens,
        first_limit=max_tokens,
        read_width=2 * part.execution.chunk,
        quantum=256,
        seed=seed,
    )


def _plan_readers(parts: Sequence[ReaderParts], columns: Sequence[int]) -> tuple[ReaderPlan, ...]:
    """Plans readers whose KV caches have so many columns each, at least."""
    plans = []
    for part, least in zip(parts, columns, strict=True):
        graphdef, _ = nnx.split(part.model)
        plan = ReaderPlan(
            graphdef=graphdef,
            execution=dataclasses.replace(part.execution, stacked=part.model.is_stacked),
            vocabulary=part.vocabulary,
            proposers=part.proposers,
            blocks=part.execution.pool.blocks(least),
            start=part.tables.start,
            free=part.tables.free,
            sampling=part.sampling,
        )
        plans.append(plan)
    return tuple(plans)
