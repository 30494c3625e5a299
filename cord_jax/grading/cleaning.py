"""Brings an answer, as people and models write it, to one plain form.

Whatever is only typography goes: marks of bold type, dollar signs around mathematics, fonts, spacing commands, curly
quotes, a full stop at the end. What is left is text with LaTeX commands where they mean something.
"""

import re
import unicodedata

DEGREE = "\u00b0"
_NEW_ROW = "\ue000"  # stands for the `\\\\` of a matrix meanwhile

_GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau upsilon phi chi "
    "psi omega"
).split()
_SYMBOLS = {
    **{
        unicodedata.lookup(f"GREEK SMALL LETTER {'LAMDA' if n == 'lambda' else n}"): rf"\{n} " for n in _GREEK
    },
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212\ufe63\uff0d", "-"),
    **dict.fromkeys("\u2018\u2019\u02bc\u2032", "'"),
    **dict.fromkeys("\u201c\u201d\u2033", '"'),
    "\u00d7": r"\times ",
    "\u00f7": "/",
    "\u2044": "/",
    "\u00b7": r"\cdot ",
    "\u22c5": r"\cdot ",
    "\u2217": "*",
    "\u221e": r"\infty ",
    "\u2264": r"\le ",
    "\u2265": r"\ge ",
    "\u2260": r"\ne ",
    "\u2248": r"\approx ",
    "\u00b1": r"\pm ",
    "\u222a": r"\cup ",
    "\u2229": r"\cap ",
    "\u2208": r"\in ",
    "\u2205": r"\emptyset ",
    "\u211d": r"\mathbb{R} ",
    "\u00ba": DEGREE,
    "\u2220": r"\angle ",
    **{mark: "" for mark in "\u200b\u200c\u200d\u2060\ufeff\u2061\u2062\u2063"},
}
_TRANSLATED = str.maketrans(_SYMBOLS)
_SUPERSCRIPTS = re.compile("[\u2070\u00b9\u00b2\u00b3\u2074-\u2079\u207a\u207b]+")
_SUBSCRIPTS = re.compile("[\u2080-\u2089]+")
_VULGAR = re.compile("[\u00bc-\u00be\u2150-\u215e]")
_ROOT = re.compile(r"\u221a\s*(\d+(?:\.\d+)?|[A-Za-z]|\((?:[^()]*)\))")

_BOLD = re.compile(r"(?<![\w)\]}*])(\*\*|__)(?=\S)([^*\n]+?)(?<=\S)\1(?![\w*(])")
_ENVIRONMENTS = (
    ("$$", "$$"),
    ("$", "$"),
    (r"\(", r"\)"),
    (r"\[", r"\]"),
    ("`", "`"),
    ("*", "*"),
    ('"', '"'),
    ("'", "'"),
)
_FONT = r"text(?:bf|it|rm|sf|tt|sc|up|md|normal)?|math(?:rm|bf|it|sf|tt|normal|cal)|mbox|hbox|bm|boldsymbol|operatorname\*?|emph|boxed|fbox"
_FONT_OPENS = re.compile(rf"\\(?:{_FONT})\s*\{{")
_FONT_SWITCH = re.compile(
    r"\\(?:displaystyle|textstyle|scriptstyle|bf|rm|it|limits|nolimits|tiny|small|large|Large)(?![A-Za-z])"
)
_SIZES = re.compile(r"\\(?:left|right|[bB]igg?[lrm]?)(?![A-Za-z])\s*\.?(?=[\s()\[\]\\|<>./]|$)")
_NO_SPACE = re.compile(r"\\!|\\phantom\s*(?:\{[^{}]*\}|-?)|\{,\}\\!|\\hspace\*?\{[^{}]*\}")
_SPACE = re.compile(r"\\[,;:> ]|\\q?quad(?![A-Za-z])|\\(?:thinspace|enspace|space)(?![A-Za-z])|~|\\\s")
_DEGREES = re.compile(r"\s*\^\s*\{?\s*\\circ\s*\}?|\\degree(?:s)?(?![A-Za-z])|\s*\^\s*\{?\s*o\s*\}?$")
_REPLACED = (
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\(?:le|leq|leqslant|leqq)(?![A-Za-z])"), r"\\le "),
    (re.compile(r"\\(?:ge|geq|geqslant|geqq)(?![A-Za-z])"), r"\\ge "),
    (re.compile(r"\\(?:ne|neq)(?![A-Za-z])"), r"\\ne "),
    (re.compile(r"\\lt(?![A-Za-z])"), "<"),
    (re.compile(r"\\gt(?![A-Za-z])"), ">"),
    (re.compile(r"\\(?:lbrace|lbrack)(?![A-Za-z])"), r"\\{"),
    (re.compile(r"\\(?:rbrace|rbrack)(?![A-Za-z])"), r"\\}"),
    (re.compile(r"\\(?:lvert|rvert|vert|mid)(?![A-Za-z])"), "|"),
    (re.compile(r"\\(?:varnothing)(?![A-Za-z])"), r"\\emptyset "),
    (re.compile(r"\\div(?![A-Za-z])"), "/"),
    (re.compile(r"\\ast(?![A-Za-z])"), "*"),
    (re.compile(r"\\([%#&])"), r"\1"),
    (re.compile(r"\{,\}"), ","),
)
_TAGS = re.compile(r"</?(?:b|i|strong|em|sub|sup|span|p)>", re.IGNORECASE)


