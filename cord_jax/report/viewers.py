"""Search trees and samples, packed for the scripts of the page: a block a problem, which is unpacked when it is looked at.

A block is JSON, compressed (zlib) and then base64, so that no text of a trace can end the element that holds it. Where
all blocks together would be too large, texts are cut in the middle, those of the winners last, and the page says so.
"""

import base64
import dataclasses
import functools
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from cord_jax.report.runs import EvaluationRun, SynthesisRun
from cord_jax.traces import Candidate, Trace

# Of one text: characters that are kept of it; winners and responses keep `_WINNERS` times as many.
_LIMITS = (None, 4000, 2000, 1000, 500, 250, 120, 60)
_WINNERS = 16
_LISTED = 400
# Of so many blocks one is packed to see whether all of them may fit; the bytes around a block.
_TRIED, _ELEMENT = 16, 40
_Blocks = Iterator[tuple[str, Callable[[], Any]]]


@dataclasses.dataclass(frozen=True)
class Viewer:
    """The data of one viewer.

    Attributes:
      index: the packed list of its problems.
      blocks: element id -> packed data.
      cut: the characters that are kept of a text; None if all of it.
      left_out: the blocks that there was no room for.
    """

    index: str
    blocks: Mapping[str, str]
    cut: int | None
    left_out: int

    @property
    def size(self) -> int:
        """Bytes of the page that it takes."""
        return len(self.index) + sum(len(block) + len(key) + _ELEMENT for key, block in self.blocks.items())


def pack(value: Any) -> str:
    """JSON, compressed, as base64."""
    data = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    return base64.b64encode(zlib.compress(data, 6)).decode("ascii")


def shorten(text: str | None, limit: int | None) -> str | None:
    """The beginning and the end of a text that is longer than `limit` characters, and how many are missing between."""
    if text is None or limit is None or len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]} [… {len(text) - 2 * half} characters …] {text[-half:]}"


def pack_trees(runs: Sequence[SynthesisRun], budget: int) -> Viewer | None:
    """The search trees of all runs, in `budget` bytes; None if there is no trace."""
    traces = {(r, trace.id): trace for r, run in enumerate(runs) for trace in run.traces}
    if not traces:
        return None
    problems = _in_order(key for _, key in traces)
    place = {problem: i for i, problem in enumerate(problems)}

    def blocks(limit: int | None) -> _Blocks:
        for r, run in enumerate(runs):
            for trace, candidates in run.trees():
                make = functools.partial(_tree, trace, candidates, run.teachers, limit)
                yield f"tree-{r}-{place[trace.id]}", make

    # Wrong ones first: they are kept where there is no room for all.
    urgent = {
        f"tree-{r}-{place[key]}": (trace.correct is not False, place[key])
        for (r, key), trace in traces.items()
    }
    rows = []
    for problem in problems:
        found = [traces.get((r, problem)) for r in range(len(runs))]
        first = next(trace for trace in found if trace is not None)
        rows.append(
            [problem, shorten(first.question, _LISTED), first.answer, [_summary(trace) for trace in found]]
        )
    named = [
        {
            "name": run.name,
            "teachers": run.teachers,
            "mcts": run.settings.get("decoding") == "mcts",
            "lane": "sample" if run.settings.get("method") in ("curation", "integration") else "beam",
        }
        for run in runs
    ]
    return _fit({"runs": named, "problems": rows}, blocks, urgent, budget)


def pack_samples(runs: Sequence[EvaluationRun], budget: int) -> Viewer | None:
    """The samples of all evaluations, in `budget` bytes; None if there is none."""
    runs = [run for run in runs if run.samples]
    if not runs:
        return None
    problems = _in_order(problem for run in runs for problem in run.samples)
    known = {key: problem for run in runs for key, problem in run.problems.items()}

    def block(problem: str, limit: int | None) -> dict[str, Any]:
        of_runs = [[_sample(row, limit) for row in run.samples.get(problem, ())] for run in runs]
        text = known[problem].question if problem in known else None
        return {"question": shorten(text, limit and limit * _WINNERS), "runs": of_runs}

    def blocks(limit: int | None) -> _Blocks:
        for i, problem in enumerate(problems):
            yield f"samples-{i}", functools.partial(block, problem, limit)

    rows: list[list[Any]] = []
    urgent, correct = {}, [run.correct for run in runs]
    for i, problem in enumerate(problems):
        counts = [[sum(right.get(problem, ())), len(right.get(problem, ()))] for right in correct]
        given = known.get(problem)
        rows.append(
            [problem, shorten(given.question, _LISTED) if given else "", given and given.answer, counts]
        )
        urgent[f"samples-{i}"] = (sum(right for right, _ in counts), i)
    return _fit({"runs": [{"name": run.name} for run in runs], "problems": rows}, blocks, urgent, budget)


