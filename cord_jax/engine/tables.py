"""Tables of a vocabulary for the search, as arrays of the host: boundaries, forced texts, ids that end a text."""

import dataclasses
from typing import Any

import numpy as np

from cord_jax.text import segmentation
from cord_jax.text.boundaries import compile_boundaries
from cord_jax.text.vocabulary import Vocabulary

ANSWER_CUE = "</think>\n\n"


def cues(vocabulary: Vocabulary, segmentation_name: str, max_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """The forced pieces of text as tokens: row 0 what precedes an answer, row t the heading of step t."""
    texts = [ANSWER_CUE, *(segmentation.heading(segmentation_name, step) for step in range(1, max_steps + 2))]
    ids = vocabulary.encode_pieces(texts, segmentation_name)
    table_xt = np.zeros((len(ids), max(map(len, ids))), np.int32)
    for row, tokens in zip(table_xt, ids):
        row[: len(tokens)] = tokens
    return table_xt, np.array([len(tokens) for tokens in ids], np.int32)


def judging_arrays(vocabulary: Vocabulary, width: int, closing: str) -> dict[str, Any]:
    """The fields of `JudgingTables`, for a model whose logits have `width` entries.

    Args:
      closing: text between the reasoning and an answer.
    """
    ids = vocabulary.encode(closing.rstrip())
    newline_v = np.zeros(width, bool)
    with_newline = [i for i, piece in enumerate(vocabulary.token_bytes[:width]) if b"\n" in piece]
    newline_v[with_newline] = True
    closing_t = np.zeros(max(1, len(ids)), np.int32)
    closing_t[: len(ids)] = ids
    return dict(newline_v=newline_v, closing_t=closing_t, closing_length=np.int32(len(ids)))


@dataclasses.dataclass(frozen=True)
class Tables:
    """Tables of one vocabulary for the search.

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
    cue_xt, cue_length_x = cues(vocabulary, segmentation_name, max_steps)
    arrays = dict(
        token_class_v=boundaries.token_class.astype(np.int32),
        table_uc=np.concatenate([boundaries.table, stays]).astype(np.int32),
        done_u=np.append(boundaries.done, False),
        defined_v=vocabulary.defined(width),
        eos_v=eos_v,
        cue_xt=cue_xt,
        cue_length_x=cue_length_x,
    )
    return Tables(arrays, int(boundaries.start), free)
