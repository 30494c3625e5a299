"""The end of a step, and its canonical form, in text (method, sections 3.3 to 3.6).

A proposal is read from the bytes that its tokens spell: a boundary may span tokens or begin inside one, and what was
sampled may stop in the middle of a character. `boundaries` compiles the same boundaries for the device; this module is
the meaning of both.
"""

import dataclasses
import re
import unicodedata

from cord_jax.endings import CLOSING, CONCLUDING

# `whole` is curation's (method, section 3.12): the first heading is forced and no marker ends the proposal. `free` is the
# integrator's (section 3.15): the same without a heading.
SEGMENTATIONS = ("prompt", "line_break", "prefix", "whole", "free")

STEP_MARKER = b"\n### Step"
LINE_BREAK = b"\n\n"
THINK_END = b"</think>"

# The paper's prefix words: self-verification, other methods, self-correction. An apostrophe may be curly.
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

# What follows a marker is no ASCII letter: another character, or the end of the proposal.
_STEP_PATTERN = re.compile(re.escape(STEP_MARKER) + rb"(?![A-Za-z])")
# re.ASCII would also narrow \b, so the ASCII case folding is spelled out: plain IGNORECASE takes ſ for s.
_PREFIX_PATTERN = re.compile(
    r"(?:(?<=\n)|(?<=[.!?] ))(?:"
    + "|".join(
        "".join(
            f"[{c}{c.upper()}]" if c.isalpha() else "['\u2019]" if c == "'" else re.escape(c) for c in word
        )
        for word in PREFIX_WORDS
    )
    + r")\b"
)


@dataclasses.dataclass(frozen=True)
class Proposal:
    """A teacher's proposal for a step.

    Attributes:
      text: the canonical step, NFC; "" if it was dropped or if the teacher has nothing to add.
      ended: marker, think_end, eos, cap or budget.
      complete: whether the reasoning ends with it; False if it was dropped.
      dropped: why it is no candidate: empty or invalid_utf8; None if it is one.
    """

    text: str
    ended: str
    complete: bool
    dropped: str | None


def heading(segmentation: str, step: int) -> str:
    """The text with which step `step` (from 1) is forced to begin."""
    return f"### Step {step}" if segmentation in ("prompt", "whole") else ""


def body(segmentation: str, step: int, text: str) -> str:
    """A canonical step without the heading that was forced."""
    return text.removeprefix(heading(segmentation, step))


def find_boundary(segmentation: str, body: bytes) -> tuple[int, str] | None:
    """The earliest boundary in what was sampled after the forced heading, taken as the end of the proposal.

    Two boundaries never overlap, so the one that begins first is also the one that is decided first.

    Returns:
      (number of bytes before the boundary, "marker" or "think_end"), or None if there is no boundary.
    """
    marker = _find_marker(segmentation, body)
    think_end = body.find(THINK_END)
    if think_end >= 0 and (marker is None or think_end < marker):
        return think_end, "think_end"
    return None if marker is None else (marker, "marker")


def _find_marker(segmentation: str, body: bytes) -> int | None:
    if segmentation == "prompt":
        found = _STEP_PATTERN.search(body)
        return found.start() if found else None
    if segmentation == "line_break":
        position = body.find(LINE_BREAK)
        return position if position >= 0 else None
    if segmentation == "prefix":
        # Bytes that are no character become lone surrogates: part of no word, and back to the same bytes.
        text = body.decode("utf-8", "surrogateescape")
        for found in _PREFIX_PATTERN.finditer(text):
            if text[: found.start()].strip():
                return len(text[: found.start()].encode("utf-8", "surrogateescape"))
        return None
    if segmentation in ("whole", "free"):
        return None
    raise ValueError(f'segmentation "{segmentation}" is not one of {", ".join(SEGMENTATIONS)}')


def read_proposal(
    segmentation: str, step: int, body: bytes, stopped: str, limit_is_budget: bool, has_prefix: bool
) -> Proposal:
    """Cuts a proposal at its earliest boundary and brings it to canonical form.

    Its body is empty if nothing is left of it in that form: white space in `prompt` and `line_break`, only
    spaces and tabs in `prefix`, which keeps newlines.

    The marks that depend on more than the proposal are the caller's: `budget` by the meta-prover's count of
    tokens, and `duplicate`.

    Args:
      segmentation: one of `SEGMENTATIONS`.
      step: its number, from 1.
      body: the bytes of the sampled tokens, without EOS and without the forced heading.
      stopped: why sampling ended: "eos", "limit" (no more tokens were allowed) or "boundary".
      limit_is_budget: whether the limit was the thinking budget and not the step cap.
      has_prefix: whether there is reasoning before this step.

    Raises:
      ValueError: sampling stopped at a boundary, but there is none.
    """
    boundary = find_boundary(segmentation, body)
    if boundary is not None:
        cut, ended = boundary
    elif stopped == "eos":
        cut, ended = len(body), "eos"
    elif stopped == "limit":
        cut, ended = len(body), "budget" if limit_is_budget else "cap"
    else:
        raise ValueError(f'sampling stopped at "{stopped}", but {body[-80:]!r} holds no boundary')
    try:
        text = _strip_end(segmentation, body[:cut].decode("utf-8"))
    except UnicodeDecodeError:
        return Proposal("", ended, False, "invalid_utf8")
    if not text:
        if has_prefix and ended in CLOSING:
            return Proposal("", ended, True, None)
        return Proposal("", ended, False, "empty")
    return Proposal(_canonical(segmentation, step, text), ended, ended in CONCLUDING, None)


def _strip_end(segmentation: str, text: str) -> str:
    return text.rstrip(" \t") if segmentation == "prefix" else text.rstrip()


def _canonical(segmentation: str, step: int, text: str) -> str:
    end = "" if segmentation == "prefix" else "\n\n"
    return unicodedata.normalize("NFC", heading(segmentation, step) + text) + end
