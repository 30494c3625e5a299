"""Conversations as training files of others spell them, made one: turns of role, content and reasoning_content.

Understood are `messages` of role and content; `conversations` of from and value (ShareGPT), with a `system` text beside
them; `prompt` and `completion` as lists of turns (TRL); content as a list of text parts; and reasoning in
`reasoning_content`, `thinking` or `reasoning` of a turn, or in parts of type thinking. What would teach something else than
the row says, such as images, calls of tools or turns of weight 0, is refused. Other fields of a turn go to the chat
template as they are.
"""

from collections.abc import Mapping
from typing import Any

REASONING = ("reasoning_content", "thinking", "reasoning")
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_NOT_LEARNT = (
    "tools",
    "tool_calls",
    "functions",
    "function_call",
    "images",
    "image",
    "audio",
    "video",
    "videos",
)


# Whether a turn is learnt, in the spellings of axolotl and ms-swift.
_LEARNT_IF = ("train", "loss")


def conversation_of(row: Mapping[str, Any]) -> tuple[list[dict[str, Any]], int] | None:
    """The turns of a row, and how many of them are its prompt at least; None if the row is no conversation.

    Raises: ValueError with the reason why they cannot be learnt.
    """
    kinds = [name for name in ("messages", "conversations") if row.get(name) is not None]
    lists = [name for name in ("prompt", "completion") if isinstance(row.get(name), list)]
    kinds += ["prompt"] if lists else []
    if not kinds:
        return None
    if len(kinds) > 1:
        raise ValueError(f"has {' and '.join(kinds)}; give one of them")
    for name in _NOT_LEARNT:
        if row.get(name):
            raise ValueError(f"has {name}, which cannot be learnt here")
    for name in REASONING:
        if row.get(name):
            raise ValueError(f"has {name} beside its {kinds[0]}; put it into the turn, as reasoning_content")
    if lists:
        if len(lists) < 2:
            raise ValueError("prompt and completion must both be texts or both be lists of turns")
        prompt, completion = _turns("prompt", row["prompt"]), _turns("completion", row["completion"])
        if any(turn["role"] != "assistant" for turn in completion[:1]):
            raise ValueError("completion must begin with a turn of the assistant")
        return prompt + completion, len(prompt)
    turns = _turns(kinds[0], row[kinds[0]])
    if kinds == ["conversations"] and row.get("system"):
        if not isinstance(row["system"], str):
            raise ValueError("system must be a text")
        if turns and turns[0]["role"] == "system":
            raise ValueError("has a system text and a system turn; give one of them")
        turns.insert(0, {"role": "system", "content": row["system"]})
    return turns, 0


def _turns(name: str, value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(turn, Mapping) for turn in value):
        raise ValueError(f"{name} must be a list of objects with the texts role and content")
    return [_turn(name, turn) for turn in value]


def _turn(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """A turn with a role, a text as content and, if there is any, a text as reasoning_content."""
    turn = {field: value for field, value in given.items() if value is not None}
    if "from" in turn and "role" not in turn:
        sender, turn["content"] = turn.pop("from"), turn.pop("value", None)
        if not isinstance(sender, str) or sender not in _ROLES:
            raise ValueError(f"{name} has a turn from {str(sender)[:40]!r}; known are {', '.join(_ROLES)}")
        turn["role"] = _ROLES[sender]
    for field in _NOT_LEARNT:
        if turn.get(field):
            raise ValueError(f"{name} has a turn with {field}, which cannot be learnt here")
    if turn.get("weight", 1) != 1:
        raise ValueError(f"{name} has a turn of weight {str(turn['weight'])[:40]}; all turns weigh 1")
    marks = [
        field
        for field in _LEARNT_IF
        if turn.get("role") == "assistant" and turn.get(field) not in (None, True)
    ]
    if marks:
        raise ValueError(
            f"{name} has a turn with {marks[0]} {str(turn[marks[0]])[:40]}; all turns of the assistant are learnt"
        )
    reasoning = [turn.pop(field) for field in REASONING if field in turn]
    content, thought = _text(turn.get("content"))
    reasoning += [thought] if thought else []
    if not isinstance(turn.get("role"), str) or content is None:
        raise ValueError(f"{name} must be a list of objects with the texts role and content")
    if not all(isinstance(text, str) for text in reasoning):
        raise ValueError(f"{name} has a turn whose reasoning is no text")
    if len(set(reasoning)) > 1:
        raise ValueError(f"{name} has a turn with two different reasonings; give one")
    turn |= {"content": content}
    return turn | ({"reasoning_content": reasoning[0]} if reasoning and reasoning[0] else {})


def _text(content: Any) -> tuple[str | None, str]:
    """The text of a content, and its thoughts; (None, "") if it is neither a text nor a list of parts of text."""
    if isinstance(content, str):
        return content, ""
    if not isinstance(content, list) or not content:
        return None, ""
    found: dict[str, list[str]] = {"text": [], "thinking": []}
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        text = part.get(kind) if isinstance(kind, str) and kind in found else None
        if not isinstance(text, str):
            raise ValueError(
                f"has a part of content of type {str(kind)[:40]!r}; only parts of text can be learnt"
            )
        found[kind].append(text)
    return "".join(found["text"]), "".join(found["thinking"])