def clean(text: str) -> str:
    """The plain form of an answer; two that differ only in typography have the same."""
    text = (
        text.replace("\\\\", _NEW_ROW)
        if r"\begin" in text
        else re.sub(r"\\\\(?=[A-Za-z%$({[\[])", r"\\", text)
    )
    text = _ROOT.sub(lambda m: rf"\sqrt{{{m[1].strip('()')}}}", unicodedata.normalize("NFC", text))
    text = _VULGAR.sub(lambda m: f" {unicodedata.normalize('NFKC', m[0]).replace(chr(0x2044), '/')} ", text)
    text = _SUPERSCRIPTS.sub(
        lambda m: "^{" + unicodedata.normalize("NFKC", m[0]).replace("\u2212", "-") + "}", text
    )
    text = _SUBSCRIPTS.sub(lambda m: "_{" + unicodedata.normalize("NFKC", m[0]) + "}", text)
    text = text.translate(_TRANSLATED).replace("\u221a", r"\sqrt ")
    text = _TAGS.sub("", unicodedata.normalize("NFKC", text).replace("\u00ba", DEGREE))
    text = _bare(text)
    text = _BOLD.sub(r"\2", text)
    text = _without_fonts(text)
    if (
        len(re.findall(r"(?<!\\)\$", text)) % 2 == 0
    ):  # They come in pairs around mathematics, an odd one is money.
        text = re.sub(r"(?<!\\)\$", " ", text) if "$" in text.replace(r"\$", "") else text
    text = (
        re.sub(r"\\[()]|\\[\[\]](?![\d.]+\s*(?:pt|em|ex|cm|mm)\])", " ", text)
        if _has_delimiters(text)
        else text
    )
    text = text.replace(r"\$", "$")
    text = _NO_SPACE.sub(lambda m: "," if m[0].startswith("{,}") else "-" if m[0].endswith("-") else "", text)
    text = _SPACE.sub(" ", text)
    text = _SIZES.sub("", _FONT_SWITCH.sub(" ", text))
    text = _DEGREES.sub(DEGREE, text)
    for pattern, replacement in _REPLACED:
        text = pattern.sub(replacement, text)
    return _bare(text).replace(_NEW_ROW, r" \\ ")


def _has_delimiters(text: str) -> bool:
    r"""Whether `\(` and `\)`, or `\[` and `\]`, stand around something."""
    return (r"\(" in text and r"\)" in text) or (r"\[" in text and r"\]" in text)


def _without_fonts(text: str) -> str:
    """With the content of font commands in their place; words come to stand between spaces."""
    start = 0
    while opened := _FONT_OPENS.search(text, start):
        end = _closing_brace(text, opened.end())
        if end < 0:
            start = opened.end()
            continue
        content = text[opened.end() : end]
        content = content if content.isdigit() else f" {content} "
        text, start = text[: opened.start()] + content + text[end + 1 :], opened.start()
    return text


def _closing_brace(text: str, start: int) -> int:
    """Finds where the brace closes that opens right before `start`; -1 if it never does."""
    depth = 1
    for brace in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, start):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return brace.start()
    return -1


def _bare(text: str) -> str:
    """Without white space, punctuation and delimiters around the whole."""
    before = None
    while before != text:
        before = text
        text = " ".join(text.split())
        text = text.strip(" \t").lstrip(":").rstrip(".,;:?" if not text.endswith("...") else ";:?").strip()
        while (
            text.startswith(("**", "__"))
            and text.endswith(text[:2])
            and len(text) > 4
            and text[:2] not in text[2:-2]
        ):
            text = text[2:-2].strip()
        for opening, closing in _ENVIRONMENTS:
            inside = text[len(opening) : -len(closing)]
            if (
                len(text) > len(opening) + len(closing)
                and text.startswith(opening)
                and text.endswith(closing)
                and opening not in inside.replace(r"\$", "")
                and closing not in inside.replace(r"\$", "")
                and not (opening == "$" and inside.endswith("\\"))
            ):
                text = inside.strip()
    return text
