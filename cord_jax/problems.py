"""Problems: a file of JSON lines, plain or gzipped, a table, a directory, or a list (docs/method.md, section 5.1)."""

import dataclasses
import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cord_jax import problem_files
from cord_jax.errors import UserError
from cord_jax.files import read_rows
from cord_jax.problem_files import FIELDS as _FIELDS


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


def read_problems(
    source: str | Path | Sequence[Problem], *, answers_needed: bool = True, columns: str = "", split: str = ""
) -> list[Problem]:
    """The problems of a file or a directory, in the order of its rows, or those of a list.

    JSON lines, Parquet, and what `problem_files` tells of directories. Lines of white space are passed over.

    Args:
      answers_needed: whether every problem must have a gold answer.
      columns: the names of the columns, where they are others (`problem_files.parse_columns`).
      split: of a directory (`problem_files.files_of`).

    Raises:
      UserError: the file cannot be read, there is no problem, or one is not what it must be; the message names file
        and line or row (or the place in the list, from 1) and the reason.
    """
    if isinstance(source, (str, Path)):
        placed = _read_source(Path(source), problem_files.parse_columns(columns), split)
    else:
        placed = (("", f"problem {n}", to_row(problem)) for n, problem in enumerate(source, start=1))
    problems: list[Problem] = []
    place_of_id: dict[str, tuple[str, str]] = {}
    for file, place, row in placed:
        try:
            problem = _read_row(row, answers_needed)
        except ValueError as error:
            raise UserError(f"{file}{place}: {error}") from None
        if problem.id in place_of_id:
            its_file, its_place = place_of_id[problem.id]
            raise UserError(
                f'{file}{place}: the id "{problem.id}" is taken by {"" if its_file == file else its_file}{its_place}; '
                "give every problem an id of its own"
            )
        place_of_id[problem.id] = file, place
        problems.append(problem)
    if not problems:
        name = (
            f"{source}: the problem file is empty"
            if isinstance(source, (str, Path))
            else "there is no problem"
        )
        raise UserError(f"{name}; give one problem or more")
    return problems


def to_row(problem: Problem) -> dict[str, Any]:
    """The JSON object of a problem, as its line in a file has it; fields that are not set are left out."""
    row = {name: getattr(problem, name) for name in _FIELDS}
    row["answers"] = list(problem.answers) if isinstance(problem.answers, tuple) else problem.answers
    return {name: value for name, value in row.items() if value not in (None, [])} | dict(problem.extra)


def _read_source(path: Path, columns: Mapping[str, str], split: str) -> Iterator[tuple[str, str, Any]]:
    """(file, place in it, value) of each row of a file or directory, under the names of our fields."""
    number = 0
    for file in problem_files.files_of(path, split):
        typed = problem_files.is_table(file)
        for place, row in problem_files.read_table(file) if typed else read_rows(file):
            where, number = f"{'row' if typed else 'line'} {place}", number + 1
            if columns or typed:
                try:
                    row = problem_files.renamed(row, number, columns, typed)
                except ValueError as error:
                    raise UserError(f"{file}, {where}: {error}") from None
            yield f"{file}, ", where, row


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
