"""The boundaries of `segmentation`, compiled for the device: one table lookup a token (method, section 4).

A boundary is a matter of text, and a token is a piece of bytes. So the markers are first made into an automaton over
bytes; then each token of a vocabulary is the transition that its bytes make one after another. Tokens that make the same
transition from every state form a class, of which there are few.

A state remembers how much of a marker the text ends with. Two things are decided only by what follows: `### Step` by the
next byte, and a prefix word by the next character, all of it, since a word may go on with any letter.
"""

import dataclasses
import functools
from collections.abc import Callable, Hashable, Sequence

import numpy as np

from cord_jax.text.segmentation import LINE_BREAK, PREFIX_WORDS, SEGMENTATIONS, STEP_MARKER, THINK_END
from cord_jax.text.vocabulary import Vocabulary

_DONE = "done"
_BLANK = "blank"


@dataclasses.dataclass(frozen=True)
class Boundaries:
    """The stopping rule of sampling, for one vocabulary.

    From `start`, the sampled ids lead through `table[state, token_class[id]]` to a state that is `done`
    exactly with the token that decides a boundary, and such a state is never left. EOS is none of it. An id
    without text changes nothing.

    Attributes:
      token_class: int32 [v], the class of each id.
      table: int16 [states, classes], the next state.
      start: the state before the first sampled token.
      done: bool [states].
    """

    token_class: np.ndarray
    table: np.ndarray
    start: int
    done: np.ndarray


def compile_boundaries(segmentation: str, vocabulary: Vocabulary, width: int) -> Boundaries:
    """The boundaries of a segmentation for a model whose logits have `width` entries.

    Raises:
      UserError: the vocabulary has an id beyond `width`.
      ValueError: the segmentation is unknown.
    """
    vocabulary.defined(width)
    byte_table, start, done = _byte_automaton(segmentation)
    token_bytes = vocabulary.token_bytes + [b""] * (width - len(vocabulary.token_bytes))
    token_class, transitions = _token_transitions(token_bytes, byte_table)
    return Boundaries(token_class, np.ascontiguousarray(transitions.T), start, done)


@functools.cache
def _byte_automaton(segmentation: str) -> tuple[np.ndarray, int, np.ndarray]:
    """The smallest automaton over bytes: (table int16 [states, 256], start, done bool [states])."""
    if segmentation not in SEGMENTATIONS:
        raise ValueError(f'segmentation "{segmentation}" is not one of {", ".join(SEGMENTATIONS)}')
    if segmentation == "prefix":
        table, done = _explore(_BLANK, _Utf8Step(_next_after_character))
    else:
        patterns = {
            "prompt": (STEP_MARKER, THINK_END),
            "line_break": (LINE_BREAK, THINK_END),
            "whole": (THINK_END,),
            "free": (THINK_END,),
        }[segmentation]
        table, done = _explore(b"", functools.partial(_next_after_byte, patterns))
    return _minimise(table, done)


def _next_after_byte(patterns: tuple[bytes, ...], state: Hashable, byte: int) -> Hashable:
    """The state after one more byte; a state is the longest end of the text that begins a pattern."""
    if state == STEP_MARKER and not bytes([byte]).isalpha():
        return _DONE
    text = state + bytes([byte])
    if any(text.endswith(pattern) for pattern in patterns if pattern != STEP_MARKER):
        return _DONE
    return next(text[i:] for i in range(len(text) + 1) if text[i:] in _beginnings(patterns))


@functools.cache
def _beginnings(patterns: tuple[Sequence, ...]) -> frozenset:
    return frozenset(pattern[:length] for pattern in patterns for length in range(len(pattern) + 1))


# Prefix words. Characters are folded to the few that the patterns tell apart: ! and ? to the period, the
# curly apostrophe to the straight one, and those beyond ASCII to one of their kind. The patterns hold what
# comes before a word.
_WORD, _SPACE, _OTHER = "\u00e9", "\u00a0", "\u00a7"
_WORD_PATTERNS = tuple(before + word for before in ("\n", ". ") for word in PREFIX_WORDS)
_THINK_END = THINK_END.decode()


