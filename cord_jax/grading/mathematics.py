"""The process in which answers are compared as mathematics, by math-verify.

Run as `python -m cord_jax.grading.mathematics FILE_DESCRIPTOR SECONDS`, by `workers.Workers`.
"""

import contextlib
import logging
import resource
import signal
import sys
from multiprocessing.connection import Connection

import sympy
from math_verify import parse, verify
from math_verify.parser import LatexExtractionConfig

from cord_jax.grading.agreement import same

_MEMORY_BYTES = 4 << 30
_DIGITS = 60  # that numbers are computed to where they are no fractions
_BOX = [LatexExtractionConfig(boxed_match_priority=0)]


def equals(predicted: str, form: str, places: int | None = None) -> bool:
    """Whether two pieces of LaTeX are the same mathematics, without a time limit.

    Args:
      places: decimal places that one of the two, a number, is rounded to; None if neither is.
    """
    gold, target = (
        parse(f"\\boxed{{{text}}}", _BOX, fallback_mode="no_fallback", parsing_timeout=None)
        for text in (form, predicted)
    )
    if not gold or not target:
        return False
    if all(isinstance(side, sympy.Expr) for side in (gold[0], target[0])):
        return _same_expression(gold[0], target[0], places)
    # math-verify takes numbers for equal that differ by less than 10 to the minus `numeric_precision`.
    return verify(gold, target, numeric_precision=400, allow_set_relation_comp=True, timeout_seconds=None)


def _same_expression(a: sympy.Expr, b: sympy.Expr, places: int | None) -> bool:
    """Exactly where both are rational, else to 50 digits that count, else by simplification."""
    a, b = a.doit(), b.doit()
    if a == b:
        return True
    if not a.free_symbols and not b.free_symbols:
        if a.is_Rational and b.is_Rational:
            return places is not None and abs(a - b) <= sympy.Rational(1, 2 * 10**places)
        x, y = a.evalf(_DIGITS), b.evalf(_DIGITS)
        if x.is_finite and y.is_finite:
            difference, size = abs(x - y), max(abs(x), abs(y))
            if places is not None:
                return bool(difference <= sympy.Rational(1, 2 * 10**places))
            if size > 0 and difference <= size * sympy.Float(10) ** (10 - _DIGITS):
                return True
    return sympy.simplify(a - b) == 0


def serve(connection: Connection, deadline_seconds: float) -> None:
    """Answers pairs (predicted, forms) with a bool each, until the other side closes.

    SIGALRM keeps its default action: the kernel ends a process that is late, whatever it is doing.
    """
    equals("\\frac{1}{2}x", "0.5x")  # The first parse loads more of sympy, which is no pair's fault.
    connection.send(True)
    while True:
        try:
            predicted, forms = connection.recv()
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_REAL, deadline_seconds)
        try:
            correct = any(same(predicted, form, _guarded) for form in forms)
        except (MemoryError, RecursionError):
            correct = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        connection.send(correct)


def _guarded(predicted: str, form: str, places: int | None) -> bool:
    """`equals`, where whatever sympy raises about a formula that makes no sense means no."""
    try:
        return equals(predicted, form, places)
    except (MemoryError, RecursionError):
        raise
    except Exception:
        return False


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    sys.set_int_max_str_digits(0)  # The deadline is limit enough.
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Whoever started this process ends it.
    with contextlib.suppress(ConnectionError):  # whoever asked is gone, perhaps before the first answer
        serve(Connection(int(sys.argv[1])), float(sys.argv[2]))
