"""Processes of one job: if one ends, dies or hangs, the others end with one line.

JAX's coordination service notices a process that no longer answers and ends all others, each with a page of C++. What such
libraries write goes to descriptor 2. `watch_errors` puts a small process of its own (this file, run as a script) between
that descriptor and the real standard error: it passes everything on, and makes one line of that page. Python's own
`sys.stderr` leads past it.

This module imports neither jax nor anything else of the project.
"""

import os
import re
import select
import subprocess
import sys
import time
from typing import NoReturn

# The exit status of a process that ends since another one has: EX_TEMPFAIL, "try again later". One that JAX ends has 134.
EXIT_ALONE = 75
# A process that has not answered for so long counts as gone.
HEARTBEAT_SECONDS = 100
# With process 0 the coordination service ends: the others have so long to tell a reason of their own.
FAREWELL_SECONDS = 2.0
_REMEDY = (
    "this one ends, too; what was written is whole, and the job continues if all processes are started again"
)
_FATAL = b"Terminating process because the JAX distributed service detected fatal errors"
_UNHEALTHY = re.compile(rb"unhealthy \(stopped sending heartbeats\):\s*([\d,\s]*\d)")
_NOT_REGISTERED = b"CoordinationService/RegisterTask"
_OF_A_CONNECTION = re.compile(r"Gloo|NCCL|[Cc]oordination ?[Ss]ervice|Socket closed|heartbeat")
_SHOWN = 160

_stderr = 2
_joined = False


def watch_errors() -> None:
    """Begins to make one line of what JAX writes when it ends this process. To be called before the processes join."""
    global _stderr, _joined
    _joined = True
    if _stderr != 2:
        return
    sys.stderr.flush()
    _stderr = os.dup(2)
    reader, writer = os.pipe()
    # A session of its own: Ctrl-C at a terminal is for the job, whose last words it passes on.
    subprocess.Popen(
        [sys.executable, "-I", "-S", __file__],
        stdin=reader,
        stdout=_stderr,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.dup2(writer, 2)
    os.close(reader)
    os.close(writer)
    if sys.stderr is sys.__stderr__:
        sys.stderr = open(
            _stderr, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False
        )


def joined() -> bool:
    """Whether this process is one of several."""
    return _joined


def stderr_descriptor() -> int:
    """The descriptor of the real standard error."""
    return _stderr


def lost(error: BaseException) -> str | None:
    """The line for an error that comes from the end of another process; None for any other."""
    text = " ".join(str(error).split())
    if not _joined or not _OF_A_CONNECTION.search(text):
        return None
    return f"another process of this job has ended or cannot be reached ({text[:_SHOWN]}); {_REMEDY}"


def tell(line: str) -> None:
    """Writes a line of `lost` to standard error, unless JAX has said so before."""
    os.write(2, (line + "\n").encode())


def leave(status: int) -> NoReturn:
    """Ends this process at once, whose reason has been told. An orderly end would wait for the others, who wait for it."""
    if _stderr != 2:  # JAX may notice now, too, that a process is gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    time.sleep(FAREWELL_SECONDS)
    os._exit(status)


def line_of(page: bytes) -> str:
    """The one line for what JAX writes when it ends a process."""
    if _NOT_REGISTERED in page:
        return (
            "error: the processes of this job have not found each other in time; give all of them the same address and "
            "number of processes, each an index of its own, and start them together"
        )
    unhealthy = _UNHEALTHY.search(page)
    names = unhealthy[1].decode().split() if unhealthy else ["0"]
    process = f"processes {', '.join(names)}" if len(names) > 1 else f"process {names[0]}"
    verb = "answer" if len(names) > 1 else "answers"
    return f"error: {process} of this job no longer {verb}; {_REMEDY}"


def _pass_on(source: int, sink: int) -> None:
    """Passes lines on until one has told of the end: that of `tell`, or the one for JAX's page. What follows is the same."""
    held = b""
    while chunk := os.read(source, 1 << 16):
        held += chunk
        before, fatal, page = held.partition(_FATAL)
        lines, newline, rest = before.rpartition(b"\n")
        told = lines.find(_REMEDY.encode())
        if told >= 0:
            os.write(sink, lines[:told] + _REMEDY.encode() + b"\n")
        elif fatal:
            while select.select([source], [], [], 0.1)[0] and (chunk := os.read(source, 1 << 16)):
                page += chunk
            os.write(sink, lines + newline + line_of(page).encode() + b"\n")
        else:
            os.write(sink, lines + newline)
            held = rest
            continue
        while os.read(source, 1 << 16):
            pass
        return
    os.write(sink, held)


if __name__ == "__main__":
    _pass_on(0, 1)