def _fold(character: str) -> str:
    if character in "!?":
        return "."
    if character == "\u2019":
        return "'"
    if character.isascii():
        return character
    return _WORD if character.isalnum() else _SPACE if character.isspace() else _OTHER


def _next_after_character(state: str, character: str) -> str:
    """The state after one more folded character.

    It is blank as long as there is no text before which to cut, then the longest end of the text that begins a pattern.
    """
    if state == _BLANK:
        if character.isspace():
            return _BLANK
        state = ""
    if state in _WORD_PATTERNS and not (character.isalnum() or character == "_"):
        return _DONE
    text = state + character
    if text.endswith(_THINK_END):
        return _DONE
    for i in range(len(text)):
        if text[i:] in _beginnings((_THINK_END,)):
            return text[i:]
        if text[i:].lower() in _beginnings(_WORD_PATTERNS):
            return text[i:].lower()
    return ""


class _Tree:
    """A node with one child for each of the 64 continuation bytes: a tree, a leaf, or None where UTF-8 allows no such byte."""

    def __init__(self, children: "tuple[_Tree | str | None, ...]"):
        self.children = children


class _Utf8Step:
    """Makes an automaton over characters one over bytes.

    A state inside a character is the tree of what its next bytes lead to, its leaves states between
    characters, beside the state that follows if they are no character: then each byte so far counts as a
    character of the other kind.
    """

    def __init__(self, next_after_character: Callable[[str, str], str]):
        self._next = functools.cache(next_after_character)
        self._relabelled: dict[tuple, dict[_Tree, _Tree]] = {}
        self._trees: dict[tuple, _Tree] = {}

    def __call__(self, state: Hashable, byte: int) -> Hashable:
        if not isinstance(state, str):
            tree, broken = state
            child = tree.children[byte - 0x80] if 0x80 <= byte < 0xC0 else None
            if child is not None:
                return child if isinstance(child, str) else (child, broken)
            if broken == _DONE:
                return _DONE
            # A second byte of the other kind leaves the state that the first led to, so one stands for all.
            state = broken
        if byte < 0x80:
            return self._next(state, _fold(chr(byte)))
        if byte not in _characters():
            return self._next(state, _OTHER)
        leaves = {kind: self._next(state, kind) for kind in ("'", _WORD, _SPACE, _OTHER)}
        known = self._relabelled.setdefault(tuple(leaves.values()), {})
        return self._relabel(_characters()[byte], leaves, known), leaves[_OTHER]

    def _relabel(self, tree: _Tree, leaves: dict[str, str], known: dict[_Tree, _Tree]) -> _Tree:
        if tree not in known:
            children = tuple(
                self._relabel(child, leaves, known) if isinstance(child, _Tree) else leaves.get(child)
                for child in tree.children
            )
            known[tree] = self._trees.setdefault(children, _Tree(children))
        return known[tree]


@functools.cache
def _characters() -> dict[int, _Tree]:
    """For each first byte of a character beyond ASCII, the tree of the folded characters it begins."""
    leaves = [_fold(chr(code)) for code in range(0x110000)]
    leaves[0xD800:0xE000] = [None] * 0x800  # surrogates are no characters
    leaves += [None] * (0x140000 - 0x110000)  # nor is what lies above the last
    trees: dict[tuple, _Tree] = {}

    def tree(first: int, further_bytes: int, least: int) -> _Tree | None:
        """The characters from `first` on that differ in the further bytes; those below `least` take fewer."""
        stride = 64 ** (further_bytes - 1)
        blocks = range(first, first + 64 * stride, stride)
        if further_bytes == 1:
            children = tuple(leaves[first : first + 64])
        else:
            children = tuple(
                tree(block, further_bytes - 1, least) if block >= least else None for block in blocks
            )
        return trees.setdefault(children, _Tree(children)) if any(children) else None

    return (
        {byte: tree((byte - 0xC0) << 6, 1, 0x80) for byte in range(0xC2, 0xE0)}
        | {byte: tree((byte - 0xE0) << 12, 2, 0x800) for byte in range(0xE0, 0xF0)}
        | {byte: tree((byte - 0xF0) << 18, 3, 0x10000) for byte in range(0xF0, 0xF5)}
    )


