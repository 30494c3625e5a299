"""Units of measure and money: which names mean the same, and what one is of another."""

import re
from fractions import Fraction
from typing import NamedTuple

from cord_jax.grading.cleaning import DEGREE

PERCENT = "percent"


class Unit(NamedTuple):
    """A unit of measure.

    Attributes:
      dimension: units of one dimension can be converted; a unit that is not known is a dimension of its own.
      size: in the dimension's base unit.
      known: whether it stands in the table, rather than being any noun ("apples").
    """

    dimension: str
    size: Fraction = Fraction(1)
    known: bool = True


# Dimension -> (names of a unit, its size). Symbols keep their case, names do not.
_TABLE: dict[str, tuple[tuple[str, str | int], ...]] = {
    PERCENT: (("% percent percents percentage pct", 1),),
    "degree": ((f"{DEGREE} deg degree", 1), ("rad radian", "1e100")),
    "length": (
        ("m meter metre", 1),
        ("km kilometer kilometre", 1000),
        ("dm decimeter decimetre", "1/10"),
        ("cm centimeter centimetre", "1/100"),
        ("mm millimeter millimetre", "1/1000"),
        ("\u00b5m um micrometer micrometre micron", "1/1000000"),
        ("nm nanometer nanometre", "1/1000000000"),
        ("in inch inches", "127/5000"),
        ("ft foot feet", "381/1250"),
        ("yd yard", "1143/1250"),
        ("mi mile", "201168/125"),
    ),
    "mass": (
        ("kg kilogram kilo", 1),
        ("g gm gram", "1/1000"),
        ("mg milligram", "1/1000000"),
        ("lb lbs pound", "45359237/100000000"),
        ("oz ounce", "45359237/1600000000"),
        ("t ton tonne", 1000),
    ),
    "time": (
        ("s sec second", 1),
        ("ms millisecond", "1/1000"),
        ("min mins minute", 60),
        ("h hr hrs hour", 3600),
        ("day", 86400),
        ("week", 604800),
    ),
    "months": (("month", 1), ("yr yrs year", 12)),
    "volume": (
        ("L l liter litre", 1),
        ("mL ml milliliter millilitre", "1/1000"),
    ),
    "gallons": (("gal gallon", 1), ("qt quart", "1/4"), ("pt pint", "1/8"), ("cup", "1/16")),
    "usd": (("$ usd dollar us$ buck", 1), ("cent \u00a2 penny pennies", "1/100")),
    "eur": (("\u20ac eur euro", 1),),
    "gbp": (("\u00a3 gbp", 1), ("pence", "1/100")),
    "yen": (("\u00a5 jpy yen", 1),),
    "inr": (("\u20b9 inr rupee", 1),),
    "newton": (("N newton", 1), ("kN kilonewton", 1000)),
    "energy": (("J joule", 1), ("kJ kilojoule", 1000)),
    "electronvolt": (("eV", 1), ("keV", 1000), ("MeV", 10**6)),
    "power": (("W watt", 1), ("kW kilowatt", 1000)),
    "volt": (("V volt", 1),),
    "ampere": (("A amp ampere", 1),),
    "pressure": (("Pa pascal", 1), ("kPa kilopascal", 1000)),
    "frequency": (("Hz hertz", 1), ("kHz", 1000), ("MHz", 10**6)),
    "kelvin": (("K kelvin", 1),),
    "celsius": ((f"{DEGREE}C celsius", 1),),
    "fahrenheit": ((f"{DEGREE}F fahrenheit", 1),),
    "mole": (("mol mole", 1),),
}
_SPEEDS = {"mph": "mile/hour", "kmph": "km/hour", "kph": "km/hour"}
_BY_NAME = {
    name: Unit(dimension, Fraction(size))
    for dimension, units in _TABLE.items()
    for names, size in units
    for name in names.split()
}
_COUNTABLE = {name for name in _BY_NAME if len(name) > 3}

SCALES = {
    "hundred": 10**2,
    "thousand": 10**3,
    "million": 10**6,
    "mn": 10**6,
    "billion": 10**9,
    "bn": 10**9,
    "trillion": 10**12,
    "dozen": 12,
}

