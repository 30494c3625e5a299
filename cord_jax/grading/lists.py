"""Answers of several parts: lists, sets, tuples, intervals and matrices, taken apart at their top level."""

import re
from typing import NamedTuple

_OPENING, _CLOSING = "([{", ")]}"
_WORD_SEPARATOR = re.compile(r",?\s+(?:and|or|&)\s+|\s*;\s*|,\s*", re.IGNORECASE)
_STRONG_SEPARATOR = re.compile(r"\s*;\s*")
_MATRIX = re.compile(
    r"\\begin\{(?:[pbvBV]?matrix|smallmatrix|array|cases)\}(?:\{[lcr|]*\})?(.*?)\\end\{\w+\}", re.DOTALL
)
_BRACKETS = {("(", ")"), ("[", "]"), ("(", "]"), ("[", ")")}


class Parts(NamedTuple):
    """The parts of an answer.

    Attributes:
      kind: "list" (nothing around it), "set", "matrix", or the two brackets around it.
      items: the parts' texts, not empty.
      columns: of a matrix; 0 otherwise.
    """

    kind: str
    items: tuple[str, ...]
    columns: int = 0

    @property
    def ordered(self) -> bool:
        """Whether the order of the items matters."""
        return self.kind not in ("list", "set")


def parse_parts(text: str) -> Parts | None:
    """Takes the plain form of an answer apart; None if it is a single thing or its brackets do not match."""
    if matrix := _MATRIX.fullmatch(text.strip()):
        return _matrix(matrix[1])
    text = re.sub(r"^\\langle(.*)\\rangle$", r"(\1)", text.strip())
    inside = re.fullmatch(r"\\\{(.*)\\\}|(?<!\\)\{(.*[,;].*)(?<!\\)\}", text, re.DOTALL)
    if inside:
        content = inside[1] if inside[1] is not None else inside[2]
        items = _split(content)
        return Parts("set", items) if items and all(items) and _balanced(content) else None
    if len(text) > 1 and (text[0], text[-1]) in _BRACKETS and _balanced(text[1:-1]):
        items = _split(text[1:-1])
        if items and all(items) and (len(items) > 1 or text[0] == "["):
            return Parts(text[0] + text[-1], items)
        return None
    items = _split(text)
    return Parts("list", items) if items and len(items) > 1 and all(items) else None


def _matrix(content: str) -> Parts | None:
    rows = [row.strip() for row in re.split(r"\\\\(?:\[[^\]]*\])?|\\cr(?![A-Za-z])", content)]
    cells = [[cell.strip() for cell in row.split("&")] for row in rows if row]
    if not cells or len({len(row) for row in cells}) > 1 or not all(cell for row in cells for cell in row):
        return None
    return Parts("matrix", tuple(cell for row in cells for cell in row), len(cells[0]))


def _depths(text: str) -> list[int] | None:
    """Counts the brackets that are open before each character; None if they do not match.

    An interval's two brackets may be of different kinds.
    """
    depths, open_ = [], []
    for character in text:
        depths.append(len(open_))
        if character in _OPENING:
            open_.append("{" if character == "{" else "(")
        elif character in _CLOSING:
            if not open_ or open_.pop() != ("{" if character == "}" else "("):
                return None
    return None if open_ else depths


def _balanced(text: str) -> bool:
    return _depths(text) is not None


def _split(text: str) -> tuple[str, ...] | None:
    """At semicolons if there are any, else at commas, `and` and `or`, outside of all brackets."""
    depths = _depths(text)
    if depths is None:
        return None
    for separator in (_STRONG_SEPARATOR, _WORD_SEPARATOR):
        items, start = [], 0
        for match in separator.finditer(text):
            if depths[match.start()] == 0 and not (
                match[0] == "," and separator is _WORD_SEPARATOR and _in_number(text, match.start())
            ):
                items.append(text[start : match.start()].strip())
                start = match.end()
        if items:
            items.append(text[start:].strip())
            return tuple(items)
    return (text.strip(),)


def _in_number(text: str, comma: int) -> bool:
    """Whether a comma stands between thousands: in a number whose other commas do so too, among several numbers."""
    after = re.match(r"[\d,.]*", text[comma + 1 : comma + 64])[0].rstrip(",.")
    around = re.search(r"[\d,.]*$", text[max(0, comma - 64) : comma])[0] + "," + after
    return bool(re.fullmatch(r"\d{1,3}(?:,\d{3})+(?:\.\d*)?", around)) and len(around) < len(text.strip())


_ABOVE = {">": "(", r"\ge": "["}
_BELOW = {"<": ")", r"\le": "]"}
_FLIPPED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le"}
_RELATION = re.compile(r"\s*(\\le(?![A-Za-z])|\\ge(?![A-Za-z])|<=|>=|<|>)\s*")


def as_intervals(text: str) -> str | None:
    """The union of intervals, in LaTeX, that inequalities of one variable joined by `or` describe; else None."""
    intervals, variables = [], set()
    for piece in re.split(r"\s+or\s+|\s*\\cup\s*|\s*\\lor\s*", text):
        sides = [{"<=": r"\le", ">=": r"\ge"}.get(side, side.strip()) for side in _RELATION.split(piece)]
        if len(sides) == 3 and not sides[0].isalpha():
            sides = [sides[2], _FLIPPED[sides[1]], sides[0]]
        if len(sides) == 5 and sides[1] in _ABOVE and sides[3] in _ABOVE:
            sides = [sides[4], _FLIPPED[sides[3]], sides[2], _FLIPPED[sides[1]], sides[0]]
        if len(sides) == 3 and sides[0].isalpha():
            name, relation, bound = sides
            intervals.append(
                f"{_ABOVE[relation]}{bound}, \\infty)"
                if relation in _ABOVE
                else f"(-\\infty, {bound}{_BELOW[relation]}"
            )
        elif len(sides) == 5 and sides[1] in _BELOW and sides[3] in _BELOW:
            name = sides[2]
            intervals.append(f"{'[' if sides[1] != '<' else '('}{sides[0]}, {sides[4]}{_BELOW[sides[3]]}")
        else:
            return None
        variables.add(name)
    return r" \cup ".join(intervals) if len(variables) == 1 and len(name) == 1 else None