def _explore(
    start: Hashable, next_state: Callable[[Hashable, int], Hashable]
) -> tuple[np.ndarray, np.ndarray]:
    """The states that bytes lead to from `start`, which is state 0: (table [states, 256], done [states])."""
    numbers, states, rows = {start: 0}, [start], []
    for state in states:  # grows while it is walked
        row = []
        for byte in range(256):
            following = _DONE if state == _DONE else next_state(state, byte)
            if following not in numbers:
                numbers[following] = len(states)
                states.append(following)
            row.append(numbers[following])
        rows.append(row)
    return np.array(rows), np.array([state == _DONE for state in states])


def _minimise(table: np.ndarray, done: np.ndarray) -> tuple[np.ndarray, int, np.ndarray]:
    """Merges the states that no text tells apart (Moore's algorithm)."""
    columns = np.unique(table, axis=1)
    block, count = done.astype(np.int64), 0
    while count != (count := block.max() + 1):
        block = np.unique(
            np.concatenate([block[:, None], block[columns]], axis=1), axis=0, return_inverse=True
        )[1]
    _, member = np.unique(block, return_index=True)
    return block[table[member]].astype(np.int16), int(block[0]), done[member]


def _token_transitions(token_bytes: list[bytes], byte_table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The transition of each token, the distinct ones numbered.

    All tokens are followed byte by byte at once. Few distinct transitions arise on the way, so each is made only once.

    Returns:
      token_class int32 [v], transitions int16 [classes, states].
    """
    bytes_of, kind_of_byte = np.unique(byte_table, axis=1, return_inverse=True)
    lengths = np.array([len(piece) for piece in token_bytes])
    starts = np.cumsum(lengths) - lengths
    spelled = kind_of_byte.reshape(-1)[np.frombuffer(b"".join(token_bytes), np.uint8)]
    transitions = np.arange(len(byte_table), dtype=np.int16)[None]
    token_class = np.zeros(len(token_bytes), np.int64)
    for position in range(lengths.max(initial=0)):
        active = np.flatnonzero(lengths > position)
        steps = token_class[active] * bytes_of.shape[1] + spelled[starts[active] + position]
        steps, place = _distinct(steps)
        before, kind = np.divmod(steps, bytes_of.shape[1])
        made = bytes_of[transitions[before], kind[:, None]]
        transitions = np.concatenate([transitions, made])
        numbers = _number_rows(transitions)
        token_class[active] = len(transitions) - len(made) + place
        # Numbered anew, and without those that no token has any more.
        token_class = numbers[token_class]
        used, token_class = _distinct(token_class)
        representative = np.zeros(numbers.max() + 1, np.int64)
        representative[numbers] = np.arange(len(numbers))
        transitions = transitions[representative[used]]
    return token_class.astype(np.int32), transitions


def _distinct(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As `np.unique` with the inverse, for many small numbers: without sorting them."""
    present = np.zeros(numbers.max() + 1, bool)
    present[numbers] = True
    return np.flatnonzero(present), (np.cumsum(present) - 1)[numbers]


def _number_rows(rows: np.ndarray) -> np.ndarray:
    """A number for each row, the same for equal rows."""
    rows = np.ascontiguousarray(rows)
    return np.unique(
        rows.view(np.dtype((np.void, rows.itemsize * rows.shape[1]))).reshape(-1), return_inverse=True
    )[1]
