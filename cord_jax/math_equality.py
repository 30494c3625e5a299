"""Whether two answers are the same mathematics: the process in which math-verify runs.

Run as `python -m cord_jax.math_equality FILE_DESCRIPTOR SECONDS`, by `answers.Grader`.
"""

import logging
import resource
import signal
import sys
from multiprocessing.connection import Connection

from math_verify import parse, verify

_MEMORY_BYTES = 4 << 30


def equals(predicted: str, form: str) -> bool:
    """math-verify's verdict on the contents of two boxes, without a time limit."""
    gold, target = (parse(f"\\boxed{{{text}}}", parsing_timeout=None) for text in (form, predicted))
    return bool(gold) and bool(target) and verify(gold, target, timeout_seconds=None)


def serve(connection: Connection, deadline_seconds: float) -> None:
    """Answers pairs (predicted, forms) with a bool each, until the other side closes.

    SIGALRM keeps its default action: the kernel ends a process that is late, whatever it is doing.
    """
    equals("\\frac{1}{2}", "0.5")  # The first parse loads sympy, which is no pair's fault.
    connection.send(True)
    while True:
        try:
            predicted, forms = connection.recv()
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_REAL, deadline_seconds)
        try:
            correct = any(equals(predicted, form) for form in forms)
        except (MemoryError, RecursionError):
            correct = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        connection.send(correct)


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    serve(Connection(int(sys.argv[1])), float(sys.argv[2]))
