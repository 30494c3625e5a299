"""Texts and token sequences nobody would write, in the vocabularies of tests, of the miniature, and in real ones.

What the program makes of them is compared with `tests.reference.text`, which reads decoded bytes and knows no tokens.
"""

import functools
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from types import MappingProxyType

import pytest

from cord_jax.errors import UserError
from cord_jax.miniature import ASSETS
from cord_jax.text.boundaries import Boundaries, compile_boundaries
from cord_jax.text.segmentation import SEGMENTATIONS, read_proposal
from cord_jax.text.vocabulary import Vocabulary
from tests.reference import text as reference
from tests.text import small
from tests.text.conftest import FAMILIES
from tests.text.test_automaton import decided, stop
from tests.text.test_segmentation import BAD_BYTES, PIECES

MADE = MappingProxyType(
    {
        "byte-level": lambda: small.byte_level(),
        "prefix space": lambda: small.byte_level(add_prefix_space=True),
        "gpt2": lambda: small.byte_level(
            merges=(("\u010a", "\u010a"), ("#", "#"), ("\u0120", "\u0120"), ("a", "."))
        ),
        "no prefix": lambda: small.sentencepiece("none"),
        "normalizer": lambda: small.sentencepiece("normalizer"),
        "metaspace first": lambda: small.sentencepiece("metaspace first"),
        "metaspace always": lambda: small.sentencepiece("metaspace always"),
    }
)
MINIATURE = ("products", "shares", "sums", "prover", "student")
ODD = (
    *("\r", "\r\n", "\r\n\r\n", "\0", "\n\0\n", "\ufeff", "\u200b", "\u200d", "\u2581", "\u0120", "\u010a", "<0x0A>"),
    *("<s>", "</s>", "<|end|>", "<|sep|>", "<|endoftext|>", "<unk>", "[THINK]", "e\u0301", "\u1112\u1161\u11ab", "\u0344"),
    *("\u0958", "\ufb01", "\u212b", "\U0001f1e9\U0001f1ea", "\u202e", "\x7f", "\x1b[0m", "#" * 40, "\n" * 9, " " * 33, "\t\t "),
    *("</think></think>", "\n### Step\n### Step 2", "\n### Step\u00e9", "\n### Step\0", "\n### Step\r\n", "\r### Step 2"),
)  # fmt: skip
CLOSINGS = (
    reference.DEFAULT_CLOSING,
    "</think>",
    " ",
    "\n",
    "a",
    "Answer:",
    "</think>\n\n\\boxed{",
    "\u00e9",
    "x <|sep|> ",
)
_FOLLOWS = "#"


def small_world(directory: Path) -> None:
    """Saves the vocabularies that tests make."""
    for name, make in MADE.items():
        small.save(directory / name, make())


def real_world(directory: Path) -> None:
    """Nothing; the tests are skipped where there are no real vocabularies."""
    if not _real().is_dir():
        pytest.skip("no real vocabularies")


def _real() -> Path:
    return Path(os.environ.get("CORD_SHARED", "")) / "tokenizers"


@functools.cache
def _vocabulary(directory: Path) -> Vocabulary:
    return Vocabulary.load(directory)


@functools.cache
def _boundaries(directory: Path, segmentation: str) -> Boundaries:
    vocabulary = _vocabulary(directory)
    return compile_boundaries(segmentation, vocabulary, len(vocabulary.token_bytes) + 3)


@functools.cache
def _near(directory: Path) -> list[int]:
    """Ids that have to do with a marker, and those that are no text by themselves."""
    marks = (b"#", b"Step", b"<", b"think", b"\n", b"\r", b"ait", b". ", b"'", b"-")
    found = []
    for i, piece in enumerate(_vocabulary(directory).token_bytes):
        whole = piece.decode("utf-8", "ignore").encode() == piece
        if any(mark in piece for mark in marks) or not whole:
            found.append(i)
    return found


def _character(rng: Random) -> str:
    """Any assigned character; Python and a tokenizer may know different versions of Unicode."""
    while True:
        character = chr(rng.choice([rng.randrange(128), rng.randrange(0x3000), rng.randrange(0x110000)]))
        if unicodedata.category(character) not in ("Cs", "Cn", "Co"):
            return character


def text(rng: Random, pieces: int) -> str:
    """Markers, their pieces, what is near to one, and any characters."""
    drawn = []
    for _ in range(rng.randint(0, pieces)):
        drawn.append(
            rng.choice([lambda: rng.choice(PIECES), lambda: rng.choice(ODD), lambda: _character(rng)])()
        )
    return "".join(drawn)


def _ids(rng: Random, directory: Path) -> list[int]:
    vocabulary, ids = _vocabulary(directory), []
    for _ in range(rng.randint(0, 9)):
        match rng.randrange(4):
            case 0:
                ids.append(rng.randrange(len(vocabulary.token_bytes)))
            case 1:
                ids.append(rng.choice(_near(directory)))
            case 2:
                ids.extend(vocabulary.encode(text(rng, 2)))
            case 3:
                lone = [vocabulary.token_bytes.index(bytes([b])) for b in rng.choice(BAD_BYTES)
                        if bytes([b]) in vocabulary.token_bytes]  # fmt: skip
                ids.extend(lone)
    return ids


