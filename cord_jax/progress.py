"""Telling how a job goes on: a live line on a terminal, and a line of the log every half minute."""

import sys
import time
from collections.abc import Callable
from typing import TextIO

LOG_SECONDS = 30.0
_LIVE_SECONDS = 0.25
_CLEAR = "\r\x1b[K"


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


def duration(seconds: float) -> str:
    """Seconds in words, as for what is left: "40 s", "12 min", "3 h 20 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
