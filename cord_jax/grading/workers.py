"""Worker processes that compare answers as mathematics.

math-verify may hang or exhaust the memory on an answer, and its own time limit needs a main thread. So it runs in
processes that import neither jax nor the caller's main module. One that does not answer in time kills itself and is
replaced, and its answer counts as wrong.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path

_START_SECONDS = 120.0  # For a worker to import math-verify, on a machine that is busy.

Pair = tuple[str, tuple[str, ...]]


class Workers:
    """Processes that run `cord_jax.grading.mathematics`, started when there is something to compare."""

    def __init__(self, most: int | None, deadline_seconds: float):
        """Starts no worker yet.

        Args:
          most: number of processes; None means up to four, as there are cores.
          deadline_seconds: for one pair.
        """
        self._most = most or min(4, os.cpu_count() or 1)
        self._deadline_seconds = deadline_seconds
        self._processes: dict[Connection, subprocess.Popen] = {}

    def compare(self, pairs: Sequence[Pair]) -> list[bool]:
        """Whether each answer agrees with one of the accepted forms beside it.

        Raises: RuntimeError if no process can be started.
        """
        correct, waiting = [False] * len(pairs), list(range(len(pairs)))[::-1]
        while len(self._processes) < min(self._most, len(waiting)):
            self._start()
        busy: dict[Connection, int] = {}  # the pair that each working process has
        try:
            for connection in list(self._processes):
                self._send_next(connection, pairs, waiting, busy)
            while busy:
                for connection in wait(list(busy)):
                    i = busy.pop(connection)
                    try:
                        correct[i] = connection.recv()
                    except (EOFError, ConnectionError):
                        self._stop(connection)
                        connection = self._start() if waiting else None
                    if connection is not None:
                        self._send_next(connection, pairs, waiting, busy)
        except (
            BaseException
        ):  # An interruption: answers that are still to come would be taken for later pairs'.
            self.close()
            raise
        return correct

    def close(self) -> None:
        """Ends the processes; `compare` starts new ones."""
        for connection in list(self._processes):
            self._stop(connection)

    def _send_next(
        self, connection: Connection, pairs: Sequence[Pair], waiting: list[int], busy: dict[Connection, int]
    ) -> None:
        if not waiting:
            return
        i = waiting.pop()
        try:
            connection.send(pairs[i])
        except ConnectionError:  # The process was ended from outside while it was idle.
            self._stop(connection)
            connection = self._start()
            connection.send(pairs[i])
        busy[connection] = i

    def _start(self) -> Connection:
        here, there = Pipe()
        arguments = there.fileno(), self._deadline_seconds
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "cord_jax.grading.mathematics", *map(str, arguments)],
            pass_fds=[there.fileno()],
            env=os.environ | {"PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        there.close()
        if not here.poll(_START_SECONDS) or not _is_ready(here):
            process.kill()
            process.wait()
            raise RuntimeError(f"a math-verify worker did not start: exit status {process.returncode}")
        self._processes[here] = process
        return here

    def _stop(self, connection: Connection) -> None:
        process = self._processes.pop(connection)
        connection.close()
        process.kill()
        process.wait()


def _is_ready(connection: Connection) -> bool:
    try:
        return connection.recv()
    except (EOFError, ConnectionError):
        return False
