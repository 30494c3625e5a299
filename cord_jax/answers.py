"""The answer that a response gives, and whether it is right (design, section 3.9)."""

import importlib.util
import os
import re
import subprocess
import sys
import unicodedata
from collections.abc import Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path

from cord_jax.errors import UserError

MODES = ("math_verify", "exact")

_START_SECONDS = 120.0  # For a worker to import math-verify, on a machine that is busy.

# A box's opening, an escaped character (so that `\{` and `\}` are letters), or a brace.
_BOX_PARTS = re.compile(r"\\+boxed\s*\{|\\.|[{}]", re.DOTALL)
_STATEMENT = re.compile(r"final answer is\b", re.IGNORECASE)
# X is a displayed formula, or the rest of the line.
_STATED = re.compile(r"[\s:*]*(?:\$\$(.+?)\$\$|\\\[(.+?)\\\]|([^\n]*))", re.DOTALL)
_SENTENCE_END = re.compile(r"\.(?=\s)")  # which a period inside a number is not


def predicted_answer(response: str) -> str | None:
    r"""The content of the last `\boxed{}`, else the X of the last `final answer is X`, else None.

    A box that is never closed or holds only white space counts as none. X ends with its line or sentence; the
    period and markdown emphasis around it are not part of it.
    """
    boxed = _last_box(response)
    if boxed is not None:
        return boxed
    for statement in reversed(list(_STATEMENT.finditer(response))):
        dollars, brackets, line = _STATED.match(response, statement.end()).groups()
        answer = dollars or brackets or _SENTENCE_END.split(line, maxsplit=1)[0]
        answer = answer.strip(" \t\r\n*_`").removesuffix(".").strip(" \t\r\n*_`")
        if answer:
            return answer
    return None


def _last_box(response: str) -> str | None:
    """The content of the box that opens last; read in one pass, since a model may open one after another."""
    last, open_braces = (-1, None), []
    for part in _BOX_PARTS.finditer(response):
        if part[0].endswith("{") and part[0] != "\\{":
            open_braces.append(part.end() if part[0] != "{" else None)
        elif part[0] == "}" and open_braces:
            start = open_braces.pop()
            if start is not None and start > last[0] and (content := response[start : part.start()].strip()):
                last = start, content
    return last[1]


class Grader:
    """Checks predicted answers against accepted forms.

    math-verify may hang or exhaust the memory on an answer, and its own time limit needs a main thread. So
    it runs in worker processes that import neither jax nor the caller's main module. One that does not answer
    in time kills itself and is replaced, and its answer counts as wrong. Use it as a context manager, or call
    `close`.
    """

    def __init__(
        self, mode: str = "math_verify", *, workers: int | None = None, deadline_seconds: float = 10.0
    ):
        """
        Args:
          mode: "math_verify", or "exact": equality after NFC normalisation and stripping.
          workers: number of processes; None means up to four, as there are cores.
          deadline_seconds: for one pair, all its forms together.

        Raises:
          UserError: the mode is unknown, or math-verify is not installed.
        """
        if mode not in MODES:
            raise UserError(f'grader "{mode}" is not one of {", ".join(MODES)}')
        if mode == "math_verify" and importlib.util.find_spec("math_verify") is None:
            raise UserError(
                'math-verify is not installed; install "math-verify[antlr4-13-2]" or use the grader "exact"'
            )
        self.mode = mode
        self._deadline_seconds = deadline_seconds
        self._max_workers = workers or min(4, os.cpu_count() or 1)
        self._workers: dict[Connection, subprocess.Popen] = {}

    def __enter__(self) -> "Grader":
        if self.mode == "math_verify":
            self._start_worker()
        return self

    def __exit__(self, *unused) -> None:
        self.close()

    def grade(self, pairs: Sequence[tuple[str | None, tuple[str, ...]]]) -> list[bool]:
        """Whether each prediction equals one of the accepted forms beside it; None is never right."""
        correct = [
            predicted is not None and _canonical(predicted) in map(_canonical, forms)
            for predicted, forms in pairs
        ]
        if self.mode == "exact":
            return correct
        waiting = [i for i, (predicted, _) in enumerate(pairs) if predicted is not None and not correct[i]]
        waiting.reverse()
        while len(self._workers) < min(self._max_workers, len(waiting)):
            self._start_worker()
        busy: dict[Connection, int] = {}  # the pair that each working process has
        for connection in list(self._workers):
            self._send_next(connection, pairs, waiting, busy)
        while busy:
            for connection in wait(list(busy)):
                i = busy.pop(connection)
                try:
                    correct[i] = connection.recv()
                except (EOFError, ConnectionError):
                    self._stop_worker(connection)
                    connection = self._start_worker() if waiting else None
                if connection is not None:
                    self._send_next(connection, pairs, waiting, busy)
        return correct

    def _send_next(self, connection, pairs, waiting, busy) -> None:
        if not waiting:
            return
        i = waiting.pop()
        try:
            connection.send(pairs[i])
        except ConnectionError:  # The process was ended from outside while it was idle.
            self._stop_worker(connection)
            connection = self._start_worker()
            connection.send(pairs[i])
        busy[connection] = i

    def _start_worker(self) -> Connection:
        here, there = Pipe()
        arguments = there.fileno(), self._deadline_seconds
        root = str(Path(__file__).resolve().parents[1])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        worker = subprocess.Popen(
            [sys.executable, "-P", "-m", "cord_jax.math_equality", *map(str, arguments)],
            pass_fds=[there.fileno()],
            env=os.environ | {"PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        there.close()
        if not here.poll(_START_SECONDS) or not _is_ready(here):
            worker.kill()
            worker.wait()
            raise RuntimeError(f"a math-verify worker did not start: exit status {worker.returncode}")
        self._workers[here] = worker
        return here

    def _stop_worker(self, connection: Connection) -> None:
        worker = self._workers.pop(connection)
        connection.close()
        worker.kill()
        worker.wait()

    def close(self) -> None:
        """Ends the worker processes."""
        for connection in list(self._workers):
            self._stop_worker(connection)


def _is_ready(connection: Connection) -> bool:
    try:
        return connection.recv()
    except (EOFError, ConnectionError):
        return False


def _canonical(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip()