def texts_of(places: Mapping[str, Path] | None):
    """Draws (kind, directory of a vocabulary, what is read)."""

    def case(directory: Path, rng: Random):
        where = places or {name: directory / name for name in MADE} | {
            name: ASSETS / name for name in MINIATURE
        }
        place = where[rng.choice(sorted(where))]
        match rng.choice(["ids", "ids", "texts", "steps", "answer"]):
            case "ids":
                how = rng.choice(["eos", "cap", "budget"]), rng.random() < 0.5
                return "ids", place, (rng.choice(SEGMENTATIONS), _ids(rng, place), *how)
            case "texts":
                drawn = [text(rng, 12) for _ in range(rng.randint(1, 4))]
                if rng.random() < 0.05:
                    drawn[0] += "\ud83d"
                return "texts", place, drawn
            case "steps":
                return "steps", place, [text(rng, 8) for _ in range(rng.randint(1, 4))]
            case "answer":
                return "answer", place, (rng.choice(CLOSINGS), text(rng, 4))

    return case


def real_places() -> dict[str, Path]:
    """The directories of real vocabularies."""
    return {name: _real() / name for name in FAMILIES}


def read_texts(directory: Path, case) -> None:
    """Asks that what is read is what the reference reads."""
    kind, place, given = case
    {"ids": _read_ids, "texts": _read_texts, "steps": _read_steps, "answer": _read_answer}[kind](place, given)


def _read_ids(place: Path, given) -> None:
    """A proposal: sampled until the device sees a boundary, then cut and brought to its canonical form by the host."""
    segmentation, ids, stopped, has_prefix = given
    vocabulary = _vocabulary(place)
    count = stop(_boundaries(place, segmentation), ids)
    assert count == decided(segmentation, vocabulary.token_bytes, ids)
    body = vocabulary.join(ids[:count])
    why = "boundary" if count is not None else "eos" if stopped == "eos" else "limit"
    found = read_proposal(segmentation, 12, body, why, stopped == "budget", has_prefix)
    expected = reference.read_proposal(segmentation, 12, body, stopped, has_prefix)
    assert (found.text, found.ended, found.dropped) == (expected.text, expected.ended, expected.dropped)
    assert _told_apart(vocabulary, [found.text]) == _told_apart(
        vocabulary, [vocabulary.text(vocabulary.encode(found.text))]
    )


def _read_texts(place: Path, given: Sequence[str]) -> None:
    vocabulary = _vocabulary(place)
    texts = [unicodedata.normalize("NFC", one) for one in given]
    if any("\ud800" <= c <= "\udfff" for one in texts for c in one):
        for encode in (vocabulary.encode_batch, lambda texts: vocabulary.encode_prompt(texts[0])):
            with pytest.raises(UserError):
                encode(texts)
        return
    encoded = vocabulary.encode_batch(texts)
    assert encoded == [vocabulary.encode(one) for one in texts]
    assert _told_apart(vocabulary, map(vocabulary.text, encoded)) == _told_apart(vocabulary, texts)


def _read_steps(place: Path, given: Sequence[str]) -> None:
    """Steps encoded one by one are the whole text encoded, with other text behind it."""
    vocabulary = _vocabulary(place)
    proposals = [
        reference.read_proposal("prompt", step, body.encode(), "cap", True)
        for step, body in enumerate(given, 1)
    ]
    steps = [proposal.text for proposal in proposals if proposal.text]
    if any(token in one for one in steps for token in _swallowing(vocabulary)):
        return
    pieces = vocabulary.encode_pieces(steps, "prompt")
    whole, end = vocabulary.encode("".join(steps) + _FOLLOWS), vocabulary.encode(_FOLLOWS)
    assert [i for ids in pieces for i in ids] == whole[: -len(end)]
    assert whole[-len(end) :] == end


def _read_answer(place: Path, given: tuple[str, str]) -> None:
    closing, answer = given
    vocabulary = _vocabulary(place)
    ids, scored = vocabulary.encode_with_answer(closing, answer)
    answer = unicodedata.normalize("NFC", answer)
    assert ids == vocabulary.encode(closing + answer + ".")
    if any(token in closing + answer for token in _swallowing(vocabulary)):
        return
    begin = len(closing.encode())
    inside, position = range(begin, begin + len(answer.encode())), 0
    for i, counts in zip(ids, scored, strict=True):
        after = position + len(vocabulary.token_bytes[i])
        assert counts == any(place in inside for place in range(position, after))
        position = after
    assert not scored[0] and any(scored)


@functools.cache
def _swallowing(vocabulary: Vocabulary) -> tuple[str, ...]:
    """Added tokens that swallow white space beside them."""
    added = vocabulary.tokenizer.backend_tokenizer.get_added_tokens_decoder().values()
    return tuple(token.content for token in added if token.lstrip or token.rstrip)


@functools.cache
def _is_sentencepiece(vocabulary: Vocabulary) -> bool:
    return vocabulary.text(vocabulary.encode("\u2581")) == " "


def _told_apart(vocabulary: Vocabulary, texts) -> list[str]:
    """Texts without what the vocabulary is allowed to lose (`Vocabulary`)."""
    if _is_sentencepiece(vocabulary):
        texts = [one.replace("\u2581", " ") for one in texts]
    pattern = "|".join(map(re.escape, _swallowing(vocabulary)))
    return [re.sub(rf"\s*({pattern})\s*", r"\1", one) if pattern else one for one in texts]
