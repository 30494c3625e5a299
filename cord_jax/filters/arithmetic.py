"""`arithmetic`: a step that states an equation between plain numbers that does not hold.

The text is cut into tokens. A side of an equation is the longest run of numbers, operators and brackets beside its `=`;
what stands before and after that run tells whether it is the whole side (`equations.context`). Sides are evaluated
exactly (`equations.sides`). An equation of which anything is not understood is left alone, and so is one that the text
doubts, supposes or calls rounded: a filter must not drop what is right.
"""

import functools
from collections.abc import Iterator, Sequence
from fractions import Fraction

from cord_jax.filters.equations.context import Context
from cord_jax.filters.equations.sides import MAX_TOKENS, Side, read_side
from cord_jax.filters.equations.tokens import PLAIN, Token, tokenize, unwrap


def states_a_false_equation(step: str, earlier: Sequence[str] = ()) -> bool:
    """Whether the step states an equation between plain numbers that does not hold."""
    return next(false_equations(step), None) is not None


def false_equations(step: str) -> Iterator[str]:
    """The equations of a step that do not hold, the last one first, each with the word or sign that follows it."""
    if "=" not in step:
        return
    text = unwrap(step)
    tokens = tokenize(text)
    context = Context(tokens)
    side = functools.cache(lambda start, stop: read_side(tokens[start:stop]))  # one may stand between two `=`
    congruent: set[int] = set()  # `=` that may stand for a congruence
    for at in reversed(range(len(tokens))):
        if tokens[at].kind != "equals":
            continue
        start, stop = _start_before(tokens, at), _stop_after(tokens, at)
        if start is None or stop is None:
            continue
        left, right = side(start, at), side(at + 1, stop)
        if left is None or right is None:
            continue
        if right.may_mean_more or stop in congruent:  # 100 = 10 = 1 mod 9
            congruent.add(at)
            continue
        if any(a == b for a in left.values for b in right.values):
            continue
        if not left.computed and (left.percent or right.percent):  # 48 = 120% says what 120% is
            continue
        if not (context.begins_at(start, left) and context.ends_at(stop, left)):
            continue
        shown = text[tokens[start].start : tokens[min(stop, len(tokens) - 1)].end]
        if not _agree(left, right, shown) and not context.excuses(at, _difference(left, right)):
            yield shown


def _start_before(tokens: Sequence[Token], at: int) -> int | None:
    """Finds where the run of plain tokens before an `=` begins; None if it has brackets that are not opened in it."""
    depth = 0
    for i in range(at - 1, max(-1, at - 2 - MAX_TOKENS), -1):
        kind = tokens[i].kind
        if kind not in PLAIN:
            return None if depth else i + 1
        if kind in ("right", "close"):
            depth += 1
        elif kind in ("left", "open"):
            if depth == 0:
                return i + 1
            depth -= 1
    return None if depth or at > MAX_TOKENS else 0


def _stop_after(tokens: Sequence[Token], at: int) -> int | None:
    """Finds where the run of plain tokens after an `=` ends, before a bracket that is not closed in it."""
    depth, opened = 0, at
    for i in range(at + 1, min(len(tokens), at + 2 + MAX_TOKENS)):
        kind = tokens[i].kind
        if kind not in PLAIN:
            return opened if depth else i
        if kind in ("left", "open"):
            opened = opened if depth else i
            depth += 1
        elif kind in ("right", "close"):
            if depth == 0:
                return i
            depth -= 1
    return None if depth or len(tokens) > at + 1 + MAX_TOKENS else len(tokens)


def _agree(left: Side, right: Side, shown: str) -> bool:
    """Whether sides that are not equal agree as rounded decimals or in other units.

    Where percent or money is in play, one side may be a hundred times the other: `15 / 60 * 100 = 25%`.
    """
    hundreds = any(sign in shown for sign in ("%", "$", "¢", "cent", "dollar"))
    return any(
        a == b
        or _is_rounded(a, b, right, 0)
        or _is_rounded(b, a, left, power)
        or _goes_on_rounded(a, b, right)
        for power in ((0, 2, -2) if hundreds else (0,))
        for a in (value * Fraction(10) ** power for value in left.values)
        for b in right.values
    )


def _is_rounded(exact: Fraction, value: Fraction, side: Side, power: int) -> bool:
    """Whether a side is a decimal number, and the other one rounded to its digits; percentages also to whole ones.

    Args:
      value: of the side, multiplied by 10 to this power.
    """
    if side.decimals is None or side.decimals < (0 if side.percent else 1):
        return False
    return 2 * abs(exact - value) * 10**side.decimals <= Fraction(10) ** power


def _goes_on_rounded(exact: Fraction, value: Fraction, right: Side) -> bool:
    """Whether the right side has decimal numbers where exact ones would have no end: `20 + 10/3 = 20 + 3.33`."""
    if right.places is None or (exact * 10**right.places).denominator == 1:
        return False
    return abs(exact - value) <= right.slack * max(abs(exact), abs(value))


def _difference(left: Side, right: Side) -> Fraction:
    return min(abs(a - b) for a in left.values for b in right.values)