_POWER = re.compile(r"\s*(?:\^\s*\{?\s*([23])\s*\}?)")
# Words after a number with which it is no longer that number.
_NOT_UNITS = frozenset(
    "and or plus minus times divided over squared cubed factorial half halves third thirds fifth fifths sixth sixths "
    "to through not less more fewer greater than if when unless mod modulo choose root where for but with "
    "is are was were equals "
    "sin cos tan log ln exp sqrt pi".split()
)
_WORD = re.compile(r"[^\W\d_]+|[%$\u20ac\u00a3\u00a5\u20b9\u00a2\u00b0]")
_PHRASE = re.compile(
    r"(?:[^\W\d_]|[%$\u20ac\u00a3\u00a5\u20b9\u00a2\u00b0 /.'()^{}*-]|(?<=\^)[23]|(?<=\^\{)[23]|(?<=\^ )[23])*"
)


def parse_unit(text: str) -> Unit | None:
    """The unit that a phrase after a number names; None if it is no unit. An empty phrase is an error of the caller's."""
    text = " ".join(text.split())
    if not text or len(text) > 60 or not _PHRASE.fullmatch(text):
        return None
    if not re.search(r"[^\W\d_]|[%$\u20ac\u00a3\u00a5\u20b9\u00a2\u00b0]", text):
        return None
    words = [word.lower() for word in _WORD.findall(text)]
    if _NOT_UNITS.intersection(words) or len(words) > 7:
        return None
    factors = re.split(r"\s*/\s*|\s+per\s+|(?<=[a-z])\s+an?\s+(?=[a-z])", _SPEEDS.get(text.lower(), text))
    units = [_factor(factor) for factor in factors]
    if len(units) == 1:
        return units[0]
    if not all(units):
        return None
    size = units[0].size
    for unit in units[1:]:
        size /= unit.size
    return Unit("/".join(unit.dimension for unit in units), size, all(unit.known for unit in units))


def _factor(text: str) -> Unit | None:
    """A unit without a division: a name, perhaps squared or cubed, or any noun."""
    text = text.strip(" .()*{}")
    power = 1
    found = re.fullmatch(r"(.*?)" + _POWER.pattern, text)
    words = text.lower().split()
    if found:
        text, power = found[1].strip(" {}()"), int(found[2])
    elif words and words[0] in ("square", "sq", "sq.", "cubic", "cu"):
        text, power = (
            text.split(maxsplit=1)[1] if len(words) > 1 else "",
            2 if words[0].startswith("sq") else 3,
        )
        if not text:
            return Unit("^2" if power == 2 else "^3", known=False)
    if not text:
        return None
    unit = _named(text)
    if unit is None:
        base = " ".join(
            _singular(word) for word in _WORD.findall(text.lower()) if word not in ("of", "the", "a", "an")
        )
        unit = Unit(base, known=False)
    if power == 1:
        return unit
    return Unit(f"{unit.dimension}^{power}", unit.size**power, unit.known)


def _named(text: str) -> Unit | None:
    """A unit of the table by its symbol or name, in the singular or plural."""
    if text in _BY_NAME:
        return _BY_NAME[text]
    text = text.lower().rstrip(".").replace("u.s. ", "").replace("us ", "")
    text = {"per cent": "percent", "percentage points": "percent", "degrees celsius": "celsius"}.get(
        text, text
    )
    text = {"degrees fahrenheit": "fahrenheit", "degree celsius": "celsius"}.get(text, text)
    if len(text) > 1 and text in _BY_NAME:
        return _BY_NAME[text]
    singular = _singular(text)
    return (
        _BY_NAME[singular] if singular in _COUNTABLE or singular in ("inch", "day", "foot", "mile") else None
    )


def _singular(word: str) -> str:
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "sses", "xes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > 2 else word


def agree(a: Unit | None, b: Unit | None) -> Fraction | None:
    """Tells how many of `b` one of `a` is; 1 if one of the two is not given; None if they do not measure the same."""
    if a is None or b is None:
        return Fraction(1)
    if a.dimension == b.dimension:
        return a.size / b.size
    if not a.known and not b.known and "/" not in a.dimension + b.dimension:
        words_a, words_b = set(a.dimension.split()), set(b.dimension.split())
        if words_a <= words_b or words_b <= words_a:
            return Fraction(1)
    return None
