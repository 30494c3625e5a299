"""Traces and candidates as rows of `traces.jsonl` and `tree.jsonl`, and the summary of a run.

A trace is what the search makes of one problem: the winner, step by step, with its authors. A candidate is one proposal
of one teacher for one beam in one round, kept or not. A problem's candidates, in the order of step, beam and proposer,
are its search tree; each names the node that it extends (docs/method.md, section 5.3).

`TraceFiles` writes both. A problem's candidates go out before its trace, so a trace in `traces.jsonl` always has its whole
tree, and a tree without a trace (of a run that was cut off) is dropped when the run continues.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np

from cord_jax import statistics
from cord_jax.endings import CONCLUDING, ENDINGS
from cord_jax.errors import UserError
from cord_jax.json_lines import JsonLines
from cord_jax.run_directory import RunDirectory
from cord_jax.tree_shape import TreeShape
from cord_jax.typed_rows import checked, named_objects, objects

TRACES = "traces.jsonl"
TREE = "tree.jsonl"
SUMMARY = "summary.json"
PROMPTS = "prompts.json"

_PROVENANCE = ("method", "selector", "decoding", "run")
STATUSES = ("complete", "budget", "max_steps", "stuck")


@dataclasses.dataclass(frozen=True)
class Step:
    """One committed step of a trace.

    Attributes:
      text: canonical text, heading included; empty if the teacher had nothing to add.
      teacher: the proposer's name in the pool.
      score: S of the trace up to this step, 0 to 1 (float32).
      tokens: the meta-prover's tokens of the text.
      ended: what ended the proposal: "marker", "think_end", "eos", "cap" or "budget".
    """

    text: str
    teacher: str
    score: float | None
    tokens: int
    ended: str

    def to_row(self) -> dict[str, Any]:
        """The JSON object, in the order of the fields."""
        return _row(self)


@dataclasses.dataclass(frozen=True)
class Provenance:
    """The making of a trace.

    Attributes:
      method, selector, decoding: names of the run's settings; decoding is None for methods without steps.
      run: a hash of all settings and checkpoints.
      decoys: whether decoys were asked for.
    """

    method: str
    selector: str
    decoding: str | None
    run: str
    decoys: bool = False


@dataclasses.dataclass(frozen=True)
class Usage:
    """The tokens that one teacher cost on one problem.

    Attributes:
      proposed: sampled by the teacher, EOS and discarded tails included.
      committed: its own tokens of its steps in the winner.
      scored: the meta-prover's tokens of step, closing and answer, over the teacher's candidates.
    """

    proposed: int = 0
    committed: int = 0
    scored: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        """Both together."""
        return Usage(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other))))


@dataclasses.dataclass(frozen=True)
class Trace:
    """The winner of one problem's search.

    Attributes:
      id, question, answer: the problem's; the answer is None if nobody knows it.
      status: how the winner ended, one of `STATUSES`.
      score: the selector's, of the winner (float32); None if nothing was ever scored.
      reasoning: the steps' texts joined; never holds `</think>`.
      response: what follows `</think>`; None if the search got stuck.
      predicted_answer: taken from the response; None if it states none.
      correct: whether the grader accepts it; None without a gold answer.
      steps: the winner's steps.
      usage: teacher name -> tokens, for every proposer of the pool.
      seconds: from the problem's insertion into a slot to its response.
      predictive_perplexity: of the winner, 0 to 1 (float32), whatever the selector; None without a gold answer or reasoning.
      decoy_scores: the same for wrong answers; None without a gold answer or reasoning.
      provenance: how it was made.
      extra: the problem's other fields (`context`, `solution`, `answers` and any of the user's own).
    """

    id: str
    question: str
    answer: str | None
    status: str
    score: float | None
    reasoning: str
    response: str | None
    predicted_answer: str | None
    correct: bool | None
    steps: tuple[Step, ...]
    usage: Mapping[str, Usage]
    seconds: float
    predictive_perplexity: float | None
    decoy_scores: tuple[float, ...] | None
    provenance: Provenance
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def to_row(self) -> dict[str, Any]:
        """The JSON object: the contract's fields in their order, then `extra`.

        A field of the problem that has the name of one of these is written as `problem_NAME`.
        """
        row = _row(self)
        extra, provenance = row.pop("extra"), row.pop("provenance")
        row["seconds"] = round(self.seconds, 3)
        row["predictive_perplexity"] = decimal(self.predictive_perplexity)
        scores = row.pop("decoy_scores")
        if provenance.decoys:
            row["decoy_scores"] = None if scores is None else [decimal(score) for score in scores]
        row |= {name: getattr(provenance, name) for name in _PROVENANCE}
        row["messages"] = self.messages
        return row | {f"problem_{name}" if name in row else name: value for name, value in extra.items()}

    @property
    def messages(self) -> list[dict[str, str]]:
        """The trace as a conversation, as trainers take it: the question as asked, the reasoning and the response."""
        context = self.extra.get("context")
        question = f"{context}\n\n{self.question}" if context else self.question
        answer = f"<think>\n{self.reasoning}</think>\n\n{self.response or ''}"
        return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """The inverse of `to_row`.

        Raises: `KeyError` naming a field of the contract that is missing, `TypeError` for one of another type.
        """
        made = ("extra", "provenance", "decoy_scores")
        names = [field.name for field in dataclasses.fields(cls) if field.name not in made]
        values = {name: row[name] for name in names}
        checked(cls, values)
        scores = row.get("decoy_scores")
        values["decoy_scores"] = None if scores is None else tuple(scores)
        values["provenance"] = Provenance(
            **{name: row[name] for name in _PROVENANCE}, decoys="decoy_scores" in row
        )
        names += [*_PROVENANCE, "decoy_scores", "messages"]
        values["steps"] = tuple(Step(**checked(Step, step)) for step in objects(values["steps"]))
        values["usage"] = {
            teacher: Usage(**checked(Usage, usage))
            for teacher, usage in named_objects(values["usage"]).items()
        }
        extra = {
            name.removeprefix("problem_") if name.removeprefix("problem_") in names else name: value
            for name, value in row.items()
            if name not in names
        }
        return cls(**values, extra=extra)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One proposal of the search, a node of its tree.

    Attributes:
      node: its number within the problem, from 1, in the order of the rows.
      parent: the node that it extends, 0 for the root.
      problem: the problem's id.
      step: its depth in the tree, from 1.
      beam: the beam that it extends; with Monte Carlo tree search the number of the expansion, from 0.
      teacher: the proposer's name.
      text: canonical text.
      score: S with this step, 0 to 1 (float32); None if it was dropped.
      kept: whether the selection of its round kept it.
      rank: its beam number after that selection; None if not kept.
      dropped: None, "empty", "invalid_utf8", "duplicate", or the name of the filter that dropped it.
      ended: what ended it, as in `Step`.
    """

    node: int
    parent: int
    problem: str
    step: int
    beam: int
    teacher: str
    text: str
    score: float | None
    kept: bool
    rank: int | None
    dropped: str | None
    ended: str

    def to_row(self) -> dict[str, Any]:
        """The JSON object, in the order of the fields."""
        return _row(self)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """The inverse of `to_row`. Raises: `TypeError` for fields that are missing, too many, or of another type."""
        return cls(**checked(cls, row))


