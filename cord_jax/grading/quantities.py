"""Numbers, exact however long or small they are, with the units that they are given in."""

import re
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import NamedTuple

from cord_jax.grading.units import PERCENT, SCALES, Unit, agree, parse_unit

_LONGEST_EXPONENT = 4000  # of a number that is compared as a fraction

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?:[ ]\d{3})+(?!\d|\s*[/\d])|\d{1,3}(?:'\d{3})+|\d+)"
_DECIMAL = rf"(?:{_DIGITS}(?:\.\d*)?|\.\d+)"
_ARGUMENT = r"\s*(?:\{{\s*(?P<{0}>[+-]?\s*\d+(?:\.\d+)?)\s*\}}|(?P<{0}_digit>\d))"
_FRACTION = r"\\frac" + _ARGUMENT.format("top") + _ARGUMENT.format("bottom")
_NUMBER = re.compile(
    rf"""(?:
      (?P<whole>{_DIGITS})(?:\s*{_FRACTION}|(?:\s+|\s*-\s*|\s+and\s+)(?P<over>\d+)\s*/\s*(?P<under>\d+))
    | {_FRACTION.replace("top", "top2").replace("bottom", "bottom2")}
    | (?P<over2>{_DECIMAL})\s*/\s*(?P<under2>{_DECIMAL})(?![\d.])
    | (?P<repeating>\d+\.\d*)\\overline\s*\{{\s*(?P<period>\d+)\s*\}}
    | (?P<mantissa>{_DECIMAL})
      (?:[eE](?P<e>[+-]?\d+)(?![\d.])|\s*(?:\\times|\\cdot|\*|x)\s*10\s*(?:\^|\*\*)\s*\{{?\s*\(?(?P<power>[+-]?\s*\d+)\)?\s*\}}?)?
    )""",
    re.VERBOSE,
)
_MONEY = re.compile(
    r"(?:(?:US|U\.S\.|A|C|AU|CA)?\s?\$|[\u20ac\u00a3\u00a5\u20b9]|(?:USD|EUR|GBP|JPY|INR|Rs\.?)(?=\s*[\d.-]))\s*"
)
_PREFIX = re.compile(
    r"(?:(?:approximately|approx\.?|about|around|roughly|exactly|only|nearly|just|a total of|\\approx|\\sim|=|~|\\angle\s*=?)\s*)+",
    re.IGNORECASE,
)
_BASE = re.compile(r"_\s*\{?\s*(\d{1,2})\s*\}?|\s*\(?\s*base[\s-]*(\d{1,2})\s*\)?", re.IGNORECASE)
_SCALE = re.compile(rf"\s*-?\s*({'|'.join(SCALES)})s?(?![A-Za-z])", re.IGNORECASE)
_MONEY_SCALE = re.compile(r"\s?([kKmMbB])(?![A-Za-z])")
_MONEY_SCALES = {"k": 10**3, "m": 10**6, "b": 10**9}

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_SPELLED = {word: value for value, word in enumerate(_ONES)}
_SPELLED |= {ten: 10 * value for value, ten in enumerate(_TENS, start=2)}
_SPELLED |= {f"{t}{j}{o}": _SPELLED[t] + _SPELLED[o] for t in _TENS for o in _ONES[1:10] for j in "- "}
_SPELLED_NUMBER = re.compile(
    "(" + "|".join(sorted(_SPELLED, key=len, reverse=True)) + r")(?![A-Za-z-])", re.IGNORECASE
)


class Quantity(NamedTuple):
    """A number and its unit, None if it is given without one.

    `value` is a Decimal where the number is too long for a fraction.
    """

    value: Fraction | Decimal
    unit: Unit | None


def parse_quantity(text: str, *, glued: bool = False) -> Quantity | None:
    """Reads the plain form of an answer (`cleaning.clean`) as a number with a unit; None if it is none.

    Args:
      glued: whether one letter right behind the number is a unit, `5m`, rather than a variable.
    """
    text = _PREFIX.sub("", text, count=1) if _PREFIX.match(text) else text
    negative = False
    # The way of accounts: (1,234) is negative.
    if accounts := re.fullmatch(
        r"\(\s*([^()\d]{0,4}\d{1,3}(?:,\d{3})+(?:\.\d+)?|[$\u20ac\u00a3]\s*[\d.]+)\s*\)(.*)", text
    ):
        text, negative = accounts[1] + accounts[2], True
    text, signs = _sign(text)
    money = _MONEY.match(text)
    unit_text = ""
    if money:
        unit_text = money[0].strip().lstrip("USAC.") or "usd"
        unit_text = {"usd": "$", "D": "$"}.get(unit_text, unit_text)
        text, more = _sign(text[money.end() :])
        signs *= more
    number = _NUMBER.match(text)
    if number is None:
        spelled = _SPELLED_NUMBER.match(text)
        if spelled is None or money:
            return None
        value, rest = Fraction(_SPELLED[spelled[1].lower()]), text[spelled.end() :]
    else:
        value, rest = _value(number), text[number.end() :]
    if value is None:
        return None
    if base := _BASE.match(rest):
        rest = rest[base.end() :]
        return Quantity(value * signs, Unit(f"base {base[1] or base[2]}")) if not rest.strip() else None
    scale = _SCALE.match(rest) or (money and _MONEY_SCALE.match(rest))
    if scale:
        if isinstance(value, Decimal):
            return None
        value *= SCALES.get(scale[1].lower()) or _MONEY_SCALES[scale[1].lower()]
        rest = rest[scale.end() :]
    if negative:
        signs = -signs
    value = value if signs > 0 else -value
    return _with_unit(value, unit_text, rest, glued)


def _with_unit(value: Fraction | Decimal, money: str, rest: str, glued: bool) -> Quantity | None:
    """The quantity whose unit stands before the number (`money`) or after it (`rest`)."""
    stripped = rest.strip()
    stripped = re.sub(r"^of(?= [a-z])", "", stripped).strip().strip("-").strip()
    if not stripped:
        return Quantity(value, parse_unit(money) if money else None)
    if re.fullmatch(r"[A-Za-z]", stripped) and (
        stripped not in "mgshLNJWVKA" or not (glued or rest[0].isspace())
    ):
        return None
    unit = parse_unit(stripped)
    if unit is None:
        return None
    return Quantity(value, parse_unit(money) if money else unit)


def _sign(text: str) -> tuple[str, int]:
    """The text without the sign that it begins with, or the word for it, and the sign."""
    text = text.lstrip()
    for written, sign in (("-", -1), ("+", 1), ("negative ", -1), ("minus ", -1)):
        if text.lower().startswith(written):
            return text[len(written) :].lstrip(), sign
    return text, 1


def _value(number: re.Match) -> Fraction | Decimal | None:
    groups = number.groupdict()

    def of(name: str) -> str | None:
        return groups[name] if groups[name] is not None else groups.get(f"{name}_digit")

    try:
        if groups["whole"]:
            top, bottom = (of("top"), of("bottom")) if of("top") else (groups["over"], groups["under"])
            return _plain(groups["whole"]) + _plain(top) / _plain(bottom)
        if of("top2"):
            return _plain(of("top2")) / _plain(of("bottom2"))
        if groups["over2"]:
            return _plain(groups["over2"]) / _plain(groups["under2"])
        if groups["repeating"]:
            places = len(groups["repeating"].partition(".")[2])
            period = Fraction(int(groups["period"]), (10 ** len(groups["period"]) - 1) * 10**places)
            return _plain(groups["repeating"]) + period
        exponent = groups["e"] or groups["power"]
        digits = _plain_text(groups["mantissa"])
        value = Decimal(f"{digits}e{exponent.replace(' ', '')}" if exponent else digits)
    except (ZeroDivisionError, InvalidOperation, ValueError, TypeError):
        return None
    small = abs(value.adjusted()) + len(value.as_tuple().digits) < _LONGEST_EXPONENT
    return Fraction(value) if small or not value else value


def _plain(text: str) -> Fraction:
    if len(text) > _LONGEST_EXPONENT:
        raise ValueError("too long for a fraction")
    return Fraction(_plain_text(text))


def _plain_text(text: str) -> str:
    text = re.sub(r"[,' ]", "", text)
    return text[:-1] if text.endswith(".") else text


def same_quantity(a: Quantity, b: Quantity) -> bool:
    """Whether two quantities are equal: exactly, after conversion; a unit that only one of them has is passed over.

    A percentage equals both its number and its fraction: 50 % is 50, and 0.5.
    """
    if isinstance(a.value, Decimal) or isinstance(b.value, Decimal):
        return type(a.value) is type(b.value) and a.value == b.value and agree(a.unit, b.unit) == 1
    for one, other in ((a, b), (b, a)):
        if (
            one.unit
            and one.unit.dimension == PERCENT
            and other.unit is None
            and one.value / 100 == other.value
        ):
            return True
    factor = agree(a.unit, b.unit)
    return factor is not None and a.value * factor == b.value
