"""Answers to multiple-choice questions: a letter, several, or a letter with the text of its option."""

import re
from typing import NamedTuple

_LEAD = r"(?:(?:the )?(?:(?:correct|right|best|final) )?(?:answer|option|choice|statement|letter)s?(?: is)?[\s:]*)?"
_ONE = re.compile(
    rf"{_LEAD}(?:[(\[{{]\s*(?P<wrapped>[A-Ja-j])\s*[)\]}}]|(?P<bare>[A-J])(?P<mark>\s*[).:]|\s+-(?=\s)|(?=\s*\(?$))|(?P<small>[a-j])\s*(?:\)|$))"
    r"[\s.:)-]*(?P<text>.*)",
    re.IGNORECASE | re.DOTALL,
)
_LED = re.compile(rf"{_LEAD}(?P<letter>[A-J])(?![\w'])(?P<text>.*)", re.DOTALL | re.IGNORECASE)
_SEVERAL = re.compile(
    rf"{_LEAD}\(?\s*[A-J]\s*\)?(?:\s*(?:,|;|&|and|,\s*and)\s*\(?\s*[A-J]\s*\)?)+\s*\)?(?![\w'])", re.DOTALL
)
_RUN = re.compile(r"[A-J]{2,}")


class Choice(NamedTuple):
    """The letters that are chosen, capital ones, in their order, and the text of a single option if it is given."""

    letters: str
    text: str = ""


def parse_choice(text: str) -> Choice | None:
    """Reads the plain form of an answer as a choice: `B`, `(b)`, `Option B`, `C. Paris`, `A and C`; else None."""
    if len(text) == 1:
        return Choice(text.upper()) if text.upper() in "ABCDEFGHIJ" else None
    if _SEVERAL.fullmatch(text):
        letters = re.findall(r"(?<![A-Za-z])[A-J](?![A-Za-z])", text)
        return Choice("".join(sorted(letters))) if len(set(letters)) == len(letters) else None
    found = _ONE.fullmatch(text)
    if found and (found["wrapped"] or found["bare"] or found["small"]):
        return Choice((found["wrapped"] or found["bare"] or found["small"]).upper(), found["text"].strip())
    led = re.match(
        r"(?:the )?(?:(?:correct|right|best|final) )?(?:answer|option|choice|statement)\b", text, re.I
    )
    if led and (found := _LED.fullmatch(text)):
        rest = found["text"].strip(" .:-()").removeprefix("is correct").strip()
        return Choice(found["letter"].upper(), rest)
    return None


def letters_alone(text: str) -> str | None:
    """The letters of a run of distinct capital ones, `ACD`, which may be choices or a name; else None."""
    return text if _RUN.fullmatch(text) and len(set(text)) == len(text) else None