_NONE = type(None)
_OF_TREE = {
    "problem": str, "node": int, "step": int, "beam": int, "ended": str, "kept": bool, "rank": (int, _NONE)
}  # fmt: skip


class TraceFiles:
    """`traces.jsonl` and `tree.jsonl` of an open run directory."""

    def __init__(self, run: RunDirectory, shape: TreeShape | None = None):
        """Opens both, and mends what an interruption or a disk has left: rows of the tree without a trace, a trace whose
        tree is not whole, rows that stand there twice.

        Args:
          shape: of the run's trees; None to take them as they are.
        """
        self._traces, self._tree = run.json_lines(TRACES), run.json_lines(TREE)
        read = self._traces.read({"id": str})
        traces = {row["id"]: row for row in read}
        trees: dict[str, dict[int, dict[str, Any]]] = {}
        rows = self._tree.read(_OF_TREE)
        for row in rows:
            trees.setdefault(row["problem"], {}).setdefault(row["node"], row)
        torn = [name for name in traces if shape and not shape.is_whole([*trees.get(name, {}).values()])]
        if doubled := len(read) - len(traces):
            run.log(f"{TRACES}: {doubled} rows stand there twice; one of each is kept")
        if torn:
            shown = ", ".join(torn[:3]) + (", ..." if len(torn) > 3 else "")
            run.log(f"{TREE}: lacks rows of {len(torn)} problems, which are searched again: {shown}")
        kept = {name: row for name, row in traces.items() if name not in set(torn)}
        whole = [row for name, tree in trees.items() if name in kept for row in tree.values()]
        # Traces go first: rows of the tree without a trace are taken away, and a trace without its tree is searched again.
        if len(kept) < len(read):
            self._traces.rewrite(kept.values())
        if len(whole) < len(rows):
            self._tree.rewrite(whole)

    def finished(self) -> set[str]:
        """The ids of the problems that have a trace."""
        return {row["id"] for row in self._traces.read({"id": str})}

    def read(self) -> list[Trace]:
        """All traces of the run, in the order in which they were finished."""
        return self._records(self._traces, Trace.from_row)

    def write(self, trace: Trace, candidates: Iterable[Candidate]) -> None:
        """Adds a finished problem: its candidates in the order of step, beam and proposer, then its trace."""
        self._tree.append(*(candidate.to_row() for candidate in candidates))
        self._traces.append(trace.to_row())

    def read_tree(self) -> list[Candidate]:
        """All candidates of the run."""
        return self._records(self._tree, Candidate.from_row)

    @staticmethod
    def _records(file: JsonLines, from_row: Callable[[Mapping[str, Any]], Any]) -> list[Any]:
        """The rows as records. Raises: `UserError` for a row of other fields than this version writes."""
        records = []
        for number, row in enumerate(file.read(), start=1):
            try:
                records.append(from_row(row))
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                raise UserError(
                    f"{file.path}, row {number}: not as this version writes it ({error}); start a new output directory"
                ) from None
        return records


