"""Telling how a job goes on: a live line on a terminal, and a line of the log every half minute."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TextIO

from cord_jax.engine.meter import Meter

LOG_SECONDS = 30.0
_LIVE_SECONDS = 0.25
_SILENT_SECONDS = 1.0
_CLEAR = "\r\x1b[K"


@contextlib.contextmanager
def announced(line: str) -> Iterator[None]:
    """Prints a line to stderr if what is inside takes more than a second: input that cannot be used is told before that."""
    timer = threading.Timer(_SILENT_SECONDS, lambda: print(line, file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Progress:
    """Lines of a job about what it has done so far."""

    def __init__(self, log: Callable[[str], None], terminal: TextIO | None = None):
        """Begins to count the seconds.

        Args:
          log: writes a line to the log and to stderr.
          terminal: where the live line goes, if that is a terminal; stderr by default.
        """
        self._log, self._terminal = log, sys.stderr if terminal is None else terminal
        self._live = self._terminal.isatty()
        self._shown = self._logged = time.monotonic()

    def tell(self, line: Callable[[], str]) -> None:
        """Shows or logs the line if it is time to."""
        now = time.monotonic()
        if now - self._logged > LOG_SECONDS:
            self.log(line())
            self._logged = now
        elif self._live and now - self._shown > _LIVE_SECONDS:
            self._terminal.write(_CLEAR + line())
            self._terminal.flush()
            self._shown = now

    def log(self, line: str) -> None:
        """Logs a line at once."""
        self.clear()
        self._log(line)

    def clear(self) -> None:
        """Takes the live line away."""
        if self._live:
            self._terminal.write(_CLEAR)
            self._terminal.flush()


class TraceProgress(Progress):
    """Lines of a search: traces written, what is in work, tokens a second, how long it will take.

    Attributes:
      written, total: traces.
      compile_seconds: of all searches so far.
    """

    def __init__(self, terminal: TextIO | None = None):
        """Writes to stderr until there is a log (`begin`)."""
        super().__init__(lambda line: print(line, file=sys.stderr, flush=True), terminal)
        self.written = self.total = self._begun_with = 0
        self._searched_since = self.compile_seconds = 0.0
        self._scores: list[float] = []

    def begin(self, log: Callable[[str], None], written: int, total: int) -> None:
        """Begins with what an earlier run has written."""
        self._log, self._begun_with, self.written, self.total = log, written, written, total

    def add(self, score: float | None) -> None:
        """Counts a trace."""
        self.written += 1
        self._scores.append(score or 0.0)

    def looked(self, meter: Meter) -> None:
        """Tells how a search stands, if it is time to."""
        self.compile_seconds = meter.compile_seconds
        if not self._searched_since:
            self._searched_since = time.monotonic()
            self.log(f"synthesize: searching, after {meter.compile_seconds:.0f} s of compilation")
        self.tell(lambda: self.line(meter, time.monotonic() - self._searched_since))

    def line(self, meter: Meter, seconds: float) -> str:
        """How a search stands after so many seconds, compilation apart."""
        parts = [f"synthesize: {self.written} of {self.total} traces"]
        if meter.rounds_n:
            low, high = min(meter.rounds_n) + 1, max(meter.rounds_n) + 1
            at = f"step {low}" if low == high else f"steps {low} to {high}"
            parts.append(f"{meter.in_work} in work at {at}")
        parts.append(f"{meter.tokens / max(seconds, 1e-3):,.0f} tokens/s")
        parts.append(f"{100 * meter.idle_row_share:.0f} % of rows idle")
        if self._scores:
            parts.append(f"mean score {sum(self._scores) / len(self._scores):.3f}")
            left = (self.total - self.written) * seconds / (self.written - self._begun_with)
            parts.append(f"about {duration(left)} left")
        return ", ".join(parts)


def duration(seconds: float) -> str:
    """Seconds in words, as for what is left: "40 s", "12 min", "3 h 20 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
