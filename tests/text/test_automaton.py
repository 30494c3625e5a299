"""The compiled boundaries stop at the token with which the text is decided, whatever the tokens."""

import functools
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cord_jax.errors import UserError
from cord_jax.text import segmentation as steps
from cord_jax.text.boundaries import compile_boundaries
from tests.reference import text as reference

from .test_segmentation import BAD_BYTES, PIECES

SURROGATE = re.compile(rb"\xed(?=[\xa0-\xbf])")


class Pieces:
    """A vocabulary of given byte strings."""

    def __init__(self, token_bytes):
        self.token_bytes = token_bytes

    def defined(self, width):
        return np.arange(width) < len(self.token_bytes)


def stop(boundaries, ids):
    """How many of the ids are sampled until a boundary is decided; None if none is."""
    state = boundaries.start
    assert not boundaries.done[state]
    for count, i in enumerate(ids, start=1):
        state = boundaries.table[state, boundaries.token_class[i]]
        if boundaries.done[state]:
            return count
    return None


def decided(segmentation, token_bytes, ids):
    """The same by reading the text anew after every token.

    Python's incremental decoder waits for a third byte of what would be a surrogate, which is no character in
    UTF-8 whatever follows. Its first byte is written as another that begins none.
    """
    body = b""
    for count, i in enumerate(ids, start=1):
        body += token_bytes[i]
        if reference.find_boundary(segmentation, SURROGATE.sub(b"\xff", body), finished=False) is not None:
            return count
    return None


ALPHABET = sorted(
    {piece.encode() for piece in PIECES}
    | set(BAD_BYTES)
    | {bytes([byte]) for byte in range(256)}
    | {
        b"",
        b"x\n### Step",
        b"\n### Steps",
        b"a</think>b",
        b". Wait",
        b". Wait,",
        b"ait",
        b"\n\nWait",
        b"ep 4",
        b"</think></think>",
        b"\n### Step 4\n### Step",
    }
)


@functools.cache
def compile_alphabet(segmentation):
    return compile_boundaries(segmentation, Pieces(ALPHABET), len(ALPHABET) + 3)


@pytest.mark.parametrize("segmentation", steps.SEGMENTATIONS)
@settings(max_examples=600, deadline=None)
@given(ids=st.lists(st.integers(0, len(ALPHABET) - 1), max_size=14))
def test_pieces_of_markers(segmentation, ids):
    boundaries = compile_alphabet(segmentation)
    assert stop(boundaries, ids) == decided(segmentation, ALPHABET, ids)


@pytest.mark.parametrize("segmentation", steps.SEGMENTATIONS)
@settings(max_examples=150, deadline=None)
@given(pieces=st.lists(st.sampled_from(ALPHABET), max_size=8), data=st.data())
def test_any_cut_of_a_text_into_tokens(segmentation, pieces, data):
    """Tokens of random lengths: a marker begins, spans and ends anywhere in them."""
    body = b"".join(pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=6)))
    tokens = [body[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(body)])]
    boundaries = compile_boundaries(segmentation, Pieces(tokens), len(tokens))
    ids = range(len(tokens))
    assert stop(boundaries, ids) == decided(segmentation, tokens, ids)


@pytest.mark.parametrize("segmentation", steps.SEGMENTATIONS)
def test_real_vocabularies(segmentation, real):
    """Random ids, among them many of those that have to do with a marker."""
    width = len(real.token_bytes) + 100
    boundaries = compile_boundaries(segmentation, real, width)
    assert boundaries.token_class.shape == (width,) and boundaries.token_class.dtype == np.int32
    assert boundaries.token_class.max() < boundaries.table.shape[1]
    assert boundaries.table[boundaries.done].ravel().tolist() == [
        state for state in np.flatnonzero(boundaries.done) for _ in range(boundaries.table.shape[1])
    ]
    rng = np.random.default_rng(0)
    near = [
        i
        for i, piece in enumerate(real.token_bytes)
        if any(mark in piece for mark in (b"#", b"Step", b"<", b"think", b"\n", b"ait", b". "))
    ]
    texts = [
        "\n### Step",
        "\n### Steps",
        "</think>",
        "</thi",
        "\n\n",
        "So. Wait",
        "\nalternatively",
        ". That\u2019s impossible",
        "\u00e9",
        "\u2082",
        " let me chec",
    ]
    found = 0
    for _ in range(400):
        ids = []
        for _ in range(rng.integers(1, 8)):
            kind = rng.integers(3)
            if kind == 0:
                ids.append(int(rng.integers(len(real.token_bytes))))
            elif kind == 1:
                ids.append(int(rng.choice(near)))
            else:
                ids.extend(real.encode(str(rng.choice(texts))))
        expected = decided(segmentation, real.token_bytes, ids)
        assert stop(boundaries, ids) == expected
        found += expected is not None
    assert 15 < found < 385


@pytest.mark.parametrize("segmentation", steps.SEGMENTATIONS)
def test_all_single_tokens_of_a_real_vocabulary(segmentation, load_real):
    """From the start and behind an open marker, every token of a vocabulary."""
    vocabulary = load_real("deepseek-r1")
    boundaries = compile_boundaries(segmentation, vocabulary, len(vocabulary.token_bytes))
    for lead in (b"", b"x.\n### Step", b"x. Wait", b"x\n", b"x</think"):
        ids = [vocabulary.token_bytes.index(bytes([byte])) for byte in lead]
        state = boundaries.start
        for i in ids:
            state = boundaries.table[state, boundaries.token_class[i]]
        stopped = boundaries.done[boundaries.table[state, boundaries.token_class]]
        expected = [
            reference.find_boundary(segmentation, lead + piece, finished=False) is not None
            for piece in vocabulary.token_bytes
        ]
        assert stopped.tolist() == expected


@pytest.mark.parametrize("segmentation", steps.SEGMENTATIONS)
@settings(max_examples=300, deadline=None)
@given(ids=st.lists(st.integers(0, len(ALPHABET) - 1), max_size=14))
def test_what_is_decided_is_found(segmentation, ids):
    """Where the device stops, the text has the boundary; where it does not, only one that the end itself
    decides."""
    boundaries = compile_alphabet(segmentation)
    count = stop(boundaries, ids)
    body = b"".join(ALPHABET[i] for i in ids[:count])
    if count is not None:
        found = steps.find_boundary(segmentation, body)
        assert found is not None
        further = steps.find_boundary(segmentation, body + b"s\n\nWait, </think>")
        assert further == found  # nothing that follows undoes it
    elif steps.find_boundary(segmentation, body) is not None:
        assert steps.find_boundary(segmentation, body + b"s") is None or segmentation == "prefix"


def test_ids_without_text_change_nothing():
    boundaries = compile_boundaries("prompt", Pieces([b"\n###", b" Step", b"", b" 4"]), 9)
    assert stop(boundaries, [0, 2, 7, 1, 8, 3]) == 6


def test_a_vocabulary_wider_than_the_model(load_real):
    with pytest.raises(UserError, match="logits"):
        compile_boundaries("prompt", load_real("phi-3"), 32000)
