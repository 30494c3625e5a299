"""The rows that each step sees, and the arrays made of them.

Everything is a function of the rows' lengths, the seed and the epoch, so the step number is all that a resumed run
needs to know. Each epoch shows every row exactly once; the last batch of an epoch may hold empty windows.
"""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np

from cord_jax.student.data import Example

# Value of a label where nothing is learnt.
NO_LABEL = -1
_LANES = 128


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Batch:
    """One step's arrays, int32 [accumulation, rows, time] (or without the leading axis, inside the step).

    tokens: 0 where padded.
    positions: from 0 in each example.
    segments: 1, 2, ... for the examples of a window, 0 for padding. Attention never crosses them.
    labels: the token to predict after this place, `NO_LABEL` where nothing is learnt.
    references: float32 [accumulation, rows, examples], for objectives with a reference: its log-probability of the
      target of segment 1, 2, ...; 0 where a window has fewer. None for others.
    weights: float32 [accumulation, rows, time], of the labels in the loss, 0 where there is none; None if all count alike.
    """

    tokens: jax.Array
    positions: jax.Array
    segments: jax.Array
    labels: jax.Array
    references: jax.Array | None = None
    weights: jax.Array | None = None


@dataclass(frozen=True)
class Plan:
    """The rows of every window of a run.

    windows: per step, per window, the indices of its examples.
    lengths: per step, the length in tokens that its windows are padded to.
    epoch_ends: the number of steps after which each epoch is over.
    """

    windows: tuple[tuple[tuple[int, ...], ...], ...]
    lengths: tuple[int, ...]
    epoch_ends: tuple[int, ...]

    @property
    def steps(self) -> int:
        """Number of steps of the run."""
        return len(self.windows)

    @property
    def most_examples(self) -> int:
        """The greatest number of examples in one window."""
        return max(len(window) for step in self.windows for window in step)


def plan(
    lengths: Sequence[int],
    *,
    epochs: int,
    batch_size: int,
    max_length: int,
    pack: bool,
    seed: int,
    max_steps: int | None = None,
    together: int = 1,
) -> Plan:
    """Assigns the examples to windows and the windows to steps.

    Packed, an epoch's examples are placed in random order, each into the fullest window that still has room
    for it (best fit), and all windows of the run are padded to one length. Unpacked, a window is one example,
    and the windows of a step are padded to the smallest bucket that holds the longest of them. Examples that
    belong together are placed as if they were one, one behind the other.

    Args:
      lengths: tokens of each example; none, nor those that belong together, above `max_length`.
      epochs: times that each example is shown.
      batch_size: windows of a step.
      max_length: capacity of a packed window, in tokens.
      seed: of the order.
      max_steps: ends the run earlier; None for all epochs.
      together: so many successive examples belong together.
    """
    lengths = [sum(lengths[i : i + together]) for i in range(0, len(lengths), together)]
    steps: list[tuple[tuple[int, ...], ...]] = []
    epoch_ends = []
    for epoch in range(epochs):
        rng = np.random.default_rng([seed, epoch])
        order = [int(i) for i in rng.permutation(len(lengths))]
        if pack:
            windows = best_fit(order, lengths, max_length)
            windows = [windows[i] for i in rng.permutation(len(windows))]
        else:
            windows = [(i,) for i in order]
        steps += [tuple(windows[i : i + batch_size]) for i in range(0, len(windows), batch_size)]
        epoch_ends.append(len(steps))
        if max_steps is not None and len(steps) >= max_steps:
            steps, epoch_ends[-1] = steps[:max_steps], min(epoch_ends[-1], max_steps)
            break
    filled = [max(sum(lengths[i] for i in window) for window in windows) for windows in steps]
    if pack:
        filled = [max(filled)] * len(filled)
    if together > 1:
        steps = [
            tuple(tuple(together * i + n for i in window for n in range(together)) for window in windows)
            for windows in steps
        ]
    return Plan(tuple(steps), tuple(bucket(n, max_length) for n in filled), tuple(epoch_ends))


def best_fit(order: Sequence[int], lengths: Sequence[int], capacity: int) -> list[tuple[int, ...]]:
    """Packs examples, in the given order, each into the window with the least room that is enough for it."""
    windows: list[list[int]] = []
    by_room: dict[int, list[int]] = {}  # room left -> windows
    rooms: list[int] = []  # the keys of by_room, ascending
    for example in order:
        length = lengths[example]
        at = bisect.bisect_left(rooms, length)
        if at < len(rooms):
            room = rooms[at]
            window = by_room[room].pop()
            if not by_room[room]:
                del by_room[room], rooms[at]
        else:
            room, window = capacity, len(windows)
            windows.append([])
        windows[window].append(example)
        left = room - length
        if left not in by_room:
            by_room[left] = []
            bisect.insort(rooms, left)
        by_room[left].append(window)
    return [tuple(window) for window in windows]


def bucket(length: int, max_length: int) -> int:
    """The padded length for `length` tokens: 64, 128, then 2**k and 3 * 2**(k-1), at most `max_length`
    rounded up to 128.

    Each distinct length is compiled once, so there are few of them.
    """
    limit = -(-max_length // _LANES) * _LANES
    size = 64
    while size < length:
        size = size * 3 // 2 if size >= 256 and size & (size - 1) == 0 else _next_power_of_two(size)
    return min(size, limit)


def assemble(
    examples: Sequence[Example],
    windows: Sequence[Sequence[int]],
    *,
    length: int,
    batch_size: int,
    accumulation: int = 1,
    references: np.ndarray | None = None,
    most_examples: int = 0,
) -> Batch:
    """The arrays of one step: `batch_size` windows of `length` tokens, the missing ones empty.

    Args:
      examples: all of them with weights or none.
      references: float32 [all examples], the log-probability of each target under the reference; None without one.
      most_examples: room for so many of them in each window.

    Returns: a `Batch` of numpy arrays [accumulation, batch_size // accumulation, length].
    """
    shape = (batch_size, length)
    tokens, positions, segments = (np.zeros(shape, np.int32) for _ in range(3))
    labels = np.full(shape, NO_LABEL, np.int32)
    of_windows = None if references is None else np.zeros((batch_size, most_examples), np.float32)
    weights = None if examples[0].weights is None else np.zeros(shape, np.float32)
    for row, window in enumerate(windows):
        start = 0
        if references is not None:
            of_windows[row, : len(window)] = references[list(window)]
        for segment, index in enumerate(window, start=1):
            example = examples[index]
            n = len(example.tokens)
            tokens[row, start : start + n] = example.tokens
            positions[row, start : start + n] = np.arange(n)
            segments[row, start : start + n] = segment
            first = max(example.prompt_length, 1)
            labels[row, start + first - 1 : start + n - 1] = example.tokens[first:]
            if weights is not None:
                weights[row, start + first - 1 : start + n - 1] = example.weights[first:]
            start += n
    arrays = Batch(tokens, positions, segments, labels, of_windows, weights)
    return jax.tree.map(lambda a: a.reshape(accumulation, batch_size // accumulation, -1), arrays)


def _next_power_of_two(size: int) -> int:
    return 1 << size.bit_length()