def winning_nodes(trace: Trace, candidates: Sequence[Candidate]) -> list[int]:
    """The nodes of the winner's steps, from the first on; none if the candidates do not hold them."""
    parents = {0}
    levels: list[dict[int, int]] = []
    for step in trace.steps:
        level = {
            c.node: c.parent
            for c in candidates
            if c.parent in parents
            and c.step == len(levels) + 1
            and c.dropped is None
            and (c.text, c.teacher, c.score) == (step.text, step.teacher, step.score)
        }
        levels.append(level)
        parents = set(level)
    if not levels or not levels[-1]:
        return []
    path = [min(levels[-1])]
    for level in reversed(levels[1:]):
        path.append(level[path[-1]])
    return path[::-1]


def _tree(
    trace: Trace, candidates: Sequence[Candidate], teachers: Sequence[str], limit: int | None
) -> dict[str, Any]:
    names = list(
        dict.fromkeys([*teachers, *(c.teacher for c in candidates), *(s.teacher for s in trace.steps)])
    )
    winner = winning_nodes(trace, candidates)
    most, won = limit and limit * _WINNERS, set(winner)
    return {
        "question": shorten(trace.question, most),
        "context": shorten(
            trace.extra.get("context") if isinstance(trace.extra.get("context"), str) else None, most
        ),
        "answer": trace.answer,
        "predicted": trace.predicted_answer,
        "correct": trace.correct,
        "status": trace.status,
        "score": trace.score,
        "perplexity": trace.predictive_perplexity,
        "decoys": trace.decoy_scores,
        "seconds": trace.seconds,
        "proposed": sum(usage.proposed for usage in trace.usage.values()),
        "response": shorten(trace.response, most),
        "teachers": names,
        "winner": winner,
        "steps": [
            [names.index(step.teacher), step.score, step.tokens, step.ended, shorten(step.text, most)]
            for step in trace.steps
        ],
        "nodes": [
            [
                c.node,
                c.parent,
                c.step,
                c.beam,
                names.index(c.teacher),
                c.score,
                c.rank if c.kept else None,
                c.kept,
            ]
            + [c.dropped, c.ended, shorten(c.text, most if c.node in won else limit)]
            for c in candidates
        ],
    }


def _summary(trace: Trace | None) -> list[Any] | None:
    if trace is None:
        return None
    return [trace.correct, trace.status, trace.score, len(trace.steps), trace.predicted_answer]


def _sample(row: Mapping[str, Any], limit: int | None) -> list[Any]:
    names = ("sample", "correct", "predicted_answer", "tokens", "thinking_tokens", "ended", "thought_closed")
    return [row.get(name) for name in names] + [shorten(row["text"], limit and limit * _WINNERS)]


def _in_order(ids: Iterable[str]) -> list[str]:
    """The ids, each once, with the numbers in them in their order: p9 before p10."""

    def key(text: str) -> list[tuple[int, int, str]]:
        parts = re.split(r"([0-9]+)", text)
        return [
            (0, int(part), part) if part.isdigit() and i % 2 else (1, 0, part) for i, part in enumerate(parts)
        ]

    return sorted(dict.fromkeys(ids), key=key)


def _fit(
    index: Mapping[str, Any], blocks: Callable[[int | None], _Blocks], urgent: Mapping[str, Any], budget: int
) -> Viewer:
    """Cuts texts no more than it takes to stay within the budget; leaves out the least urgent blocks if that is not enough.

    Args:
      blocks: limit -> (element id, function that makes the data).
      urgent: element id -> what blocks are sorted by.
    """
    listed = pack(index)
    room = budget - len(listed)
    for limit in _LIMITS[:-1]:
        if limit is not None and _TRIED * _size(blocks(limit), every=_TRIED) > 1.25 * room:
            continue  # hopeless, by some of its blocks
        packed: dict[str, str] = {}
        left = room
        for key, make in blocks(limit):
            packed[key] = pack(make())
            left -= len(packed[key]) + len(key) + _ELEMENT
            if left < 0:
                break
        else:
            return Viewer(listed, packed, limit, 0)
    packed = {key: pack(make()) for key, make in blocks(_LIMITS[-1])}
    kept: dict[str, str] = {}
    for key in sorted(packed, key=urgent.__getitem__):
        room -= len(packed[key]) + len(key) + _ELEMENT
        if room < 0:
            break
        kept[key] = packed[key]
    return Viewer(listed, kept, _LIMITS[-1], len(packed) - len(kept))


def _size(blocks: _Blocks, every: int) -> int:
    return sum(len(pack(make())) for i, (_, make) in enumerate(blocks) if i % every == 0)
