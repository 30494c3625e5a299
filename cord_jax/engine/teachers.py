"""Loading a pool: checkpoints, vocabularies and readers, each once however many proposers share it."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import models
from cord_jax.pool import PoolSpec
from cord_jax.problems import Problem
from cord_jax.search.readers import ReaderConstants, ReaderPlan
from cord_jax.search.sampling import SamplingSettings
from cord_jax.text import segmentation
from cord_jax.text.boundaries import compile_boundaries
from cord_jax.text.prompts import encode_prompts
from cord_jax.text.vocabulary import Vocabulary

ANSWER_CUE = "</think>\n\n"


@dataclasses.dataclass(frozen=True)
class Reader:
    """One checkpoint with one system prompt.

    Attributes:
      checkpoint: its directory.
      system_prompt: None for what its chat template does by itself.
      model: the network; readers of one checkpoint share it.
      execution: how it runs.
      vocabulary: its tokenizer.
      vocabulary_index: index among the distinct vocabularies of the pool.
      proposers: indices of the proposers that write through it.
    """

    checkpoint: Path
    system_prompt: str | None
    model: models.Decoder
    execution: models.Execution
    vocabulary: Vocabulary
    vocabulary_index: int
    proposers: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Teachers:
    """A loaded pool.

    Attributes:
      spec: what was asked for.
      readers: the distinct (checkpoint, system prompt) pairs.
      meta: index of the meta-prover's reader.
      vocabularies: the distinct vocabularies.
    """

    spec: PoolSpec
    readers: tuple[Reader, ...]
    meta: int
    vocabularies: tuple[Vocabulary, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The proposers' names, in their order."""
        return tuple(proposer.name for proposer in self.spec.proposers)


class ReaderKey(NamedTuple):
    """What makes two proposers share a reader."""

    checkpoint: Path
    system_prompt: str | None
    dtype: str | None
    weights: str | None


def distinct_readers(spec: PoolSpec) -> tuple[dict[ReaderKey, tuple[int, ...]], int]:
    """The readers of a pool, each with its proposers, in the order of first use; the meta-prover's index."""
    used: dict[ReaderKey, tuple[int, ...]] = {}
    for index, proposer in enumerate(spec.proposers):
        key = ReaderKey(proposer.checkpoint, proposer.system_prompt, proposer.dtype, proposer.weights)
        used[key] = (*used.get(key, ()), index)
    judge = spec.meta_prover
    meta = ReaderKey(judge.checkpoint, judge.system_prompt, judge.dtype, judge.weights)
    used.setdefault(meta, ())
    return used, list(used).index(meta)


def load_teachers(
    spec: PoolSpec,
    mesh: Mesh,
    problems: Sequence[Problem] = (),
    new_tokens: int = 0,
    execution_of: Callable[..., models.Execution] = models.execution_of,
) -> Teachers:
    """Loads every checkpoint and vocabulary of a pool once.

    Args:
      problems, new_tokens: what is read and, at most, written in this run: dynamic and longrope frequencies are those
        of the longest sequence.
      execution_of: says how each network runs, as `models.execution_of`.

    Raises: `UserError` or `models.CheckpointError`, naming the directory.
    """
    used, meta = distinct_readers(spec)
    vocabulary_of = {path: Vocabulary.load(path) for path in dict.fromkeys(key.checkpoint for key in used)}
    fingerprints = list(dict.fromkeys(vocabulary.fingerprint for vocabulary in vocabulary_of.values()))
    model_of: dict[Path, tuple[models.Decoder, models.Execution]] = {}
    for key in used:
        path = key.checkpoint
        if path in model_of:
            continue
        length, config = None, models.read_config(path)
        if new_tokens and config.rope.depends_on_length:
            prompts = encode_prompts(vocabulary_of[path], key.system_prompt, problems)
            length = new_tokens + max(map(len, prompts), default=0)
        execution = execution_of(config, mesh, key.dtype, decodes=True)
        layout = dict(stacked=execution.stacked, outputs_first=execution.outputs_first)
        model = models.load(path, mesh, key.dtype, max_length=length, weights=key.weights, **layout)
        model_of[path] = model, execution
    readers = [
        Reader(
            checkpoint=key.checkpoint,
            system_prompt=key.system_prompt,
            model=model_of[key.checkpoint][0],
            execution=model_of[key.checkpoint][1],
            vocabulary=vocabulary_of[key.checkpoint],
            vocabulary_index=fingerprints.index(vocabulary_of[key.checkpoint].fingerprint),
            proposers=proposers,
        )
        for key, proposers in used.items()
    ]
    distinct = [next(v for v in vocabulary_of.values() if v.fingerprint == print_) for print_ in fingerprints]
    return Teachers(spec, tuple(readers), meta, tuple(distinct))


