"""What a summary says is worth changing, in plain sentences; nothing where all is as it should be."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from cord_jax.traces import Trace

# Shares from which something is worth a sentence.
_MANY, _MOST = 0.2, 0.5


def advice_on_traces(traces: Sequence[Trace]) -> list[str]:
    """Advice on a run of synthesis."""
    advice = []
    ended = Counter(step.ended for trace in traces for step in trace.steps)
    total = ended.total()
    if total and ended["cap"] > _MOST * total:
        never = "" if ended["think_end"] + ended["eos"] else " and none by `</think>`"
        advice.append(
            f"{ended['cap']} of {total} steps ended by the cap{never}: these teachers do not think in steps of that "
            "length; raise --max_step_tokens, try --segmentation=line_break, or see docs/teachers.md"
        )
    responses = [trace for trace in traces if trace.response is not None]
    unanswered = sum(trace.predicted_answer is None for trace in responses)
    if unanswered > _MANY * len(responses):
        advice.append(
            f"{unanswered} of {len(responses)} responses state no answer: raise --max_answer_tokens, or have a system "
            "prompt ask for \\boxed{}"
        )
    endless = "" if ended["think_end"] + ended["eos"] else "; none was ever concluded: see docs/teachers.md"
    for status, remedy in (
        ("max_steps", f"raise --max_steps{endless}"),
        ("budget", "raise --max_thinking_tokens"),
        ("stuck", "see the reasons under `dropped` in tree.jsonl"),
    ):
        count = sum(trace.status == status for trace in traces)
        if count > _MANY * len(traces):
            advice.append(f"{count} of {len(traces)} traces have the status {status}: {remedy}")
    return advice


def advice_on_samples(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Advice on a run of evaluation; rows are those of `samples.jsonl`."""
    advice, total = [], len(rows)
    unclosed = sum(not row["thought_closed"] for row in rows)
    if unclosed > _MANY * total:
        advice.append(
            f"{unclosed} of {total} samples never close their thought: raise --max_tokens, or this model does not think"
        )
    silent = sum(row["thought_closed"] and row["predicted_answer"] is None for row in rows)
    if silent > _MANY * total:
        advice.append(
            f"{silent} of {total} responses state no answer: have the system prompt ask for \\boxed{{}}"
        )
    return advice
