"""Loading a pool: checkpoints, vocabularies and readers, each once however many proposers share it."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import models
from cord_jax import segmentation
from cord_jax.automaton import compile_boundaries
from cord_jax.pool import PoolSpec
from cord_jax.readers import ReaderConstants, ReaderPlan
from cord_jax.sampling import SamplingSettings
from cord_jax.vocabulary import Vocabulary

ANSWER_CUE = "</think>\n\n"


@dataclasses.dataclass(frozen=True)
class Reader:
    """One checkpoint with one system prompt.

    Attributes:
      checkpoint: its directory.
      system_prompt: None for what its chat template does by itself.
      model: the network; readers of one checkpoint share it.
      vocabulary: its tokenizer.
      vocabulary_index: index among the distinct vocabularies of the pool.
      proposers: indices of the proposers that write through it.
    """

    checkpoint: Path
    system_prompt: str | None
    model: models.Decoder
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


def load_teachers(spec: PoolSpec, mesh: Mesh) -> Teachers:
    """Loads every checkpoint and vocabulary of a pool once.

    Raises: `UserError` or `models.CheckpointError`, naming the directory.
    """
    used = {}  # (checkpoint, system prompt, dtype) -> its proposers, in the order of first use
    for index, proposer in enumerate(spec.proposers):
        used.setdefault((proposer.checkpoint, proposer.system_prompt, proposer.dtype), []).append(index)
    meta = (spec.meta_prover.checkpoint, spec.meta_prover.system_prompt, spec.meta_prover.dtype)
    used.setdefault(meta, [])
    vocabulary_of = {path: Vocabulary.load(path) for path in dict.fromkeys(path for path, _, _ in used)}
    fingerprints = list(dict.fromkeys(vocabulary.fingerprint for vocabulary in vocabulary_of.values()))
    model_of = {
        key: models.load(key[0], mesh, dtype=key[1])
        for key in dict.fromkeys((path, dtype) for path, _, dtype in used)
    }
    readers = []
    for (path, system_prompt, dtype), proposers in used.items():
        vocabulary = vocabulary_of[path]
        readers.append(
            Reader(
                path,
                system_prompt,
                model_of[path, dtype],
                vocabulary,
                fingerprints.index(vocabulary.fingerprint),
                tuple(proposers),
            )
        )
    distinct = [next(v for v in vocabulary_of.values() if v.fingerprint == print_) for print_ in fingerprints]
    return Teachers(spec, tuple(readers), list(used).index(meta), tuple(distinct))


def cues(vocabulary: Vocabulary, segmentation_name: str, max_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """The forced pieces of text as tokens: row 0 what precedes an answer, row t the heading of step t."""
    texts = [ANSWER_CUE, *(segmentation.heading(segmentation_name, step) for step in range(1, max_steps + 2))]
    ids = vocabulary.encode_batch(texts)
    table_xm = np.zeros((len(ids), max(map(len, ids))), np.int32)
    for row, tokens in zip(table_xm, ids):
        row[: len(tokens)] = tokens
    return table_xm, np.array([len(tokens) for tokens in ids], np.int32)


def compile_reader(
    reader: Reader, spec: PoolSpec, segmentation_name: str, max_steps: int, columns: int, mesh: Mesh
) -> tuple[ReaderPlan, ReaderConstants]:
    """A reader as the search needs it: what is static, and its constant arrays on the mesh."""
    width = reader.model.config.vocab_size
    boundaries = compile_boundaries(segmentation_name, reader.vocabulary, width)
    # One more state that no token leaves, for answers, which only EOS ends.
    free = boundaries.table.shape[0]
    table_uc = np.concatenate([boundaries.table, np.full((1, boundaries.table.shape[1]), free)]).astype(
        np.int32
    )
    done_u = np.append(boundaries.done, False)
    eos_v = np.zeros(width, bool)
    eos_v[[i for i in reader.vocabulary.eos_ids if i < width]] = True
    cue_xm, cue_length_x = cues(reader.vocabulary, segmentation_name, max_steps)
    graphdef, weights = nnx.split(reader.model)
    proposers = [spec.proposers[index] for index in reader.proposers]
    plan = ReaderPlan(
        graphdef=graphdef,
        stacked=reader.model.is_stacked,
        vocabulary=reader.vocabulary_index,
        proposers=reader.proposers,
        columns=columns,
        start=int(boundaries.start),
        free=free,
        sampling=SamplingSettings(
            tuple(p.temperature for p in proposers),
            tuple(p.top_k for p in proposers),
            tuple(p.top_p for p in proposers),
        ),
    )
    replicated = NamedSharding(mesh, PartitionSpec())
    arrays = dict(
        token_class_v=boundaries.token_class.astype(np.int32),
        table_uc=table_uc,
        done_u=done_u,
        defined_v=reader.vocabulary.defined(width),
        eos_v=eos_v,
        cue_xm=cue_xm,
        cue_length_x=cue_length_x,
    )
    arrays = {name: jax.device_put(jnp.asarray(value), replicated) for name, value in arrays.items()}
    return plan, ReaderConstants(weights=weights, **arrays)