def summarize_trees(candidates: Iterable[Candidate], max_steps: int) -> dict[str, float | None]:
    """The part of the summary that tells of Monte Carlo tree search, as means over problems.

    Returns: `expansions`; `depth` of the deepest node; `complete`, nodes whose reasoning has ended.
    """
    by_problem: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        by_problem.setdefault(candidate.problem, []).append(candidate)
    trees = [[c for c in tree if c.dropped is None] for tree in by_problem.values()]
    figures = {
        "expansions": [len({c.beam for c in tree}) for tree in by_problem.values()],
        "depth": [max((c.step for c in tree), default=0) for tree in trees],
        "complete": [sum(c.ended in CONCLUDING or c.step >= max_steps for c in tree) for tree in trees],
    }
    return {name: _rounded(statistics.estimate(values).mean) for name, values in figures.items()}


def decimal(score: float | np.floating | None) -> float | None:
    """A float32 score as the shortest decimal that reads back as the same float32, for JSON."""
    return None if score is None else float(str(np.float32(score)))


def summarize(
    traces: Sequence[Trace], teachers: Sequence[str], *, seconds: float, device: str
) -> dict[str, Any]:
    """The content of `summary.json`.

    Args:
      traces: one or more.
      teachers: the names of those who write, in the pool's order.
      seconds: wall time of the run, continuations added up.
      device: in words, for instance "8 x TPU v5e".

    Returns: `problems`; `accuracy` and `mean_score` with their standard errors over problems (a trace without
    a score counts as 0); `status` counts; `unanswered`, responses that state no answer; `ended`, what ended the winners'
    steps; `mean_steps`; `share` of the winners' steps by teacher, over all
    and by position (`statistics.shares`); `tokens` by teacher (`Usage`) and in total; `seconds`; `device`.
    """
    accuracy = statistics.estimate([trace.correct for trace in traces if trace.correct is not None])
    score = statistics.estimate([trace.score or 0.0 for trace in traces])
    statuses = Counter(trace.status for trace in traces)
    ended = Counter(step.ended for trace in traces for step in trace.steps)
    tokens = {teacher: _add_up(trace.usage.get(teacher, Usage()) for trace in traces) for teacher in teachers}
    return {
        "problems": len(traces),
        "accuracy": _rounded(accuracy.mean),
        "accuracy_standard_error": _rounded(accuracy.standard_error),
        "mean_score": _rounded(score.mean),
        "mean_score_standard_error": _rounded(score.standard_error),
        "status": {status: statuses[status] for status in STATUSES},
        "unanswered": sum(trace.response is not None and trace.predicted_answer is None for trace in traces),
        "ended": {name: ended[name] for name in ENDINGS},
        "mean_steps": _rounded(statistics.estimate([len(trace.steps) for trace in traces]).mean),
        "share": {
            part: {teacher: _rounded(share) for teacher, share in by_teacher.items()}
            for part, by_teacher in statistics.shares(
                [[s.teacher for s in trace.steps] for trace in traces], teachers
            ).items()
        },
        "tokens": {
            name: dataclasses.asdict(usage)
            for name, usage in {**tokens, "total": _add_up(tokens.values())}.items()
        },
        "seconds": round(seconds, 1),
        "device": device,
    }


def _row(record: Any) -> dict[str, Any]:
    """A record's fields in their order, scores as decimals, tuples as lists."""
    row = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    row["score"] = decimal(row["score"])
    if "steps" in row:
        row["steps"] = [step.to_row() for step in row["steps"]]
        row["usage"] = {teacher: dataclasses.asdict(usage) for teacher, usage in row["usage"].items()}
    return row


def _add_up(usages: Iterable[Usage]) -> Usage:
    return sum(usages, start=Usage())


def _rounded(value: float) -> float | None:
    """Six decimals; None where there is no number, since JSON has no nan."""
    return None if np.isnan(value) else round(value, 6)
