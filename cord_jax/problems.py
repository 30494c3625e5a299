"""Problems: a file of one JSON object a line, plain or gzipped, or a list (docs/method.md, section 5)."""

import dataclasses
import json
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cord_jax.errors import UserError
from cord_jax.files import read_rows

_FIELDS = ("id", "question", "answer", "context", "solution", "answers")


@dataclasses.dataclass(frozen=True)
class Problem:
    """A question, whose answer may be known.

    Attributes:
      id: unique within its file.
      question: the text of the user's turn.
      answer: the gold answer, as the file writes it; None if nobody knows it.
      context: text that precedes the question (a passage, a table), or None.
      solution: a reference solution, or None.
      answers: further accepted forms of the answer.
      extra: the line's other fields, passed through.
    """

    id: str
    question: str
    answer: str | None = None
    context: str | None = None
    solution: str | None = None
    answers: tuple[str, ...] = ()
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def forms(self) -> tuple[str, ...]:
        """The accepted forms of the answer, NFC-normalised: `answer`, then `answers`, none twice; none without one."""
        given = self.answers if self.answer is None else (self.answer, *self.answers)
        return tuple(dict.fromkeys(unicodedata.normalize("NFC", form) for form in given))


def read_problems(source: str | Path | Sequence[Problem], *, answers_needed: bool = True) -> list[Problem]:
    """The problems of a file, in the order of its lines, or those of a list. Lines of white space are passed over.

    Args:
      answers_needed: whether every problem must have a gold answer.

    Raises:
      UserError: the file cannot be read, there is no problem, or one is not what it must be; the message names file
        and line (or the place in the list, from 1) and the reason.
    """
    if isinstance(source, (str, Path)):
        name, unit, numbered = f"{source}, ", "line", read_rows(source)
    else:
        rows = ((number, to_row(problem)) for number, problem in enumerate(source, start=1))
        name, unit, numbered = "", "problem", rows
    problems: list[Problem] = []
    number_of_id: dict[str, int] = {}
    for number, row in numbered:
        try:
            problem = _read_row(row, answers_needed)
        except ValueError as error:
            raise UserError(f"{name}{unit} {number}: {error}") from None
        if problem.id in number_of_id:
            raise UserError(
                f'{name}{unit} {number}: the id "{problem.id}" is taken by {unit} {number_of_id[problem.id]}; '
                "give every problem an id of its own"
            )
        number_of_id[problem.id] = number
        problems.append(problem)
    if not problems and name:
        raise UserError(f"{source}: the problem file is empty; write one JSON object a line")
    if not problems:
        raise UserError("there is no problem; give one or more")
    return problems


def to_row(problem: Problem) -> dict[str, Any]:
    """The JSON object of a problem, as its line in a file has it; fields that are not set are left out."""
    row = {name: getattr(problem, name) for name in _FIELDS}
    row["answers"] = list(problem.answers) if isinstance(problem.answers, tuple) else problem.answers
    return {name: value for name, value in row.items() if value not in (None, [])} | dict(problem.extra)


def _read_row(row: Any, answers_needed: bool) -> Problem:
    """The problem of one JSON object; raises ValueError with the reason why there is none."""
    if not isinstance(row, dict):
        raise ValueError('not a JSON object; write {"id": ..., "question": ..., "answer": ...}')
    for field in ("id", "question", "answer"):
        if field == "answer" and row.get(field) is None:
            if answers_needed:
                raise ValueError(
                    'field "answer" is missing or null; every problem needs a gold answer here (those of '
                    "launch.synthesize do without one with a selector that does not score by it)"
                )
            continue
        if field not in row:
            raise ValueError(f'field "{field}" is missing; every problem needs id and question')
        _check_text(field, row[field])
        if not row[field].strip():
            raise ValueError(f'field "{field}" is empty')
    for field in ("context", "solution"):
        if row.get(field) is not None:
            _check_text(field, row[field])
    answers = row.get("answers")
    if answers is None:
        answers = []
    if not isinstance(answers, list):
        raise ValueError('field "answers" must be a list of strings')
    for form in answers:
        _check_text("answers", form)
        if not form.strip():
            raise ValueError('field "answers" holds an empty form')
    extra = {name: value for name, value in row.items() if name not in _FIELDS}
    try:
        json.dumps(extra, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise ValueError(f"its other fields cannot be written as JSON: {error}") from None
    return Problem(
        row["id"],
        row["question"],
        row.get("answer"),
        row.get("context"),
        row.get("solution"),
        tuple(answers),
        extra,
    )


def _check_text(field: str, value: Any) -> None:
    if not isinstance(value, str):
        raise ValueError(
            f'field "{field}" must be a string, not {json.dumps(value, default=repr)[:40]}; put it in quotes'
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f'field "{field}" has half of a surrogate pair (\\ud800-\\udfff), which is no text'
        ) from None
