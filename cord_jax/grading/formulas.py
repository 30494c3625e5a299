"""From an answer as people type mathematics to LaTeX that math-verify reads."""

import re
from fractions import Fraction

_NAMES = {
    "pi": r"\pi ",
    "infinity": r"\infty ",
    "infty": r"\infty ",
    "inf": r"\infty ",
    "oo": r"\infty ",
    "theta": r"\theta ",
    "alpha": r"\alpha ",
    "beta": r"\beta ",
    "gamma": r"\gamma ",
    "delta": r"\delta ",
    "lambda": r"\lambda ",
    "sigma": r"\sigma ",
    "omega": r"\omega ",
    "phi": r"\phi ",
    "union": r"\cup ",
}
_FUNCTIONS = {
    name: rf"\{name} "
    for name in "sin cos tan sec csc cot sinh cosh tanh log ln exp arcsin arccos arctan".split()
}
_FUNCTIONS |= {"asin": r"\arcsin ", "acos": r"\arccos ", "atan": r"\arctan "}
_WORD = re.compile(
    r"(?<![A-Za-z\\])(" + "|".join(sorted([*_NAMES, *_FUNCTIONS], key=len, reverse=True)) + r")(?![A-Za-z])",
    re.IGNORECASE,
)
_ROOT = re.compile(r"(?<![A-Za-z])\\?(sqrt|cbrt)\s*(?=\()")
_ROOT_OF_ONE = re.compile(r"(?<![A-Za-z\\])(sqrt|cbrt)\s*(\d+(?:\.\d+)?|[A-Za-z])")
_POWER = re.compile(r"\^\s*(-\s*\d+|\d+(?:\.\d+)?)(?![\d.])")
_DECIMAL = re.compile(r"(?<![\d.])(\d*\.\d+|\d+\.)(?![\d.])")
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")


def to_latex(text: str) -> str:
    """The LaTeX of a formula in plain form, its decimals as exact fractions."""
    text = _THOUSANDS.sub(lambda m: m[0].replace(",", ""), text)
    text = text.replace("**", "^").replace("<=", r"\le ").replace(">=", r"\ge ").replace("!=", r"\ne ")
    text = _ROOT_OF_ONE.sub(lambda m: _root(m[1], m[2]), text)
    while found := _ROOT.search(text):
        content, end = _group(text, found.end())
        if end < 0:
            break
        text = text[: found.start()] + _root(found[1], content) + text[end:]
    text = re.sub(r"(?<=[)\]])\s*U\s*(?=[(\[])", r" \\cup ", text)
    text = _WORD.sub(lambda m: _NAMES.get(m[1].lower()) or _FUNCTIONS[m[1].lower()], text)
    text = _braced_powers(text)
    text = re.sub(r"\s*\*\s*", r" \\cdot ", text)
    return _DECIMAL.sub(_as_fraction, text)


def _root(name: str, content: str) -> str:
    return rf"\sqrt{'[3]' if name == 'cbrt' else ''}{{{content}}}"


def _group(text: str, start: int) -> tuple[str, int]:
    """The content of the parentheses that open at `start`, and where they end; -1 if they never do."""
    depth = 0
    for i in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[i], 0)
        if depth == 0:
            return text[start + 1 : i], i + 1
    return "", -1


def _braced_powers(text: str) -> str:
    """`x^10` and `e^(x+1)` with braces around the exponents."""
    text = _POWER.sub(lambda m: "^{" + m[1].replace(" ", "") + "}", text)
    start = 0
    while (found := re.compile(r"\^\s*(?=\()").search(text, start)) is not None:
        content, end = _group(text, found.end())
        if end < 0:
            return text
        text = text[: found.start()] + "^{" + content + "}" + text[end:]
        start = found.start() + 2
    return text


def _as_fraction(match: re.Match) -> str:
    if len(match[1]) > 4000:
        return match[0]
    value = Fraction(match[1].rstrip("."))
    return (
        str(value.numerator)
        if value.denominator == 1
        else rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
    )
