"""Whether an answer is the accepted one, each kind of answer in its own way: choices, numbers, lists, words, mathematics.

Both are brought to a plain form first. What one kind decides no other sees: words are never read as products of
letters, and numbers are compared exactly, never as floats.
"""

import re
import unicodedata
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction

from cord_jax.grading import choices, formulas, quantities, units, words
from cord_jax.grading.cleaning import clean
from cord_jax.grading.lists import Parts, as_intervals, parse_parts

# Longer answers are compared as text alone.
_LONGEST = 4000
_DEEPEST = 6

# (LaTeX of the answer, LaTeX of the accepted form, decimal places that one of them is rounded to, or None).
Mathematics = Callable[[str, str, int | None], bool]

_EQUALS = re.compile(r"(?<![<>!=\\:])=(?!=)|\\approx(?![A-Za-z])|:=")
_NAME = re.compile(
    r"\(?\s*(?:\\?[A-Za-z]+|[a-z]?\\angle\s*[A-Za-z]+|[A-Za-z ]{2,40})(?:_\s*(?:\{[^{}]*\}|\w))?'*(?:\s*\([A-Za-z0-9, ]*\))?"
    r"(?:\s*,\s*\\?[A-Za-z]+(?:_\s*(?:\{[^{}]*\}|\w))?)*\s*\)?\s*"
)
_MEMBER = re.compile(r"^\s*[A-Za-z]\w*\s*\\in(?![A-Za-z])\s*")
_SENTENCE = re.compile(
    r".*\b(?:is|are|was|were|equals|equal to|be|gives?|gets?|have|has|had|costs?|makes?|earns?|pays?|of|left with|takes?"
    r"|therefore|so|hence|thus|answer)\b[\s:]*(?=\S)",
    re.IGNORECASE | re.DOTALL,
)
_ALTERS = re.compile(
    r"\b(?:not|n't|never|no|more|less|fewer|over|under|least|most|between|either|half|twice|than)\b|n't", re.I
)
_COMMENT = re.compile(r"(.*\S)\s*\(([^()]*)\)$", re.DOTALL)
_LAST_WORD = re.compile(r"(?<![A-Za-z\\])([A-Za-z]{2,}(?:\s*\^\s*\{?[23]\}?)?|\u00b0[CF]?)$")
_TWO_NUMBERS = re.compile(r"\d\s+\d")
_ROUNDED = re.compile(r"-?(\d*)\.(\d{6,40})")


def same(predicted: str, gold: str, mathematics: Mathematics) -> bool:
    """Whether an answer agrees with an accepted form of it.

    Args:
      predicted, gold: as they were written.
      mathematics: decides about two formulas that are nothing else.
    """
    if verbatim(predicted) == verbatim(gold):
        return True
    if max(len(predicted), len(gold)) > _LONGEST:
        return _same_long(predicted, gold)
    return _Comparison(mathematics).same(clean(predicted), clean(gold))


def verbatim(text: str) -> str:
    """NFC, without white space around it."""
    return unicodedata.normalize("NFC", text).strip()


def _same_long(predicted: str, gold: str) -> bool:
    number = re.compile(r"[+-]?[\d,]*\.?\d*")
    if number.fullmatch(predicted.strip()) and number.fullmatch(gold.strip()):
        a, b = (quantities.parse_quantity(text.strip()) for text in (predicted, gold))
        return bool(a and b) and quantities.same_quantity(a, b)
    return words.normal_words(predicted) == words.normal_words(gold) != ""


