"""Pairs of next steps to train on, from the search trees of finished problems.

Two siblings continue the same text, so that their scores compare the steps and nothing else. Every two of them whose
scores differ by a margin become a pair: the one with the higher score is `chosen`, the other `rejected`. Whole traces
(of curation and integration) are siblings, too; their text begins at the root.

A row of `pairs.jsonl`, every field of one type in every row:

- `prompt`, `chosen`, `rejected`: texts, as TRL names them. The prompt ends in `<think>`, a newline and the reasoning so
  far; chosen and rejected continue it. Behind a step whose teacher ended the reasoning stands `</think>` and
  a blank line, as in a whole trace.
- `margin`: the difference of the scores, in the selector's unit.
- `problem`, `step`: the problem's id; the depth of both steps in the tree, from 1.
- `chosen_teacher`, `rejected_teacher`, `chosen_score`, `rejected_score`: of the two candidates.
- `question`, `reasoning`: the user's turn (with the problem's context) and the reasoning so far, of which a trainer makes
  the prompt in the student's own chat template.
"""

import itertools
import json
import operator
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from cord_jax import settings
from cord_jax.config import PreferencesConfig
from cord_jax.endings import CLOSING
from cord_jax.errors import UserError
from cord_jax.files import read_object
from cord_jax.fingerprints import fingerprint
from cord_jax.json_lines import read_lines
from cord_jax.run_directory import open_run
from cord_jax.storage import write_atomically
from cord_jax.traces import SUMMARY, TRACES, TREE

PAIRS = "pairs.jsonl"
_TREE_NEEDS = {
    **dict.fromkeys(("node", "parent", "step"), int),
    **dict.fromkeys(("problem", "teacher", "text", "ended"), str),
    "score": int | float | None,
}
# Its line breaks belong to it: many vocabularies have a token of `>` and both.
THINK_END = "</think>\n\n"


def plain_prompt(question: str) -> str:
    """The prompt of no model in particular: the question, a blank line, and the thought opened."""
    return f"{question}\n\n<think>\n"


def pairs_of(
    tree_rows: Iterable[Mapping[str, Any]],
    questions: Mapping[str, str],
    margin: float = 0.1,
    prompt_of: Callable[[str], str] = plain_prompt,
) -> Iterator[dict[str, Any]]:
    """The pairs of siblings whose scores differ by `margin` or more, as rows of `pairs.jsonl`.

    They come in the order of the tree: by problem, then by the node that both extend, then by chosen and by rejected
    node. Siblings with the same text (and both or neither ending the reasoning) make no pair, whatever their scores.

    Args:
      tree_rows: rows of `tree.jsonl`; those of a problem follow one another.
      questions: problem id -> the user's turn; problems that are not in it are passed over.
      margin: least difference of the scores, in the selector's unit; at 0, any difference.
      prompt_of: makes the text before the reasoning, up to `<think>` and a newline, of a question.

    Raises: ValueError if a row extends one that is not before it.
    """
    for problem, rows in itertools.groupby(tree_rows, key=operator.itemgetter("problem")):
        if problem in questions:
            question = questions[problem]
            yield from _pairs_of_problem(list(rows), question, prompt_of(question), margin)


