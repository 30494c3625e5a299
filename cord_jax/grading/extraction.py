"""Finds the answer that a response gives (docs/method.md, section 3.9)."""

import re
from collections.abc import Iterator

# A box's opening, an escaped character (so that `\{` and `\}` are letters), or a brace.
_BOX_PARTS = re.compile(r"\\+(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)

# `answer is`, `Answer:`, with the marks of bold type that may stand between the two words or before the colon.
_SAID = re.compile(r"(?<![A-Za-z])answer[*_`]*+[ \t]*+(?:[*_`]*+(?:is\b|[:\uff1a]))", re.IGNORECASE)
# A line that is nothing but `Final Answer` or `Answer`.
_TITLE = re.compile(
    r"^[ \t>#*_`]*+(?:the[ \t]++)?(?:(?:final|correct)[ \t]++)?answer[ \t*_`]*+$",
    re.IGNORECASE | re.MULTILINE,
)
_HASHES = re.compile(r"^[ \t]*+####(?!#)[ \t]*+(?=[^\s#])", re.MULTILINE)

_BEFORE_ANSWER = re.compile(r"[\s:\uff1a*_`>]*+(?:#++[ \t]++)?[*_`]*+")
# X is a displayed formula, or the rest of the line.
_STATED = re.compile(r"\$\$(.+?)\$\$|\\\[(.+?)\\\]|([^\n]*)", re.DOTALL)
# A full stop that ends a sentence: not inside a number, and not that of `p.m.` or `U.S.`.
_SENTENCE_END = re.compile(
    r"(?<!\.[A-Za-z])(?<!\bMr|\bMs|\bDr|\bSt|\bvs|\bsq|\bcu|\bCo)(?<!\bMrs|\bInc|\bLtd)\.(?=\s)"
)
_AROUND = " \t\r\n*_`"
_BOLD_END = re.compile(r"\*\*(?=[\s.,;:!?]|$)")
_EMPTY_BOX = re.compile(r"\$*\\+(?:boxed|fbox)\s*\{\s*\}\$*")


def predicted_answer(response: str) -> str | None:
    r"""The content of the last `\boxed{}` or `\fbox{}`, else the X of the last statement of an answer, else None.

    Statements are `final answer is X`, `answer is X`, `Answer: X` and `#### X`; X stands on the same line or on the
    next that is not blank, and ends with its line or sentence. A box that is never closed or holds only white space
    counts as none. Marks of bold type around X and a full stop at its end are not part of it. Reads in linear time.
    """
    boxed = _last_box(response)
    if boxed is not None:
        return boxed
    for start in _statement_ends(response):
        stated = _STATED.match(response, _BEFORE_ANSWER.match(response, start).end())
        dollars, brackets, line = stated.groups()
        answer = dollars or brackets or _SENTENCE_END.split(line, maxsplit=1)[0]
        answer = answer.strip(_AROUND).removesuffix(".").strip(_AROUND)
        if answer.count("**") == 1:  # Its other half was before the answer.
            answer = _BOLD_END.sub("", answer)
        if answer and not _EMPTY_BOX.fullmatch(answer):
            return answer
    return None


def _last_box(response: str) -> str | None:
    """The content of the box that opens last; read in one pass, since a model may open one after another."""
    last, open_braces = (-1, None), []
    for part in _BOX_PARTS.finditer(response):
        if part[0].endswith("{") and part[0] != "\\{":
            open_braces.append(part.end() if part[0] != "{" else None)
        elif part[0] == "}" and open_braces:
            start = open_braces.pop()
            if start is not None and start > last[0] and (content := response[start : part.start()].strip()):
                last = start, content
    return last[1]


def _statement_ends(response: str) -> Iterator[int]:
    """Yields where the statements end and their X may begin, the last first."""
    ends = {match.end() for pattern in (_SAID, _TITLE) for match in pattern.finditer(response)}
    written = len(response.rstrip())
    for match in _HASHES.finditer(response):
        # `#### 72` is an answer, and so are words at the very end; words over a text are the text's title.
        line_end = response.find("\n", match.end())
        if not response[match.end()].isalpha() or line_end < 0 or line_end >= written:
            ends.add(match.end())
    return iter(sorted(ends, reverse=True))
