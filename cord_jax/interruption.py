"""Interruption: what SIGINT and SIGTERM do to a job, at whatever moment they come.

A signal never raises an exception somewhere in the middle: a callback of the search, or a garbage collection of the
compiler, would swallow it or break. It is noted, and a thread of its own sees it at once, even while the main thread
compiles. As long as a job has not begun to look for it (`look`), there is nothing to keep and the thread ends the process.
After that the job ends itself at its next look, when all that is finished has been written; if it does not within
`GRACE_SECONDS`, or at a second signal, the thread ends the process: every file can be continued from wherever it stands.

Where a job is called as a function, the process is not ours to end: it ends at its next look, and a second SIGINT is
Python's own.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

from cord_jax import processes

GRACE_SECONDS = 15.0
SIGNALS = (signal.SIGINT, signal.SIGTERM)
MESSAGE = "interrupted; the same command continues the run"


class Interrupted(KeyboardInterrupt):
    """A job has ended since a signal asked for it; `number` is the signal's."""

    def __init__(self, number: int):
        super().__init__(MESSAGE)
        self.number = number

    @property
    def exit_status(self) -> int:
        """That of the process: 130 after SIGINT, 143 after SIGTERM."""
        return exit_status(self.number)


def exit_status(number: int) -> int:
    """The exit status of a process that a signal has ended."""
    return 128 + number


class _Watch:
    """What is known of signals; one to a process, since signals are.

    Attributes:
      owns_process: whether it may end the process.
      asked: the first signal that came, 0 before; handled: how many have.
      looks: whether the job looks for it.
      grace: seconds that it has then, None for as long as it takes.
    """

    def __init__(self, owns_process: bool) -> None:
        self.owns_process = owns_process
        self.asked, self.handled, self.looks = 0, 0, False
        self.grace: float | None = GRACE_SECONDS


_watch: _Watch | None = None


@contextlib.contextmanager
def handled(owns_process: bool = False) -> Iterator[None]:
    """Notes signals while it is open. Does nothing outside of the main thread, or inside of another.

    Args:
      owns_process: whether it may end the process.
    """
    global _watch
    if _watch is not None or threading.current_thread() is not threading.main_thread():
        yield
        return
    watch = _watch = _Watch(owns_process)
    there, here = os.pipe()
    os.set_blocking(here, False)
    previous = {number: signal.signal(number, _note) for number in SIGNALS}
    wakeup = signal.set_wakeup_fd(here, warn_on_full_buffer=False)
    thread = threading.Thread(target=_serve, args=(there, watch), daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in previous.items():
            signal.signal(number, handler)
        os.close(here)  # ends the thread
        thread.join()
        os.close(there)
        _watch = None


def take_over() -> None:
    """Handles signals again after a library has put its own handlers in place."""
    if _watch is not None:
        for number in SIGNALS:
            signal.signal(number, _note)


def look() -> None:
    """Ends the job if a signal has come; called between two pieces of work, when all that is finished has been written.

    Raises: Interrupted.
    """
    if _watch is None:
        return
    _watch.looks, _watch.grace = True, GRACE_SECONDS
    if _watch.asked:
        raise Interrupted(_watch.asked)


def asked() -> bool:
    """Whether a signal has come. Whoever asks ends the job in its own way, and has as long as that takes."""
    if _watch is None:
        return False
    _watch.looks, _watch.grace = True, None
    return bool(_watch.asked)


def _note(number, frame) -> None:
    """The handler: it interrupts nothing, since the thread is told by the wakeup descriptor."""
    if _watch is None or _watch.owns_process:
        return
    _watch.handled += 1
    if _watch.handled > 1:
        raise KeyboardInterrupt


def _serve(descriptor: int, watch: _Watch) -> None:
    """Reads the numbers of signals until the other end is closed."""
    while data := os.read(descriptor, 64):
        for number in data:
            if number not in SIGNALS:
                continue
            if watch.owns_process and (watch.asked or not watch.looks):
                _end(number)
            watch.asked = watch.asked or number
            if watch.owns_process and watch.grace is not None:
                timer = threading.Timer(watch.grace, _end, [number])
                timer.daemon = True
                timer.start()


def _end(number: int) -> None:
    """Ends the process with the one line."""
    os.write(processes.stderr_descriptor(), (MESSAGE + "\n").encode())
    os._exit(exit_status(number))
