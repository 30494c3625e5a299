"""Rows of a file, and the tokens that a student learns from them.

A row is a JSON object of one of three kinds:

- a trace, as `launch.synthesize` writes it: `question`, `reasoning`, `response`, and optionally `context`,
  `id`, `correct`, `score`. The prompt is the student's own template, ending in `<think>` and a newline;
  learnt is reasoning + `</think>` + blank line + response + EOS. Rows without a response (`stuck`) are not
  used. The `messages` of a trace are for other trainers, and not read here.
- a conversation: `messages`, a list of {role, content}, whose last message, the assistant's, is learnt (or all of
  the assistant's, as an example each). Its reasoning stands in `reasoning_content`, or in the content between
  `<think>` and `</think>`. The prompt is the template over the messages before it. A message without reasoning is
  learnt as it is, or, where the template itself opens `<think>`, behind an empty reasoning. Other spellings are read,
  too (`cord_jax.student.conversations`).
- a raw pair: `prompt` and `completion`, taken literally. The completion is learnt; EOS follows it if `"eos":
  true`.

Those are the rows of `cord_jax.student.objectives.sft`; an objective says how it reads a row (`Texts`).

The learnt text is built by hand, never by the template: several templates delete the reasoning, or end a turn
with something other than what the model must write to stop. It is encoded as one piece, as a continuation of
the prompt.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cord_jax.errors import UserError
from cord_jax.files import read_rows
from cord_jax.student.conversations import conversation_of
from cord_jax.student.row_filter import RowFilter
from cord_jax.student.weights import Part, token_weights
from cord_jax.text.prompt_settings import PromptSettings
from cord_jax.text.prompts import THINK_START, open_thinking, render_messages, render_prompt
from cord_jax.text.vocabulary import Vocabulary

_THINK_END = "</think>\n\n"


@dataclass(frozen=True)
class Example:
    """One row as tokens.

    tokens: int32 [n]. prompt_length: the first that many are the prompt, the others are learnt.
    weights: of the tokens in the loss, float32 [n], 0 in the prompt; None if all count alike.
    """

    id: str
    tokens: np.ndarray
    prompt_length: int
    weights: np.ndarray | None = None


@dataclass(frozen=True)
class Texts:
    """One row as texts.

    prompt: the student's own template, or what a row gives in its place.
    targets: what is learnt, each behind the prompt; an example of its own each.
    eos: whether EOS follows a target.
    begun: the beginning of the assistant's text, between prompt and targets.
    goes_on: whether the assistant's text goes on behind a target.
    parts: the beginning of each target in pieces of different weight (`weights.token_weights`); None if all tokens count
      alike.
    """

    prompt: str
    targets: tuple[str, ...]
    eos: bool
    begun: str = ""
    goes_on: bool = False
    parts: tuple[Part, ...] | None = None


@dataclass(frozen=True)
class Counts:
    """Counts of what became of the rows of a file; rows = used + filtered + without_response + too_long."""

    rows: int = 0
    filtered: int = 0
    without_response: int = 0
    too_long: int = 0
    cut: int = 0
    used: int = 0

    def __str__(self) -> str:
        parts = [f"{self.used} of {self.rows} rows used"]
        parts += [
            f"{n} {what}"
            for n, what in (
                (self.filtered, "filtered out"),
                (self.without_response, "without a response"),
                (self.too_long, "too long, dropped"),
                (self.cut, "too long, cut"),
            )
            if n
        ]
        return ", ".join(parts)


def read_examples(
    source: Path | Sequence[Mapping[str, Any]],
    vocabulary: Vocabulary,
    read_row: Callable[[Mapping[str, Any], Vocabulary, PromptSettings], Sequence[Texts]] | None = None,
    *,
    row_filter: str = "all",
    max_length: int,
    overlong: str = "drop",
    prompt: PromptSettings | None = None,
) -> tuple[list[Example], Counts]:
    """Reads rows, in their order; the examples of a row follow one another.

    Args:
      source: JSONL or .jsonl.gz, or the rows themselves.
      vocabulary: the student's.
      read_row: an objective's way to read a row, `rows_to_learn` by default. Raises ValueError with the reason why a row
        is none.
      row_filter: see `RowFilter.parse`.
      max_length: tokens of a row, prompt and EOS included; of all examples of the row together.
      overlong: `drop` longer rows, or `cut` them to `max_length`; one whose prompt alone is that long is
        dropped. Rows of several examples are only ever dropped.
      prompt: how the template is filled in; the user prompt is for traces, the system prompt for traces and for
        conversations without one, the template's arguments for both. None is the default of everything.

    Raises: `UserError` that names file, line (or place in the list, from 1) and reason; also if no row is left.
    """
    keep = RowFilter.parse(row_filter)
    name, unit = (source, "line") if isinstance(source, Path) else ("the rows given", "row")
    rows, ids = [], []
    counts = dict.fromkeys(("rows", "filtered", "without_response", "too_long", "cut", "used"), 0)
    for number, row in read_rows(source) if isinstance(source, Path) else enumerate(source, start=1):
        counts["rows"] += 1
        try:
            if not keep.passes(row):
                counts["filtered"] += 1
            elif row.get("response", "") is None:
                counts["without_response"] += 1
            else:
                found = (read_row or rows_to_learn)(row, vocabulary, prompt or PromptSettings())
                rows += found
                ids += [(number, str(row.get("id", number)))] * len(found)
        except KeyError as error:
            raise UserError(
                f"{name}, {unit} {number}: has no field {error}; --filter={row_filter} needs it"
            ) from None
        except ValueError as error:
            raise UserError(f"{name}, {unit} {number}: {error}") from None
    examples, end = [], end_of_turn(vocabulary)
    used, cut, read = set(), set(), {number for number, _ in ids}
    prompts = [vocabulary.encode_prompt(row.prompt) for row in rows]
    begun = vocabulary.encode_pieces([row.begun for row in rows], "prompt")
    texts = [target for row in rows for target in row.targets]
    pieces = any(row.goes_on for row in rows)
    targets = iter(vocabulary.encode_pieces(texts, "prompt") if pieces else vocabulary.encode_batch(texts))
    for (number, id_), row, before, then in zip(ids, rows, prompts, begun, strict=True):
        before = [*before, *then]
        learnt = [[*next(targets), *([end] if row.eos else [])] for _ in row.targets]
        if sum(len(before) + len(target) for target in learnt) > max_length:
            if overlong == "drop" or len(before) >= max_length or len(learnt) > 1:
                continue
            cut.add(number)
        try:
            weights = [_weights(row, len(before), target, vocabulary) for target in learnt]
        except ValueError as error:
            raise UserError(f"{name}, {unit} {number}: {error}") from None
        examples += [
            Example(
                id_,
                np.asarray([*before, *target][:max_length], np.int32),
                len(before),
                None if of_tokens is None else of_tokens[:max_length],
            )
            for target, of_tokens in zip(learnt, weights)
        ]
        used.add(number)
    counts |= {"used": len(used), "cut": len(cut), "too_long": len(read - used)}
    if not examples:
        raise UserError(
            f"{name}: no row is left to learn from ({Counts(**counts)}); see --filter and --max_length"
        )
    return examples, Counts(**counts)


def _weights(row: Texts, before: int, target: Sequence[int], vocabulary: Vocabulary) -> np.ndarray | None:
    """`Example.weights` of a target behind so many tokens."""
    if row.parts is None:
        return None
    weights = token_weights(row.parts, [vocabulary.token_bytes[i] for i in target])
    return np.concatenate([np.zeros(before, np.float32), weights])


def end_of_turn(vocabulary: Vocabulary) -> int:
    """The EOS that is learnt: the tokenizer's, or the first that the checkpoint's configuration names."""
    eos = vocabulary.tokenizer.eos_token_id
    return min(vocabulary.eos_ids) if eos is None else eos


def show_examples(examples: Sequence[Example], vocabulary: Vocabulary) -> str:
    """Every token on a line of its own: place, `*` if it is learnt, id, its weight if it has one, text."""
    lines = []
    for example in examples:
        learnt = len(example.tokens) - example.prompt_length
        lines.append(f"# row {example.id}: {len(example.tokens)} tokens, {learnt} learnt")
        for place, token in enumerate(example.tokens.tolist()):
            mark = "*" if place >= example.prompt_length else " "
            text = vocabulary.token_bytes[token].decode("utf-8", "backslashreplace")
            weight = "" if example.weights is None else f"{example.weights[place]:6.2f} "
            lines.append(f"{place:6d} {mark} {token:7d} {weight}{text!r}")
    return "\n".join(lines) + "\n"


def rows_to_learn(
    row: Mapping[str, Any], vocabulary: Vocabulary, settings: PromptSettings, turns: str = "last"
) -> list[Texts]:
    """The texts of a trace, a conversation or a raw pair.

    Args:
      turns: of a conversation, which turns of the assistant are learnt: the "last", or "all", each behind those before it.

    Raises: ValueError with the reason why the row is none.
    """
    trace = "question" in row and "reasoning" in row  # traces have messages, too
    conversation = None if trace else conversation_of(row)
    if conversation is not None:
        return _conversation(*conversation, vocabulary, settings, turns)
    if "completion" in row:
        need_text(row, "prompt", "completion")
        if not row["completion"]:
            raise ValueError("completion is empty")
        return [Texts(row["prompt"], (row["completion"],), eos_follows(row))]
    if "chosen" in row:
        raise ValueError("is a pair of a chosen and a rejected text, which --objective=dpo learns from")
    if "reasoning" in row:
        need_text(row, "question", "reasoning", "response")
        if row.get("context") is not None:
            need_text(row, "context")
        prompt = render_prompt(vocabulary, settings, row["question"], row.get("context"))
        return [Texts(prompt, (row["reasoning"] + _THINK_END + row["response"],), True)]
    raise ValueError(
        "is no row to learn from: give question, reasoning and response, or messages, or prompt and completion"
    )


def _conversation(
    messages: list[dict[str, Any]],
    prompt_turns: int,
    vocabulary: Vocabulary,
    settings: PromptSettings,
    turns: str,
) -> list[Texts]:
    """The texts of a conversation whose first `prompt_turns` are not learnt."""
    if len(messages) < 2 or messages[-1]["role"] != "assistant":
        raise ValueError("messages must end with one of the assistant, after at least one other")
    spoken = [i for i in range(max(1, prompt_turns), len(messages)) if messages[i]["role"] == "assistant"]
    if prompt_turns and len(spoken) > 1 and turns == "last":
        raise ValueError("completion has several turns of the assistant; learn them with --turns=all")
    if settings.system_prompt is not None and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": settings.system_prompt}, *messages]
        spoken = [i + 1 for i in spoken]
    chosen = spoken if turns == "all" else spoken[-1:]
    return [_turn(messages[:i], messages[i], vocabulary, settings) for i in chosen]


def _turn(
    before: list[dict[str, Any]], last: dict[str, Any], vocabulary: Vocabulary, settings: PromptSettings
) -> Texts:
    """The text of one turn of the assistant, behind those before it."""
    reasoning, answer = last.get("reasoning_content"), last["content"]
    if not reasoning and "</think>" in answer:
        reasoning, _, answer = answer.partition("</think>")
        reasoning = re.sub(r"\A\s*<think>[ \t]*\n?", "", reasoning)
        answer = answer.lstrip("\n")
    prompt = render_messages(vocabulary, before, settings.arguments)
    if reasoning:
        opening = open_thinking(prompt, vocabulary, settings.arguments)
        return Texts(opening, (reasoning.rstrip() + "\n" + _THINK_END + answer,), True)
    if prompt.rstrip().endswith(THINK_START):
        return Texts(open_thinking(prompt, vocabulary, settings.arguments), (_THINK_END + answer,), True)
    return Texts(prompt, (answer,), True)


def eos_follows(row: Mapping[str, Any]) -> bool:
    """Whether a raw row asks for EOS behind its learnt text. Raises: ValueError with the reason."""
    if not isinstance(row.get("eos", False), bool):
        raise ValueError("eos must be true or false")
    return row.get("eos", False)


def need_text(row: Mapping[str, Any], *names: str) -> None:
    """Raises: ValueError that names the first of the fields that is no text."""
    for name in names:
        if not isinstance(row.get(name), str):
            raise ValueError(
                f"{name} must be a text, and is {'absent' if name not in row else repr(row[name])[:40]}"
            )
