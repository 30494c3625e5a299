"""The columns of a published dataset, declared once and never inferred, and rows as they go into them.

Numbers that a run writes as decimals are 64-bit floats, so that what is loaded equals what the run's files say. What
has other keys in every run is a list of structs (`usage`, a struct a teacher) or JSON text (`extra`, the problem's
fields of one's own).
"""

import json
from collections.abc import Mapping
from typing import Any

from datasets import Features, Value

from cord_jax.traces import Candidate, Trace

_TEXT, _REAL, _WHOLE, _FLAG = Value("string"), Value("float64"), Value("int32"), Value("bool")
_OF_PROBLEM = ("context", "solution", "answers")

TRACES = Features(
    {
        "id": _TEXT,
        "question": _TEXT,
        "answer": _TEXT,
        "messages": [{"role": _TEXT, "content": _TEXT}],
        "status": _TEXT,
        "score": _REAL,
        "reasoning": _TEXT,
        "response": _TEXT,
        "predicted_answer": _TEXT,
        "correct": _FLAG,
        "steps": [{"text": _TEXT, "teacher": _TEXT, "score": _REAL, "tokens": _WHOLE, "ended": _TEXT}],
        "usage": [
            {
                "teacher": _TEXT,
                "proposed": Value("int64"),
                "committed": Value("int64"),
                "scored": Value("int64"),
            }
        ],
        "seconds": _REAL,
        "predictive_perplexity": _REAL,
        "decoy_scores": [_REAL],
        "method": _TEXT,
        "selector": _TEXT,
        "decoding": _TEXT,
        "run": _TEXT,
        "context": _TEXT,
        "solution": _TEXT,
        "answers": [_TEXT],
        "extra": _TEXT,
    }
)
TREE = Features(
    {
        "node": _WHOLE,
        "parent": _WHOLE,
        "problem": _TEXT,
        "step": _WHOLE,
        "beam": _WHOLE,
        "teacher": _TEXT,
        "text": _TEXT,
        "score": _REAL,
        "kept": _FLAG,
        "rank": _WHOLE,
        "dropped": _TEXT,
        "ended": _TEXT,
    }
)
PAIRS = Features(
    {
        "prompt": _TEXT,
        "chosen": _TEXT,
        "rejected": _TEXT,
        "margin": _REAL,
        "problem": _TEXT,
        "step": _WHOLE,
        "chosen_teacher": _TEXT,
        "rejected_teacher": _TEXT,
        "chosen_score": _REAL,
        "rejected_score": _REAL,
        "question": _TEXT,
        "reasoning": _TEXT,
    }
)


def trace_row(trace: Trace) -> dict[str, Any]:
    """A trace as a row of `TRACES`."""
    row = trace.to_row()
    own = {name: value for name, value in trace.extra.items() if name not in _OF_PROBLEM}
    row["usage"] = [{"teacher": teacher, **usage} for teacher, usage in row["usage"].items()]
    row |= {name: trace.extra.get(name) for name in _OF_PROBLEM}
    row["extra"] = json.dumps(own, ensure_ascii=False) if own else None
    return {name: row.get(name) for name in TRACES}


def tree_row(candidate: Candidate) -> dict[str, Any]:
    """A candidate as a row of `TREE`."""
    row = candidate.to_row()
    return {name: row[name] for name in TREE}


def pair_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A pair of `preferences.pairs_of` as a row of `PAIRS`."""
    return {name: row[name] for name in PAIRS}
