"""Prompts, step boundaries, canonical steps and answers, as functions of text.

A proposal is judged by its bytes: what a model wrote may stop in the middle of a character, and a boundary
may lie inside a token. Positions in this module are positions in bytes.
"""

import codecs
import re
import unicodedata
from dataclasses import dataclass

THINK_END = "</think>"
DEFAULT_CLOSING = "</think>\n\nThe final answer is "

# `whole` is the proposal of curation: a forced first heading and no markers. `free` is the integrator's: not even that.
SEGMENTATIONS = ("prompt", "line_break", "prefix", "whole", "free")

# The prefix words of the paper: self-verification, other methods, self-correction.
PREFIX_WORDS = (
    "let me check",
    "let me verify",
    "double-check",
    "going back to",
    "wait",
    "alternatively",
    "another way",
    "let's try a different approach",
    "using another method",
    "we can also verify",
    "this is wrong",
    "the mistake was",
    "that's impossible",
    "this contradicts",
    "the error is",
)


def _either_case(word: str) -> str:
    """A pattern for `word` in any ASCII case and with a straight or a curly apostrophe."""
    pattern = ""
    for character in word:
        if character.isalpha():
            pattern += f"[{character.lower()}{character.upper()}]"
        elif character == "'":
            pattern += "['\u2019]"
        else:
            pattern += re.escape(character)
    return pattern


_STEP_MARKER = re.compile(rb"(?<=\n)### Step(?![A-Za-z])")
_PREFIX_MARKER = re.compile(
    r"(?:(?<=\n)|(?<=[.!?] ))(?:" + "|".join(_either_case(word) for word in PREFIX_WORDS) + r")(?!\w)"
)


def normalise(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def heading(segmentation: str, step: int) -> str:
    """The text that a proposal is forced to begin with; steps count from 1."""
    return f"### Step {step}" if segmentation in ("prompt", "whole") else ""


# Prompts


def user_turn(problem: dict) -> str:
    """The question, after the problem's context and a blank line if it has one."""
    context = problem.get("context")
    return f"{context}\n\n{problem['question']}" if context else problem["question"]


def open_thinking(rendered: str) -> str:
    """The rendered template, made to end in `<think>` and one newline exactly once."""
    opened = re.search(r"<think>\s*\Z", rendered)
    if opened:
        rendered = rendered[: opened.start()]
    return rendered + "<think>\n"


# Boundaries


def _first_step_marker(body: bytes, finished: bool) -> int | None:
    found = _STEP_MARKER.search(body)
    # At the end of an unfinished text the next character is to come, and a letter would undo the marker.
    if found and (finished or found.end() < len(body)):
        return found.start()
    return None


def _first_line_break(body: bytes) -> int | None:
    position = body.find(b"\n\n")
    return None if position < 0 else position


def _first_prefix_word(body: bytes, finished: bool) -> int | None:
    """Where the first prefix word begins that has some text before it and a word boundary behind it.

    The word boundary is that of characters, so a character of which only some bytes have been written decides
    nothing yet. Bytes that can never become a character stand as lone surrogates, which belong to no word.
    """
    text = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode(body, final=finished)
    for found in _PREFIX_MARKER.finditer(text):
        if text[: found.start()].strip() and (finished or found.end() < len(text)):
            return len(text[: found.start()].encode("utf-8", "surrogateescape"))
    return None


def find_boundary(segmentation: str, body: bytes, finished: bool) -> tuple[int, str] | None:
    """The earliest boundary in the text that follows the forced heading.

    Args:
      segmentation: one of `SEGMENTATIONS`.
      body: the bytes of all sampled tokens, without EOS.
      finished: whether no further text can come (EOS, or the last allowed token).

    Returns:
      (cut, "marker" or "think_end"), the cut in bytes; None if there is no boundary, or none decided yet.
    """
    if segmentation == "prompt":
        marker = _first_step_marker(body, finished)
    elif segmentation == "line_break":
        marker = _first_line_break(body)
    elif segmentation == "prefix":
        marker = _first_prefix_word(body, finished)
    else:
        marker = None
    found = []
    if marker is not None:
        found.append((marker, "marker"))
    think_end = body.find(THINK_END.encode())
    if think_end >= 0:
        found.append((think_end, "think_end"))
    return min(found, default=None)


# Steps


def canonical_step(segmentation: str, step: int, body: str) -> str:
    """The text that is committed for a body already cut at its boundary; "" if the body is empty."""
    body = normalise(body)
    if segmentation == "prefix":
        return body.rstrip(" \t")
    body = body.rstrip()
    return heading(segmentation, step) + body + "\n\n" if body else ""


@dataclass(frozen=True)
class Proposal:
    """What a teacher proposed.

    text: canonical; "" for a dropped one and for a teacher that has nothing to add.
    ended: marker, think_end, eos, cap or budget.
    dropped: None, "empty" or "invalid_utf8" (duplicates are seen only beside the other candidates).
    """

    text: str
    ended: str
    dropped: str | None


def read_proposal(segmentation: str, step: int, body: bytes, stopped: str, has_prefix: bool) -> Proposal:
    """Reads the bytes of one proposal.

    Args:
      body: the bytes of all sampled tokens, without EOS and without the forced heading.
      stopped: why no more was sampled if no boundary is found: "eos", "cap" or "budget".
      has_prefix: whether there is reasoning before this step.
    """
    cut, ended = find_boundary(segmentation, body, finished=True) or (len(body), stopped)
    try:
        text = canonical_step(segmentation, step, body[:cut].decode("utf-8"))
    except UnicodeDecodeError:
        return Proposal("", ended, "invalid_utf8")
    nothing_to_add = has_prefix and ended in ("think_end", "eos")
    if not text and not nothing_to_add:
        return Proposal("", ended, "empty")
    return Proposal(text, ended, None)


# Answers


def answer_forms(problem: dict) -> list[str]:
    """The accepted forms of the gold answer, NFC, the main one first, none twice."""
    forms = [normalise(form) for form in [problem["answer"], *(problem.get("answers") or [])]]
    return list(dict.fromkeys(forms))


def _boxed_contents(response: str) -> list[str]:
    """The contents of every `\\boxed{}` and `\\fbox{}` whose braces are balanced, in order."""
    contents = []
    for opening in re.finditer(r"\\(?:boxed|fbox)\s*\{", response):
        depth = 1
        for position in range(opening.end(), len(response)):
            depth += {"{": 1, "}": -1}.get(response[position], 0)
            if depth == 0:
                contents.append(response[opening.end() : position])
                break
    return contents


def predicted_answer(response: str) -> str | None:
    """The content of the last box, else what follows the last `answer is`, `Answer:` or `####`."""
    boxed = [content for content in _boxed_contents(response) if content.strip()]
    if boxed:
        return boxed[-1].strip()
    plain = response.replace("**", "")
    stated = [
        m.end() for m in re.finditer(r"\banswer(?: is\b|:)|^ *####(?!#) *(?=\d)", plain, re.IGNORECASE | re.M)
    ]
    for end in reversed(stated):
        rest = re.split(r"\n|\.\s", plain[end:].lstrip(" :\n") + "\n", maxsplit=1)[0]
        if rest.strip(" ._*`"):
            return rest.strip(" _*`").removesuffix(".").strip(" _*`")
    return None