def questions_of(trace_rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Problem id -> the user's turn as asked, its context included, from rows of `traces.jsonl`."""
    return {row["id"]: row["messages"][0]["content"] for row in trace_rows}


def write_preferences(config: PreferencesConfig) -> dict[str, Any]:
    """Writes `pairs.jsonl` and `summary.json` into the output directory and returns the summary.

    The summary: `problems` that have a trace, `problems_with_pairs`, `pairs`, `mean_margin`, and `wins`: teacher -> teacher
    -> pairs in which the former's step was chosen over the latter's.

    Raises: `UserError` if a directory holds no run, or no two siblings differ by the margin; nothing is written then.
    """
    sources = [_source(path) for path in config.runs]
    prompt_of = plain_prompt if config.student is None else _prompts_of(config.student)
    run_is: dict[str, Any] = {
        "job": "preferences",
        "settings": settings.deciding(config),
        "inputs": {
            str(number): {name: fingerprint(path / name) for name in (TRACES, TREE)}
            for number, (path, _) in enumerate(sources, start=1)
        }
        | ({} if config.student is None else {"student": fingerprint(config.student)}),
    }

    def pairs(margin: float) -> Iterator[dict[str, Any]]:
        for path, questions in sources:
            rows = read_lines(path / TREE, _TREE_NEEDS, once=("problem", "node"))
            try:
                yield from pairs_of(rows, questions, margin, prompt_of)
            except ValueError as error:
                raise UserError(f"{path / TREE}: {error}") from None

    if not sum(1 for _ in pairs(config.margin)):  # every row is read once before anything is written
        raise UserError(_why_none(pairs(0), config))
    with open_run(config.output_dir, **run_is, environment=settings.free(config)) as run:
        if (run.path / SUMMARY).exists():
            return read_object(run.path / SUMMARY)
        for path, questions in sources:
            if not (path / SUMMARY).exists():
                run.log(f"{path}: the run is not finished; its {len(questions)} traces so far are used")
        problems = len({problem for _, questions in sources for problem in questions})
        counts = _Counts()
        lines = (
            json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in counts.of(pairs(config.margin))
        )
        write_atomically(run.path / PAIRS, lines)
        summary = counts.summary(problems)
        run.write_json(SUMMARY, summary)
        return summary


class _Counts:
    """Counts pairs while they pass by."""

    def __init__(self):
        self.problems: set[str] = set()
        self.pairs, self.margins = 0, 0.0
        self.wins: Counter[tuple[str, str]] = Counter()

    def of(self, pairs: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """The same pairs, counted."""
        for row in pairs:
            self.problems.add(row["problem"])
            self.pairs += 1
            self.margins += row["margin"]
            self.wins[row["chosen_teacher"], row["rejected_teacher"]] += 1
            yield row

    def summary(self, problems: int) -> dict[str, Any]:
        """The content of `summary.json`; `problems`: those that have a trace."""
        teachers = sorted({teacher for pair in self.wins for teacher in pair})
        return {
            "problems": problems,
            "problems_with_pairs": len(self.problems),
            "pairs": self.pairs,
            "mean_margin": round(self.margins / self.pairs, 6),
            "wins": {winner: {loser: self.wins[winner, loser] for loser in teachers} for winner in teachers},
        }


def _pairs_of_problem(
    rows: list[Mapping[str, Any]], question: str, opening: str, margin: float
) -> Iterator[dict[str, Any]]:
    reasoning = {0: ""}  # of each node, with its step
    children: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["parent"] not in reasoning:
            raise ValueError(
                f"node {row['node']} of problem {row['problem']} extends node {row['parent']}, which is not before it"
            )
        reasoning[row["node"]] = reasoning[row["parent"]] + row["text"]
        if row.get("score") is not None:
            children.setdefault(row["parent"], []).append(row)
    for parent, siblings in children.items():
        texts = {row["node"]: _continuation(row) for row in siblings}
        for chosen, rejected in itertools.permutations(siblings, 2):
            # Scores are decimals: 0.4 - 0.3 is to be 0.1.
            difference = Decimal(repr(chosen["score"])) - Decimal(repr(rejected["score"]))
            same = texts[chosen["node"]] == texts[rejected["node"]]
            if same or difference <= 0 or difference < Decimal(repr(margin)):
                continue
            yield {
                "prompt": opening + reasoning[parent],
                "chosen": texts[chosen["node"]],
                "rejected": texts[rejected["node"]],
                "margin": float(difference),
                "problem": chosen["problem"],
                "step": chosen["step"],
                "chosen_teacher": chosen["teacher"],
                "rejected_teacher": rejected["teacher"],
                "chosen_score": chosen["score"],
                "rejected_score": rejected["score"],
                "question": question,
                "reasoning": reasoning[parent],
            }


def _continuation(row: Mapping[str, Any]) -> str:
    """The text that a candidate continues its parent with."""
    return row["text"] + (THINK_END if row["ended"] in CLOSING else "")


def _source(path: Path) -> tuple[Path, dict[str, str]]:
    """A run's directory, and its questions by problem. Raises: `UserError` if it holds no run of `launch.synthesize`."""
    missing = [name for name in (TRACES, TREE) if not (path / name).is_file()]
    if missing:
        raise UserError(
            f"--run: {path} has no {missing[0]}; give the --output_dir of a run of launch.synthesize that has "
            "written a trace"
        )
    try:
        return path, questions_of(read_lines(path / TRACES, {"id": str, "messages": list}))
    except (KeyError, IndexError, TypeError):
        raise UserError(
            f"{path / TRACES}: the messages of a row do not begin with a user's turn; give a run of launch.synthesize"
        ) from None


def _prompts_of(student: Path | str) -> Callable[[str], str]:
    """Prompts in a student's own chat template, as its directory says that it is filled in."""
    from cord_jax.text.prompt_settings import read_prompt_file
    from cord_jax.text.prompts import render_prompt
    from cord_jax.text.vocabulary import Vocabulary

    vocabulary, prompt = Vocabulary.load(student), read_prompt_file(student)
    return lambda question: render_prompt(vocabulary, prompt, question)


def _why_none(pairs: Iterable[Mapping[str, Any]], config: PreferencesConfig) -> str:
    greatest = max((row["margin"] for row in pairs), default=None)
    runs = ", ".join(os.fspath(path) for path in config.runs)
    if greatest is None:
        return (
            f"--run: {runs}: no two different siblings have different scores, so there is nothing to prefer"
        )
    return f"--margin={config.margin:g}: no two siblings of {runs} differ so much; the greatest difference is {greatest:g}"
