"""A model's vocabulary: text to ids and back, byte for byte (method, section 3.1).

Three things are asked of it that a tokenizer does not offer as it is. A step is encoded as a continuation, so without the
dummy prefix that SentencePiece vocabularies put before a text. Every id has its literal bytes, so that a boundary is
found in text whatever the tokens. And an answer's tokens are known among those of the text around it.
"""

import functools
import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from cord_jax.errors import UserError
from cord_jax.text.end_of_turn import ids_that_end_a_turn
from cord_jax.text.self_test import SAMPLES, seams
from cord_jax.text.tokenizer_files import load_tokenizer, rows_of, without_rows

_SPACE = "\u2581"  # ▁, which stands for a space in SentencePiece vocabularies
_SURROGATE = re.compile("[\ud800-\udfff]")
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


# What stands for the text after a piece: it never joins white space before it.
_FOLLOWS = "#"


class Vocabulary:
    """The vocabulary of one checkpoint.

    Encoding keeps every NFC text, but that a SentencePiece vocabulary reads a literal U+2581 as the space it
    stands for, and that added tokens which strip their surroundings swallow white space beside them.

    Attributes:
      directory: the checkpoint's directory.
      tokenizer: its Hugging Face tokenizer, which holds the chat template.
      token_bytes: for each id, the bytes that it adds to a text: an added or special token its literal
        content, an id that the tokenizer does not define nothing.
      eos_ids: the ids that end a turn (`end_of_turn.ids_that_end_a_turn`).
      fingerprint: equal for two vocabularies that encode every text alike because they have the same
        definition.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, directory: Path, eos_ids: frozenset[int]):
        self.directory = directory
        self.tokenizer = tokenizer
        self.eos_ids = eos_ids
        self._whole = tokenizer.backend_tokenizer
        self._whole.no_truncation()
        self._whole.no_padding()
        definition = json.loads(self._whole.to_str())
        if without_rows(definition, rows_of(directory), directory):
            self._whole = Tokenizer.from_str(json.dumps(definition))
        self.token_bytes = _token_bytes(self._whole, definition, directory)
        self._ids = np.array(sorted(self._whole.get_vocab(with_added_tokens=True).values()))
        identity = {
            part: definition[part] for part in ("added_tokens", "normalizer", "pre_tokenizer", "model")
        }
        self.fingerprint = hashlib.sha256(repr(identity).encode()).hexdigest()
        self._continuation = self._whole
        if _drop_dummy_prefix(definition):
            self._continuation = Tokenizer.from_str(json.dumps(definition))
        self._seam_rates: dict[str, float] = {}
        self._check()

    @classmethod
    def load(cls, directory: str | Path) -> "Vocabulary":
        """Loads the vocabulary of a Hugging Face directory (`tokenizer_files.load_tokenizer`).

        Raises:
          UserError: there is no tokenizer.json, it is of a kind that is not supported, or no token ends a
            turn.
        """
        directory = Path(directory)
        tokenizer = load_tokenizer(directory)
        return cls(tokenizer, directory, ids_that_end_a_turn(directory, tokenizer, rows_of(directory)))

    def encode(self, text: str) -> list[int]:
        """The ids of a text as a continuation: no special tokens and no dummy prefix before it.

        An added token that the text spells out becomes its id.
        """
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """As `encode`, for many texts at once."""
        return self._encode(self._continuation, texts)

    def _encode(self, tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
        try:
            encodings = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        except (
            Exception
        ) as error:  # the library's own, bare: an unknown token that is none of the vocabulary, say
            half = any(map(_SURROGATE.search, texts))
            reason = "it holds half of a surrogate pair, which is no character" if half else error
            raise UserError(f"{self.directory}: the tokenizer cannot encode a text: {reason}") from None
        return [encoding.ids for encoding in encodings]

    def encode_pieces(self, texts: Sequence[str], segmentation: str) -> list[list[int]]:
        """Encodes pieces of a trace, which other text follows.

        Where the vocabulary's seams differ (`seam_rate`), a piece that ends in white space is encoded as it is with text
        after it: GPT-2's vocabularies take two line breaks at the end of a text for one token, and before text for two.
        """
        if self.seam_rate(segmentation) == 0:
            return self.encode_batch(texts)
        alone = self.encode_batch(texts)
        followed, end = self.encode_batch([text + _FOLLOWS for text in texts]), self.encode(_FOLLOWS)
        return [
            ids[: -len(end)] if text[-1:].isspace() and ids[-len(end) :] == end else as_it_is
            for text, as_it_is, ids in zip(texts, alone, followed)
        ]

    def encode_prompt(self, text: str) -> list[int]:
        """The ids of a whole prompt: no special tokens, but a dummy prefix where the tokenizer puts one."""
        return self._encode(self._whole, [text])[0]

    def join(self, ids: Iterable[int]) -> bytes:
        """The bytes that the ids spell."""
        return b"".join(self.token_bytes[i] for i in ids)

    def text(self, ids: Iterable[int]) -> str:
        """The text that the ids spell; bytes that are no character become U+FFFD."""
        return self.join(ids).decode("utf-8", "replace")

    def defined(self, width: int) -> np.ndarray:
        """Marks the logits of a model that belong to an id of the tokenizer: bool [width].

        Raises:
          UserError: the tokenizer has an id that the model has no logit for.
        """
        if self._ids[-1] >= width:
            raise UserError(
                f"{self.directory}: the tokenizer has id {self._ids[-1]}, but the model has only {width} "
                "logits; the tokenizer is not this model's"
            )
        mask = np.zeros(width, bool)
        mask[self._ids] = True
        return mask

    def encode_with_answer(self, closing: str, answer: str) -> tuple[list[int], list[bool]]:
        """The ids of `closing + answer + "."`, encoded as one piece, and which of them the score counts.

        Counted are the tokens whose text overlaps the answer's, so also one that the answer shares with the space before
        it or the period after it (method, section 3.7).

        Raises:
          UserError: no token of the closing comes before the first that counts, so that nothing predicts it.
        """
        answer = unicodedata.normalize("NFC", answer)
        if not answer:
            raise UserError("an empty answer has no text to score")
        ids = self.encode(closing + answer + ".")
        start = len(closing.encode())
        stop = start + len(answer.encode())
        spans = self._spans(ids, (closing + answer + ".").encode())
        if spans is None:
            raise UserError(
                f'{self.directory}: the tokenizer changes the text "{closing}{answer}."; '
                "use another --closing or another form of the answer"
            )
        scored = [begin < stop and end > start for begin, end in spans]
        if not any(scored):  # All of it is white space that an added token beside it swallowed.
            raise UserError(
                f'{self.directory}: the tokenizer drops the answer "{answer}"; use another form of it'
            )
        if scored[0]:
            raise UserError(
                f'--closing "{closing}": its first token is already part of the answer "{answer}"; '
                "use a closing of at least one token"
            )
        return ids, scored

    def _spans(self, ids: list[int], data: bytes) -> list[tuple[int, int]] | None:
        """Finds the place of each id's bytes in `data`; None if the ids do not spell it.

        Some added tokens swallow the white space beside them, which then belongs to no id.
        """
        spans, position = [], 0
        for i in ids:
            piece = self.token_bytes[i]
            while not data.startswith(piece, position):
                if not data[position : position + 1].isspace():
                    return None
                position += 1
            spans.append((position, position + len(piece)))
            position += len(piece)
        return spans if not data[position:].strip() else None

    def seam_rate(self, segmentation: str = "prompt") -> float:
        """Measures how often encode(a) + encode(b) differs from encode(a + b) where the segmentation cuts.

        It is measured over fixed texts. 0 means that a model's tokens of a trace are those of its whole text.
        """
        if segmentation not in self._seam_rates:
            self._seam_rates[segmentation] = self._measured_seam_rate(segmentation)
        return self._seam_rates[segmentation]

    def _measured_seam_rate(self, segmentation: str) -> float:
        pairs = seams(segmentation)
        first, second, both = (self.encode_batch(texts) for texts in zip(*((a, b, a + b) for a, b in pairs)))
        return sum(a + b != joined for a, b, joined in zip(first, second, both)) / len(pairs)

    def _check(self) -> None:
        """Encodes texts of many kinds: their ids must spell them byte for byte."""
        for sample, ids in zip(SAMPLES, self.encode_batch(SAMPLES)):
            if self.join(ids) != sample.encode():
                raise UserError(
                    f"{self.directory}: unsupported tokenizer: it turns {sample!r} into {self.text(ids)!r}; "
                    "supported are byte-level BPE and SentencePiece with byte fallback"
                )


def _flatten(component: dict[str, Any] | None) -> list[dict[str, Any]]:
    """A component of tokenizer.json as the list of its parts, nested sequences opened."""
    if component is None:
        return []
    if component["type"] != "Sequence":
        return [component]
    (parts,) = (component[key] for key in ("normalizers", "pretokenizers", "decoders") if key in component)
    return [leaf for part in parts for leaf in _flatten(part)]


def _drop_dummy_prefix(definition: dict[str, Any]) -> bool:
    """Takes out of a tokenizer.json, in place, what puts a space before a text; returns whether it did."""
    changed = False
    normalizers = _flatten(definition["normalizer"])
    kept = [part for part in normalizers if part["type"] != "Prepend"]
    if len(kept) < len(normalizers):
        definition["normalizer"] = {"type": "Sequence", "normalizers": kept}
        changed = True
    for part in _flatten(definition["pre_tokenizer"]):
        if part["type"] == "Metaspace" and part.get("prepend_scheme", "always") != "never":
            part["prepend_scheme"] = "never"
            part.pop("add_prefix_space", None)
            changed = True
        if part["type"] == "ByteLevel" and part["add_prefix_space"]:
            part["add_prefix_space"] = False
            changed = True
    return changed


def _token_bytes(tokenizer: Tokenizer, definition: dict[str, Any], directory: Path) -> list[bytes]:
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    token_bytes = [b""] * (max(vocabulary.values()) + 1)
    decoders = _flatten(definition["decoder"])
    kinds = {part["type"] for part in decoders}
    if "ByteLevel" in kinds:
        to_bytes = _byte_level
    elif "Metaspace" in kinds or any(part.get("pattern") == {"String": _SPACE} for part in decoders):
        to_bytes = functools.partial(_sentencepiece, byte_fallback="ByteFallback" in kinds)
    else:
        raise UserError(
            f"{directory}: unsupported tokenizer: decoder {sorted(kinds) or 'missing'}; "
            "supported are byte-level BPE and SentencePiece with byte fallback"
        )
    for token, i in vocabulary.items():
        token_bytes[i] = to_bytes(token)
    for i, added in tokenizer.get_added_tokens_decoder().items():
        token_bytes[i] = added.content.encode()
    return token_bytes


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins: printable bytes for themselves, the others from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}


_ALPHABET = _byte_alphabet()


def _byte_level(token: str) -> bytes:
    try:
        return bytes([_ALPHABET[character] for character in token])
    except KeyError:  # A token outside the alphabet stands for itself, as in the tokenizer's decoder.
        return token.encode()


def _sentencepiece(token: str, byte_fallback: bool) -> bytes:
    if byte_fallback and (found := _BYTE.fullmatch(token)):
        return bytes([int(found[1], 16)])
    return token.replace(_SPACE, " ").encode()
