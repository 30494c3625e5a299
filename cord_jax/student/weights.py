"""Weights of the tokens in the loss, from weights of the parts of a text."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Part:
    """A piece of the text that is learnt.

    weight: of its tokens beside those of other parts, not negative; None for tokens that weigh one, as all tokens do that
    belong to no part.
    """

    text: str
    weight: float | None


def token_weights(parts: Sequence[Part], pieces: Sequence[bytes]) -> np.ndarray:
    """The weight of each token of a text, float32 [tokens].

    A token belongs to the part that holds its first byte. Tokens of parts with a weight are weighted in proportion, their
    mean being one; if all these weights are 0, each token weighs one.

    Args:
      parts: the beginning of the text, in order.
      pieces: the bytes of each token. White space that no token spells, as some added tokens swallow it, is passed over.

    Raises: ValueError if the tokens do not spell the parts.
    """
    part_of_n = _part_of_each(parts, pieces)
    relative_n = np.array(
        [1.0 if p is None or parts[p].weight is None else parts[p].weight for p in part_of_n]
    )
    weighted_n = np.array([p is not None and parts[p].weight is not None for p in part_of_n], bool)
    total = float(np.sum(relative_n[weighted_n]))
    weight_n = np.where(weighted_n, relative_n * (np.sum(weighted_n) / total) if total > 0 else 1.0, 1.0)
    return weight_n.astype(np.float32)


def _part_of_each(parts: Sequence[Part], pieces: Sequence[bytes]) -> list[int | None]:
    """The part that holds each token's first byte; None for tokens behind the last part."""
    data = "".join(part.text for part in parts).encode()
    ends = np.cumsum([len(part.text.encode()) for part in parts])
    found: list[int | None] = []
    place = 0
    for piece in pieces:
        while place < len(data) and not piece.startswith(data[place : place + len(piece)]):
            if not data[place : place + 1].isspace():
                raise ValueError("the student's tokenizer changes the text of its steps")
            place += 1
        found.append(int(np.searchsorted(ends, place, side="right")) if place < len(data) else None)
        place += len(piece)
    return found
