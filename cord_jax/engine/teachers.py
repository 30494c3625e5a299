"""Loading a pool: checkpoints, vocabularies and readers, each once however many proposers share it."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import models
from cord_jax.engine.limits import check_length
from cord_jax.engine.overflow import refuse_overflow
from cord_jax.engine.plan import ReaderParts
from cord_jax.engine.tables import Tables, judging_arrays, make_tables
from cord_jax.pool import PoolSpec, RewardModelSpec
from cord_jax.problems import Problem
from cord_jax.search.readers import JudgingTables, ReaderConstants
from cord_jax.search.sampling import SamplingSettings
from cord_jax.text.prompt_settings import PromptSettings
from cord_jax.text.prompts import encode_prompts
from cord_jax.text.reward_text import RewardText
from cord_jax.text.vocabulary import Vocabulary

# What a network in float16 is tried on where there is no problem yet.
_TRIED = [Problem("", "What is 3 + 4?")]


@dataclasses.dataclass(frozen=True)
class Reader:
    """One checkpoint with one way of prompting it.

    Attributes:
      checkpoint: its directory.
      prompt: how its chat template is filled in.
      model: the network; readers of one checkpoint share it.
      execution: how it runs.
      vocabulary: its tokenizer.
      vocabulary_index: index among the distinct vocabularies of the pool.
      proposers: indices of the proposers that write through it.
      more: what follows the question in its prompts, by problem id.
    """

    checkpoint: Path
    prompt: PromptSettings
    model: models.Decoder
    execution: models.Execution
    vocabulary: Vocabulary
    vocabulary_index: int
    proposers: tuple[int, ...]
    more: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Teachers:
    """A loaded pool.

    Attributes:
      spec: what was asked for.
      readers: the distinct pairs of a checkpoint and its prompt settings.
      meta: index of the meta-prover's reader.
      vocabularies: the distinct vocabularies, and the reward model's text behind them.
      reward: index of the reward model's reader, None without one.
    """

    spec: PoolSpec
    readers: tuple[Reader, ...]
    meta: int
    vocabularies: tuple[Vocabulary | RewardText, ...]
    reward: int | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The proposers' names, in their order."""
        return tuple(proposer.name for proposer in self.spec.proposers)


class ReaderKey(NamedTuple):
    """The key of a reader: proposers with the same one share it."""

    checkpoint: Path
    prompt: PromptSettings
    dtype: str | None
    weights: str | None


def distinct_readers(spec: PoolSpec) -> tuple[dict[ReaderKey, tuple[int, ...]], int]:
    """The readers of a pool, each with its proposers, in the order of first use; the meta-prover's index."""
    used: dict[ReaderKey, tuple[int, ...]] = {}
    for index, proposer in enumerate(spec.proposers):
        key = ReaderKey(proposer.checkpoint, proposer.prompt, proposer.dtype, proposer.weights)
        used[key] = (*used.get(key, ()), index)
    judge = spec.meta_prover
    meta = ReaderKey(judge.checkpoint, judge.prompt, judge.dtype, judge.weights)
    used.setdefault(meta, ())
    return used, list(used).index(meta)