def cues(vocabulary: Vocabulary, segmentation_name: str, max_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """The forced pieces of text as tokens: row 0 what precedes an answer, row t the heading of step t."""
    texts = [ANSWER_CUE, *(segmentation.heading(segmentation_name, step) for step in range(1, max_steps + 2))]
    ids = vocabulary.encode_batch(texts)
    table_xm = np.zeros((len(ids), max(map(len, ids))), np.int32)
    for row, tokens in zip(table_xm, ids):
        row[: len(tokens)] = tokens
    return table_xm, np.array([len(tokens) for tokens in ids], np.int32)


@dataclasses.dataclass(frozen=True)
class Tables:
    """What the search asks of a vocabulary.

    Attributes:
      arrays: the fields of `ReaderConstants` but the weights, by name; arrays of the host, or their shapes.
      start, free: as in `ReaderPlan`.
    """

    arrays: dict[str, Any]
    start: int
    free: int


def make_tables(vocabulary: Vocabulary, width: int, segmentation_name: str, max_steps: int) -> Tables:
    """The tables of a vocabulary, for a model whose logits have `width` entries."""
    boundaries = compile_boundaries(segmentation_name, vocabulary, width)
    # One more state that no token leaves, for answers, which only EOS ends.
    free = boundaries.table.shape[0]
    stays = np.full((1, boundaries.table.shape[1]), free)
    eos_v = np.zeros(width, bool)
    eos_v[[i for i in vocabulary.eos_ids if i < width]] = True
    cue_xm, cue_length_x = cues(vocabulary, segmentation_name, max_steps)
    arrays = dict(
        token_class_v=boundaries.token_class.astype(np.int32),
        table_uc=np.concatenate([boundaries.table, stays]).astype(np.int32),
        done_u=np.append(boundaries.done, False),
        defined_v=vocabulary.defined(width),
        eos_v=eos_v,
        cue_xm=cue_xm,
        cue_length_x=cue_length_x,
    )
    return Tables(arrays, int(boundaries.start), free)


def plan_reader(
    model: models.Decoder,
    execution: models.Execution,
    vocabulary_index: int,
    proposers: tuple[int, ...],
    spec: PoolSpec,
    tables: Tables,
    columns: int,
) -> tuple[ReaderPlan, nnx.State]:
    """What is static about a reader with a pool of so many columns, and its weights (shapes, if the model is abstract)."""
    graphdef, weights = nnx.split(model)
    writers = [spec.proposers[index] for index in proposers]
    plan = ReaderPlan(
        graphdef=graphdef,
        execution=dataclasses.replace(execution, stacked=model.is_stacked),
        vocabulary=vocabulary_index,
        proposers=proposers,
        blocks=execution.pool.blocks(columns),
        start=tables.start,
        free=tables.free,
        sampling=SamplingSettings(
            tuple(p.temperature for p in writers),
            tuple(p.top_k for p in writers),
            tuple(p.top_p for p in writers),
        ),
    )
    return plan, weights


def compile_reader(
    reader: Reader,
    spec: PoolSpec,
    segmentation_name: str,
    max_steps: int,
    columns: int,
    mesh: Mesh,
) -> tuple[ReaderPlan, ReaderConstants]:
    """A reader as the search needs it: what is static, and its constant arrays on the mesh."""
    tables = make_tables(reader.vocabulary, reader.model.config.vocab_size, segmentation_name, max_steps)
    plan, weights = plan_reader(
        reader.model, reader.execution, reader.vocabulary_index, reader.proposers, spec, tables, columns
    )
    replicated = NamedSharding(mesh, PartitionSpec())
    arrays = {name: jax.device_put(jnp.asarray(value), replicated) for name, value in tables.arrays.items()}
    return plan, ReaderConstants(weights=weights, **arrays)
