"""Text as the tokens of equations: numbers, operators, brackets, and what lies between equations."""

import re
from typing import NamedTuple

MAX_DIGITS = 50  # of a number that is understood

# Kinds of tokens of which plain sides are made.
PLAIN = frozenset("number operator power percent left right open close fraction mod of".split())
# Kinds with which a number can end.
OPERANDS = frozenset("number percent right close".split())

# Commands whose argument is read as if it stood there alone.
_WRAPPERS = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|boxed|fbox|underline)[ ]{0,9}\{([^{}\\$]{0,200})\}"
)
_TOKENS = re.compile(
    r"""
    (?P<skip>[ \t\f\v\r\u00a0\u2009\u202f]+|\\[,;:!\ ()]|\\?[$&]|[`£€¥])
  | (?P<marker>(?:(?<=\n)|\A)[ \t>]{0,20}(?:\#{1,6}[ ]*Step[ ]*[0-9]{1,6}\b|[-*•–](?=[ \t])|\(?[0-9]{1,4}[.)](?=\s)|\#{1,6}(?=\s)))
  | (?P<line>\n|\\\\(?!\w)|\\[\[\]])
  | (?P<number>\.?[0-9](?:\w|[.,:](?=[0-9])|(?:\{,\}|\\,|,\\!)(?=[0-9]))*)
  | (?P<word>[^\W\d_]\w*(?:['’][^\W\d_]+)*)
  | (?P<command>\\[A-Za-z]+|\\%)
  | (?P<compare>[=<>]{2,}|[!:~]=|=[!~/]|[<>≈≠≤≥≡≅∼→⇒⇔↔←⟹])
  | (?P<equals>=)
  | (?P<other>--+|//+|\.{2,}|\*{3,})
  | (?P<power>\*\*|\^)
  | (?P<operator>[-+*/−–×·⋅∙÷∕⁄])
  | (?P<percent>%)
  | (?P<left>\()
  | (?P<right>\))
  | (?P<open>\{)
  | (?P<close>\})
  | (?P<end>[;?!]|\.(?=[\s"'”’)\]}*$_]|\Z))
  | (?P<comma>[,—])
  | (?P<colon>:)
  | (?P<unknown>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMANDS = {
    "\\times": ("operator", "*"),
    "\\cdot": ("operator", "*"),
    "\\ast": ("operator", "*"),
    "\\div": ("operator", "/"),
    "\\frac": ("fraction", ""),
    "\\dfrac": ("fraction", ""),
    "\\tfrac": ("fraction", ""),
    "\\mod": ("mod", "%"),
    "\\bmod": ("mod", "%"),
    "\\%": ("percent", "%"),
    "\\approx": ("compare", "≈"),
    "\\left": ("skip", ""),
    "\\right": ("skip", ""),
    "\\quad": ("line", ""),
    "\\qquad": ("line", ""),
}
_SIGNS = dict.fromkeys("*×·⋅∙", "*") | dict.fromkeys("/÷∕⁄", "/") | dict.fromkeys("-−–", "-") | {"+": "+"}
_SEPARATORS = re.compile(r"\{,\}|\\,|,\\!")
_NUMBER = re.compile(r"(?:[1-9][0-9]{0,2}(?:,[0-9]{3})+|0|[1-9][0-9]*)(?:\.[0-9]+)?|\.[0-9]+")
_WHOLE = re.compile(rf"0|[1-9][0-9]{{0,{MAX_DIGITS - 1}}}")
_SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹"
_RAISED = re.compile(rf"(.*[0-9])([{_SUPERSCRIPTS}]+)")
_FACTOR_FOLLOWS = re.compile(r"[ \t]*\\?\$?[0-9.]")


class Token(NamedTuple):
    """A piece of text.

    Attributes:
      kind: one of `PLAIN`, or line, marker, end, comma, colon, compare, equals, word, unknown.
      text: as it stands there; of numbers and operators, as Python writes them.
      start, end: where it stands.
    """

    kind: str
    text: str
    start: int
    end: int


def unwrap(text: str) -> str:
    r"""The text without `\text{}`, `\boxed{}` and their like, but with what is in them."""
    return _WRAPPERS.sub(r" \1 ", text)


def tokenize(text: str) -> list[Token]:
    """The tokens of a text, without white space, math delimiters, currency signs and emphasis."""
    tokens: list[Token] = []
    for match in _TOKENS.finditer(text):
        kind, found, start, end = match.lastgroup, match.group(), match.start(), match.end()
        before = tokens[-1].kind if tokens else "line"
        if kind == "number":
            attached = (
                found[0] == "." and start > 0 and (text[start - 1].isalnum() or text[start - 1] in ")}")
            )
            tokens += [Token("unknown", found, start, end)] if attached else _numbers(found, start, end)
            continue
        if kind == "word":
            kind, found = _word(found, before, tokens, _FACTOR_FOLLOWS.match(text, end))
        elif kind == "command":
            kind, found = _COMMANDS.get(found, ("unknown", found))
        elif found in ("*", "**"):
            kind = _star(kind, before, text[start - 1 : start], text[end : end + 2])
        elif kind == "power":
            found = "**"
        elif kind == "operator":
            ranges = found == "–" and not (
                text[start - 1 : start].isspace() and text[end : end + 1].isspace()
            )
            kind, found = ("unknown", found) if ranges else (kind, _SIGNS[found])
        elif kind == "other":
            kind = "unknown"
        elif kind == "equals":
            _continue_chain(tokens)
        if kind != "skip":
            tokens.append(Token(kind, found, start, end))
    return tokens


def _numbers(found: str, start: int, end: int) -> list[Token]:
    """A cluster that begins like a number: a number, a product (`3x4`), a power (`5²`), or nothing known."""
    if _WHOLE.fullmatch(found):
        return [Token("number", found, start, end)]
    found_plain = _SEPARATORS.sub(",", found)
    raised = _RAISED.fullmatch(found_plain)
    if raised:
        exponent = "".join(str(_SUPERSCRIPTS.index(digit)) for digit in raised[2])
        pieces, sign = [raised[1], exponent], ("power", "**")
    else:
        pieces, sign = re.split("[xX]", found_plain), ("operator", "*")
        if len(pieces) > 1 and (
            pieces[0] == "0" or pieces[-1] in ("2", "3")
        ):  # hexadecimal; x² that lost its form
            pieces = [""]
    if not all(_NUMBER.fullmatch(piece) and len(piece) <= MAX_DIGITS for piece in pieces):
        return [Token("unknown", found, start, end)]
    tokens = [Token("number", pieces[0].replace(",", ""), start, end)]
    for piece in pieces[1:]:
        tokens += [Token(*sign, start, end), Token("number", piece.replace(",", ""), start, end)]
    return tokens


def _word(found: str, before: str, tokens: list[Token], factor_follows) -> tuple[str, str]:
    """Kind and text of a word, some of which are operators."""
    if found in ("x", "X") and before in OPERANDS and factor_follows:
        return "operator", "*"
    if found in ("mod", "modulo"):
        return "mod", "%"
    if found == "percent" and before == "number":
        return "percent", "%"
    if found == "of" and (
        before in ("percent", "close") or before == "number" and len(tokens) > 1 and tokens[-2].text == "/"
    ):
        return "of", "*"
    return "word", found


def _star(kind: str, before: str, previous: str, following: str) -> str:
    """The kind of a `*` or `**`: an operator; skip where it is emphasis; unknown if it may be either.

    Args:
      kind: power or operator; before: the kind of the token before.
      previous, following: the character before it and the two after it, "" at an end of the text.
    """
    opens, closes = previous.strip() == "", following[:1].strip() == ""
    if opens and closes:
        return kind
    if opens:
        return "skip" if kind == "power" or before not in ("word", *OPERANDS) else "unknown"
    factor = (
        following[:1].isalnum()
        or following[:1] in tuple("-−($\\")
        or following[:1] == "."
        and following[1:].isdigit()
    )
    return kind if not closes and factor and before in ("word", "unknown", *OPERANDS) else "skip"


def _continue_chain(tokens: list[Token]) -> None:
    """Takes away the line breaks before an `=` with which a line begins."""
    last = len(tokens)
    while last and tokens[last - 1].kind == "line":
        last -= 1
    if last and len(tokens) - last <= 2 and tokens[last - 1].kind in OPERANDS:
        del tokens[last:]