def load_teachers(
    spec: PoolSpec,
    mesh: Mesh,
    problems: Sequence[Problem] = (),
    new_tokens: int = 0,
    execution_of: Callable[..., models.Execution] = models.execution_of,
    rewards: bool = False,
    budgets: str | None = None,
) -> Teachers:
    """Loads every checkpoint and vocabulary of a pool once.

    Args:
      problems, new_tokens: what is read and, at most, written in this run: dynamic and longrope frequencies are those
        of the longest sequence.
      execution_of: says how each network runs, as `models.execution_of`.
      rewards: whether the pool's reward model is loaded, too; it is the last reader then.
      budgets: the flags that say how many tokens are new, if they were given (`limits.check_length`).

    Raises: `UserError` or `models.CheckpointError`, naming the directory.
    """
    used, meta = distinct_readers(spec)
    vocabulary_of = {path: Vocabulary.load(path) for path in dict.fromkeys(key.checkpoint for key in used)}
    fingerprints = list(dict.fromkeys(vocabulary.fingerprint for vocabulary in vocabulary_of.values()))
    if new_tokens:
        for key in used:
            check_length(
                key.checkpoint, vocabulary_of[key.checkpoint], key.prompt, problems, new_tokens, budgets
            )
    model_of: dict[Path, tuple[models.Decoder, models.Execution]] = {}
    for key in used:
        path = key.checkpoint
        if path in model_of:
            continue
        length, config = None, models.read_config(path)
        vocabulary_of[path].defined(config.vocab_size)  # told before the weights are read
        if new_tokens and config.depends_on_length:
            prompts = encode_prompts(vocabulary_of[path], key.prompt, problems)
            length = new_tokens + max(map(len, prompts), default=0)
        execution = execution_of(config, mesh, key.dtype, decodes=True)
        model = models.load(
            path,
            mesh,
            key.dtype,
            execution.stacked,
            max_length=length,
            weights=key.weights,
            outputs_first=execution.outputs_first,
        )
        if model.dtype == jnp.float16:
            tried = encode_prompts(vocabulary_of[path], key.prompt, problems[:1] or _TRIED)[0]
            refuse_overflow(model, mesh, tried, path)
        model_of[path] = model, execution
    readers = [
        Reader(
            checkpoint=key.checkpoint,
            prompt=key.prompt,
            model=model_of[key.checkpoint][0],
            execution=model_of[key.checkpoint][1],
            vocabulary=vocabulary_of[key.checkpoint],
            vocabulary_index=fingerprints.index(vocabulary_of[key.checkpoint].fingerprint),
            proposers=proposers,
        )
        for key, proposers in used.items()
    ]
    distinct = [next(v for v in vocabulary_of.values() if v.fingerprint == print_) for print_ in fingerprints]
    if not rewards:
        return Teachers(spec, tuple(readers), meta, tuple(distinct))
    reward_reader = _load_reward_model(spec.reward_model, mesh, len(distinct), execution_of)
    texts = (*distinct, RewardText(reward_reader.vocabulary))
    return Teachers(spec, (*readers, reward_reader), meta, texts, len(readers))


def _load_reward_model(
    spec: RewardModelSpec, mesh: Mesh, vocabulary_index: int, execution_of: Callable[..., models.Execution]
) -> Reader:
    """Loads a process reward model as a reader that nobody writes through."""
    vocabulary = Vocabulary.load(spec.checkpoint)
    RewardText(vocabulary)  # told before the weights are read
    execution = execution_of(models.read_config(spec.checkpoint), mesh, spec.dtype, decodes=True)
    model = models.load(
        spec.checkpoint,
        mesh,
        spec.dtype,
        execution.stacked,
        weights=spec.weights,
        outputs_first=execution.outputs_first,
    )
    prompt = PromptSettings(spec.system_prompt)
    refuse_overflow(model, mesh, vocabulary.encode(_TRIED[0].question), spec.checkpoint)
    return Reader(spec.checkpoint, prompt, model, execution, vocabulary, vocabulary_index, ())


def reader_parts(
    teachers: Teachers, segmentation_name: str, max_steps: int, mesh: Mesh, judged_after: str | None = None
) -> tuple[list[ReaderParts], tuple[ReaderConstants, ...]]:
    """The readers as the planner takes them, and their arrays.

    Args:
      judged_after: the closing after which the meta-prover writes judgments; None if it writes none.
    """
    parts, constants = [], []
    for index, reader in enumerate(teachers.readers):
        tables = make_tables(reader.vocabulary, reader.model.config.vocab_size, segmentation_name, max_steps)
        sampling = sampling_of(teachers.spec, reader.proposers)
        parts.append(
            ReaderParts(
                reader.model, reader.execution, reader.vocabulary_index, reader.proposers, sampling, tables
            )
        )
        arrays = reader_constants(reader.model, tables, mesh)
        if judged_after is not None and index == teachers.meta:
            judging = judging_arrays(reader.vocabulary, reader.model.config.vocab_size, judged_after)
            arrays = dataclasses.replace(arrays, judging=JudgingTables(**_whole(judging, mesh)))
        constants.append(arrays)
    return parts, tuple(constants)


def reader_constants(model: models.Decoder, tables: Tables, mesh: Mesh) -> ReaderConstants:
    """A reader's arrays: the weights as they lie, and the tables whole on every device."""
    _, weights = nnx.split(model)
    return ReaderConstants(weights=weights, **_whole(tables.arrays, mesh))


def _whole(arrays: Mapping[str, Any], mesh: Mesh) -> dict[str, jax.Array]:
    """Arrays whole on every device."""
    whole = NamedSharding(mesh, PartitionSpec())
    return {name: jax.device_put(jnp.asarray(value), whole) for name, value in arrays.items()}


def sampling_of(spec: PoolSpec, proposers: Sequence[int]) -> SamplingSettings:
    """The sampling settings of some of a pool's proposers."""
    writers = [spec.proposers[index] for index in proposers]
    return SamplingSettings(
        tuple(p.temperature for p in writers),
        tuple(p.top_k for p in writers),
        tuple(p.top_p for p in writers),
    )
