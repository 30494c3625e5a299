"""Sides of equations between plain numbers, and their exact values."""

import ast
import functools
import operator
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from cord_jax.filters.equations.tokens import Token

MAX_TOKENS = 200  # of a side
_MAX_BITS = 4096  # of the numerators and denominators of all values


class Side(NamedTuple):
    """A side of an equation that is understood.

    Attributes:
      values: what it may mean, more than one where its notation is ambiguous.
      decimals: digits after the point if it is a decimal number and nothing else, None if it is not.
      percent: whether that number is a percentage.
      computed: whether it has an operator.
      places, slack: of a computed side with decimal numbers, which may have been rounded: most digits after the point,
        and how much that may be of the value, relative to it; else None and 0.
      may_mean_more: whether it has `mod` or `of`, which after an `=` may not be operators (`12 = 3 mod 9`).
    """

    values: tuple[Fraction, ...]
    decimals: int | None = None
    percent: bool = False
    computed: bool = False
    may_mean_more: bool = False
    places: int | None = None
    slack: Fraction = Fraction(0)


class _NotUnderstood(Exception):
    pass


def read_side(tokens: Sequence[Token]) -> Side | None:
    """Reads the meaning of a run of plain tokens; None if that is not certain."""
    if not 0 < len(tokens) <= MAX_TOKENS:
        return None
    negative = tokens[0].text == "-"
    number = tokens[negative:]
    kinds = [token.kind for token in number]
    if kinds in (["number"], ["number", "percent"]):
        percent = len(kinds) == 2
        value = _number(("-" if negative else "") + number[0].text)
        value = value / 100 if percent else value
        return Side((value,), len(number[0].text.partition(".")[2]) + 2 * percent, percent)
    if _is_range(tokens) or _mixes_percent(tokens):
        return None
    try:
        values = tuple(dict.fromkeys(map(_evaluate, _expressions(tokens))))
    except _NotUnderstood:
        return None
    kinds = {token.kind for token in tokens}
    decimals = [token.text for token in tokens if token.kind == "number" and "." in token.text]
    places = [len(text.partition(".")[2]) for text in decimals]
    # Half a unit of the last place, relative to the number.
    slack = sum(
        (Fraction(1, 2 * 10**n) / Fraction(text) for n, text in zip(places, decimals) if Fraction(text)),
        Fraction(0),
    )
    return Side(
        values,
        computed=True,
        percent="percent" in kinds,
        may_mean_more=bool(kinds & {"mod", "of"}),
        places=max(places, default=None),
        slack=slack,
    )


@functools.lru_cache(4096)
def _number(text: str) -> Fraction:
    return Fraction(text)


def _is_range(tokens: Sequence[Token]) -> bool:
    """Whether it is like `3-5`, from 3 to 5."""
    if [token.kind for token in tokens] != ["number", "operator", "number"]:
        return False
    low, sign, high = tokens
    tight = low.end == sign.start and sign.end == high.start
    return sign.text == "-" and tight and Fraction(low.text) < Fraction(high.text)


def _mixes_percent(tokens: Sequence[Token]) -> bool:
    """Whether percentages and other numbers are added, as in `100 + 10%`: of what, is not said."""
    terms: list[list[Token]] = [[]]
    for token in tokens:
        if token.text in ("+", "-"):
            terms.append([])
        else:
            terms[-1].append(token)
    alone = [
        "percent" in (term[-1].kind, term[-2].kind) and len(term) in (2, 3) for term in terms if len(term) > 1
    ]
    return any(alone) and not all(alone) or any(alone) and any(len(term) == 1 for term in terms)


def _expressions(tokens: Sequence[Token]) -> list[str]:
    """The side as Python expressions of whole numbers, one for each way in which it can be read."""
    pieces: list[str] = []
    closers: list[
        tuple[str, str]
    ] = []  # of brackets that are open: the kind that closes them, and its Python
    parts_of, moduli = None, []
    i = 0

    def opens(at: int) -> None:
        if at >= len(tokens) or tokens[at].kind != "open":
            raise _NotUnderstood

    while i < len(tokens):
        kind, text = tokens[i].kind, tokens[i].text
        if kind == "number":
            whole, _, decimals = text.partition(".")
            percent = i + 1 < len(tokens) and tokens[i + 1].kind == "percent"
            # A pair is a fraction, which no power or division beside it takes apart.
            text = f"({int(whole + decimals)}, {10 ** (len(decimals) + 2 * percent)})"
            i += percent
        elif kind == "of":
            parts_of = len(closers)
        elif kind == "mod":
            moduli.append((len(pieces), len(closers)))
        elif kind == "left":
            closers.append(("right", ")"))
        elif kind == "fraction":
            opens(i + 1)
            text, i = "((", i + 1
            closers.append(("close", ")/("))
        elif kind == "open":
            if tokens[i - 1].kind != "power" or i == 0:
                raise _NotUnderstood
            text = "("
            closers.append(("close", ")"))
        elif kind in ("right", "close"):
            closing, text = closers.pop() if closers else ("", "")
            if closing != kind:
                raise _NotUnderstood
            parts_of = None if parts_of is not None and parts_of > len(closers) else parts_of
            if text == ")/(":
                opens(i + 1)
                i += 1
                closers.append(("close", "))"))
        elif text in ("+", "-") and parts_of == len(closers):
            raise _NotUnderstood  # 20% of 50 + 10
        elif text == "/" and i > 1 and tokens[i - 1].kind == "number" and tokens[i - 2].text == "/":
            raise _NotUnderstood  # 6 / 1/2
        pieces.append(text)
        i += 1
    if closers or len(moduli) > 1:
        raise _NotUnderstood
    plain = " ".join(pieces)
    if moduli and moduli[0][1] == 0:  # 34 + 19 mod 30: of the sum, or of 19
        at = moduli[0][0]
        return [plain, f"({' '.join(pieces[:at])}) {' '.join(pieces[at:])}"]
    return [plain]


@functools.lru_cache(4096)
def _evaluate(expression: str) -> Fraction:
    """The value of a Python expression; `_NotUnderstood` if it is none, has none or has one that is too large."""
    try:
        return _value(ast.parse(expression, mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        raise _NotUnderstood from None


def _value(node: ast.AST) -> Fraction:
    match node:
        case ast.Tuple(elts=[ast.Constant(value=int(numerator)), ast.Constant(value=int(denominator))]):
            return Fraction(numerator, denominator)
        case ast.UnaryOp(op=ast.USub(), operand=operand) if not _is_power(
            operand
        ):  # -2^2 is read in two ways
            return -_value(operand)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            value = _power(_value(left), _value(right))
        case ast.BinOp(left=left, op=ast.Mod(), right=right):
            value, modulus = _value(left), _value(right)
            if value < 0 or modulus <= 0 or value.denominator * modulus.denominator > 1:
                raise _NotUnderstood
            value %= modulus
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _OPERATIONS:
            value = _OPERATIONS[type(sign)](_value(left), _value(right))
        case _:
            raise _NotUnderstood
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > _MAX_BITS:
        raise _NotUnderstood
    return value


_OPERATIONS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def _is_power(node: ast.AST) -> bool:
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow)


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    """A whole power of bounded size."""
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if exponent.denominator != 1 or bits * abs(exponent) > _MAX_BITS or base == 0 and exponent <= 0:
        raise _NotUnderstood
    return base ** int(exponent)
