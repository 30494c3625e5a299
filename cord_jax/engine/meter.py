"""What the host sees of a search that is under way, and how often it looks."""

import jax
import numpy as np
from jax.experimental import multihost_utils

from cord_jax.search.state import DONE, FREE

# Seconds after which the host looks at a search that is under way, about.
LOOK_SECONDS = 4.0


class Meter:
    """What the host has seen of a search that is under way.

    Attributes:
      tokens: that proposers, and the meta-prover's judgments, have written; idle_row_share: of the rows that were decoded.
      in_work: slots with a problem; rounds_n: what is settled of each of them.
      compile_seconds: that it took to compile.
    """

    def __init__(self) -> None:
        self.tokens, self.idle_row_share, self.in_work = 0, 0.0, 0
        self.rounds_n: list[int] = []
        self.compile_seconds = 0.0

    def looked(self, peek, compile_seconds: float) -> None:
        """Takes down what a look has shown, an `engine.Peek`."""
        written = float(peek.meters.busy_y.sum())
        works_n = np.isin(peek.clock.phase_n, (FREE, DONE), invert=True)
        self.tokens = int(written)
        self.idle_row_share = 1 - written / max(1.0, float(peek.meters.ticked_y.sum()))
        self.in_work, self.rounds_n = int(works_n.sum()), peek.progress.round_n[works_n].tolist()
        self.compile_seconds += compile_seconds


class Rounds:
    """How many rounds the search runs before the host looks at it: no more than take `LOOK_SECONDS`.

    So neither the journal nor a signal has to wait long. The processes of a job must run the same rounds: they do what
    process 0 says.
    """

    def __init__(self, most: int):
        self._most, self._next, self._compiles = most, 1, True

    @property
    def next(self) -> np.int32:
        """Rounds that are to run now."""
        if jax.process_count() == 1:
            return np.int32(self._next)
        return np.int32(multihost_utils.broadcast_one_to_all(np.int32(self._next)))

    def took(self, rounds: int, seconds: float) -> float:
        """Learns from a call how long rounds take; the first one compiles.

        Returns: the seconds of compilation among them.
        """
        if self._compiles:
            self._compiles = False
            return seconds
        self._next = min(self._most, max(1, int(LOOK_SECONDS * max(1, rounds) / max(seconds, 1e-3))))
        return 0.0

    def compiles(self) -> None:
        """Says that the next call compiles."""
        self._compiles = True