class _Comparison:
    """The comparison of plain forms; parts of answers are compared like whole ones."""

    def __init__(self, mathematics: Mathematics):
        self._mathematics = mathematics

    def same(self, a: str, b: str, depth: int = 0) -> bool:
        """Whether the answer `a` agrees with the accepted form `b`."""
        if not a or not b or depth > _DEEPEST:
            return a == b != ""
        if a == b:
            return True
        for kind in (
            self._choices,
            self._quantities,
            self._times,
            self._parts,
            self._assignments,
            self._words,
        ):
            verdict = kind(a, b, depth)
            if verdict is not None:
                return verdict
        return self._formulas(a, b, depth)

    def _choices(self, a: str, b: str, depth: int) -> bool | None:
        chosen, gold = choices.parse_choice(a), choices.parse_choice(b)
        several = choices.letters_alone(b)
        if gold is None and several and chosen and len(chosen.letters) > 1:
            return chosen.letters == "".join(sorted(several))
        if gold is None:
            # An option whose text is the accepted answer.
            if chosen and chosen.text and re.match(r"\(?[A-J]\s*[).:]+\s", a):
                return self.same(chosen.text, b, depth + 1) or None
            return None
        if len(gold.letters) > 1 and choices.letters_alone(a):
            return "".join(sorted(a)) == gold.letters
        if chosen is None:
            return (bool(gold.text) and self.same(a, gold.text, depth + 1)) or None
        if chosen.letters != gold.letters:
            return False
        return not (chosen.text and gold.text) or self.same(chosen.text, gold.text, depth + 1)

    def _quantities(self, a: str, b: str, depth: int) -> bool | None:
        gold = quantities.parse_quantity(b)
        if gold is None:
            return None
        number = quantities.parse_quantity(a, glued=gold.unit is None)
        if number is None:
            return None
        if quantities.same_quantity(number, gold) or _rounds_to(a, number, b, gold):
            return True
        return None if "," in a + b else False  # which may be a list, too

    def _times(self, a: str, b: str, depth: int) -> bool | None:
        gold = words.clock_time(b)
        if gold is None:
            return None
        given = words.clock_time(a)
        return None if given is None else words.same_time(given, gold)

    def _parts(self, a: str, b: str, depth: int) -> bool | None:
        given, gold = _parts_of(a), _parts_of(b)
        if given is None and gold is None:
            return None
        if given is None or gold is None:
            parts, other = (given, b) if gold is None else (gold, a)
            if len(parts.items) > 1 or "(" in parts.kind or parts.kind == "matrix":
                return None
            return (
                self.same(*((parts.items[0], other) if gold is None else (other, parts.items[0])), depth + 1)
                or None
            )
        if self._same_parts(given, gold, depth):
            return True
        return (
            None
            if "list" in (given.kind, gold.kind) and (words.is_prose(b) or "=" in b or "<" in b)
            else False
        )

    def _same_parts(self, given: Parts, gold: Parts, depth: int) -> bool:
        if len(given.items) != len(gold.items):
            return False
        kinds = {given.kind, gold.kind}
        if kinds <= {"list", "set"}:
            return self._same_set(given.items, gold.items, depth)
        if "set" in kinds:
            return False
        if "matrix" in kinds and len(kinds) == 1 and given.columns != gold.columns:
            return False
        if "matrix" in kinds and len(kinds) == 2:
            matrix = given if given.kind == "matrix" else gold
            kinds -= {"matrix"}
            if 1 not in (matrix.columns, len(matrix.items) // matrix.columns):
                return False
        if len(kinds - {"list"}) > 1 or ("list" in kinds and kinds & {"(]", "[)"}):
            return False
        return all(self.same(x, y, depth + 1) for x, y in zip(given.items, gold.items))

    def _same_set(self, given: tuple[str, ...], gold: tuple[str, ...], depth: int) -> bool:
        left = list(given)
        for item in gold:
            for i, other in enumerate(left):
                if self.same(other, item, depth + 1):
                    del left[i]
                    break
            else:
                return False
        return True

    def _assignments(self, a: str, b: str, depth: int) -> bool | None:
        r"""`x = 5` beside 5, and beside `x = 5`; `x \in S` beside S."""
        if (_MEMBER.match(a) is None) != (_MEMBER.match(b) is None):
            return self.same(_MEMBER.sub("", a), _MEMBER.sub("", b), depth + 1)
        sides_a, sides_b = (_EQUALS.split(text) for text in (a, b))
        if len(sides_a) == len(sides_b) == 1:
            return None
        name_a, name_b = (sides[0].strip() if len(sides) > 1 else None for sides in (sides_a, sides_b))
        if name_a is not None and name_b is not None:
            if not (_NAME.fullmatch(name_a) and _NAME.fullmatch(name_b)):
                return None
            if _squeezed(name_a) != _squeezed(name_b):
                return (
                    None
                    if _is_formula(name_a) and _is_formula(name_b) and len(name_a + name_b) == 2
                    else False
                )
            return self.same(sides_a[-1].strip(), sides_b[-1].strip(), depth + 1)
        sides, name = (sides_a, name_a) if name_b is None else (sides_b, name_b)
        if (
            len(sides) == 2
            and not _NAME.fullmatch(name)
            and re.search("[A-Za-z]", name.replace(r"\frac", ""))
        ):
            return False  # an equation between more than a name and a value
        return self.same(*((sides[-1].strip(), b) if name_b is None else (a, sides[-1].strip())), depth + 1)

    def _words(self, a: str, b: str, depth: int) -> bool | None:
        if _squeezed(a) == _squeezed(b) and not _TWO_NUMBERS.search(a + "|" + b):
            return True
        gold_in_words, given_in_words = words.is_prose(b), words.is_prose(a)
        in_letters = len(a) > 1 and a.isalpha() and b.isalpha()  # names of constants and functions, too
        if (gold_in_words or given_in_words or in_letters) and words.same_words(a, b):
            return True
        value_a, unit_a = _unit_at_end(a)
        value_b, unit_b = _unit_at_end(b)
        if (unit_a or unit_b) and not words.is_prose(value_a) and not words.is_prose(value_b):
            return units.agree(unit_a, unit_b) == 1 and self.same(value_a, value_b, depth + 1)
        if not gold_in_words and not given_in_words:
            return None
        if gold_in_words and not given_in_words:
            led = _SENTENCE.match(b)
            return (
                bool(led)
                and led.end() <= 40
                and not _ALTERS.search(led[0])
                and self.same(a, b[led.end() :], depth + 1)
            )
        if not gold_in_words or len(b) < len(a):
            # A sentence that says it, or the answer and a remark on it.
            if (
                (comment := _COMMENT.fullmatch(a))
                and words.is_prose(comment[2])
                and not _COMMENT.fullmatch(b)
            ):
                return self.same(comment[1], b, depth + 1)
            led = None if gold_in_words else _SENTENCE.match(a)
            if led and not _ALTERS.search(led[0]):
                return self.same(a[led.end() :].strip(), b, depth + 1)
        return False

    def _formulas(self, a: str, b: str, depth: int) -> bool:
        if _TWO_NUMBERS.search(a + "|" + b) or not (re.search(r"\w", a) and re.search(r"\w", b)):
            return False
        if quantities.parse_quantity(a) and quantities.parse_quantity(
            b
        ):  # which differ, and are no lists either
            return False
        if len(a) == len(b) == 1:  # math-verify would not tell `n` from `N`
            return False
        if (intervals := as_intervals(a)) and not as_intervals(b):
            a = intervals
        elif not intervals and (intervals := as_intervals(b)):
            b = intervals
        places = {_places(a), _places(b)} - {None}
        rounded = places.pop() if len(places) == 1 and None in (_places(a), _places(b)) else None
        return self._mathematics(formulas.to_latex(a), formulas.to_latex(b), rounded)


def _parts_of(text: str) -> Parts | None:
    if text.count(r"\pm") == 1 and not re.search(r"[,;]", text):
        return Parts("list", (text.replace(r"\pm", "+").lstrip(" +"), text.replace(r"\pm", "-")))
    return parse_parts(text)


def _squeezed(text: str) -> str:
    """Without white space, and without braces around a single character."""
    return re.sub(r"\{(\w)\}", r"\1", re.sub(r"\s+", "", text))


def _is_formula(text: str) -> bool:
    return not words.is_prose(text)


def _unit_at_end(text: str) -> tuple[str, units.Unit | None]:
    """A formula and the unit behind it; no unit where none is written."""
    unit, start = None, len(text)
    while found := _LAST_WORD.search(text[:start].rstrip()):
        candidate = units.parse_unit(text[found.start() :])
        if candidate is None or found.start() == 0 or words.is_function(found[1]):
            break
        unit, start = candidate, found.start()
    return (text[:start].rstrip(), unit) if unit else (text, None)


def _places(text: str) -> int | None:
    """The decimal places of a number with at least six of them, and six digits that count; None for others."""
    found = _ROUNDED.fullmatch(text)
    return len(found[2]) if found and len((found[1] + found[2]).lstrip("0")) >= 6 else None


def _rounds_to(a: str, number: quantities.Quantity, b: str, gold: quantities.Quantity) -> bool:
    """Whether one is a long decimal and the other a fraction that it is rounded from: 0.333333 and 1/3."""
    if (
        isinstance(number.value, Decimal)
        or isinstance(gold.value, Decimal)
        or units.agree(number.unit, gold.unit) != 1
    ):
        return False
    for text, other in ((a, b), (b, a)):
        places = _places(text)
        if places is not None and _places(other) is None and re.search(r"/|\\frac|\\overline", other):
            return abs(number.value - gold.value) <= Fraction(1, 2 * 10**places)
    return False
