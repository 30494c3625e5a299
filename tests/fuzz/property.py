"""What must hold of every case: it is accepted, or refused in one line, within five seconds and a gigabyte."""

import contextlib
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import models
from cord_jax.errors import UserError
from launch.common import one_line

CPU_SECONDS = 5.0
KILOBYTES = 1 << 20
_LONGEST_LINE = 6000


class TookTooLongError(Exception):
    """A case has computed for longer than it may."""


@contextlib.contextmanager
def refused_in_one_line() -> Iterator[None]:
    """Passes if the block ends, or with an error that the command line would show as one line with status 2."""

    def end(number, frame):
        raise TookTooLongError(f"more than {CPU_SECONDS} s")

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    previous = signal.signal(signal.SIGVTALRM, end)
    signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS)
    try:
        yield
    except (UserError, models.CheckpointError) as error:
        message = one_line(str(error))
        assert message.strip() and len(message) < _LONGEST_LINE, message[:300]
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, previous)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < KILOBYTES


def listing(directory: Path) -> dict[str, bytes]:
    """All files below a directory with their content."""
    return {
        os.path.join(parent, name): Path(parent, name).read_bytes()
        for parent, _, names in os.walk(directory)
        for name in names
    }
