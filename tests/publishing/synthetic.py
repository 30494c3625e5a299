"""Runs of `launch.synthesize` that no model has written: random traces and trees of the right form."""

import random

import numpy as np

from cord_jax.run_directory import open_run
from cord_jax.traces import Candidate, Provenance, Step, Trace, TraceFiles, Usage, summarize

TEACHERS = ("left", "right")
# Texts that a file format, a template or a page may trip over.
ODD = (
    "",
    "é\u2028\u0085\r\n|",
    "```python\n'''\"\\\\u00e9\n```",
    "{{ title }} {% if %}",
    "<script>1</script>",
    "二三\U0001f600\0",
)
SETTINGS = {
    "method": "cord",
    "decoding": "beam",
    "selector": "predictive_perplexity",
    "beam_width": 2,
    "closing": "</think>\n\nThe final answer is ",
    "grader": "exact",
    "decoys": 2,
    "limit": 0,
    "seed": 0,
    "proposers": [{"name": name, "checkpoint": name, "temperature": 0.6} for name in TEACHERS],
    "meta_prover": {"checkpoint": "prover", "temperature": 0.6},
}
_ENDED = ("marker", "cap", "think_end", "eos")


def write_run(path, problems=range(12), steps=3, words=8, count=None, **settings):
    """Writes a finished run of problems with these numbers, of a file that has `count`; a problem's rows are always the same."""
    whole = SETTINGS | settings
    with open_run(
        path,
        job="synthesize",
        settings=whole,
        inputs={
            "problems": {"count": count or len(problems), "sha256": str(problems)},
            "checkpoint 1": {"sha256": "b"},
        },
    ) as run:
        files, traces = TraceFiles(run), []
        for number in problems:
            trace, candidates = problem_of(number, steps, words, whole)
            files.write(trace, candidates)
            traces.append(trace)
        run.write_json(
            "prompts.json",
            {"problem": f"p{problems[0]:04}", "prompts": {"left": "<user>\n````\nHow?\n<think>\n"}},
        )
        run.write_json("summary.json", summarize(traces, TEACHERS, seconds=1.0, device="1 x test"))
    return path


def problem_of(number, steps=3, words=8, settings=SETTINGS):
    """The trace and the candidates of a problem."""
    rng = random.Random(number)

    def text():
        return (
            " ".join(rng.choice(["so", "we", "add", "two", *ODD]) for _ in range(words)) + f" {rng.random()}"
        )

    name, right, known = f"p{number:04}", number % 3 != 0, number % 7 != 6
    chosen, candidates, parent = [], [], 0
    for depth in range(1, steps + 1):
        heading = f"### Step {depth}"
        ended = "think_end" if depth == steps else rng.choice(_ENDED[:2])
        siblings = [
            Candidate(
                node=len(candidates) + 1 + j,
                parent=parent,
                problem=name,
                step=depth,
                beam=0,
                teacher=teacher,
                text=f"{heading} {text()}\n\n",
                score=np.float32(rng.random()),
                kept=j == 0,
                rank=0 if j == 0 else None,
                dropped=None,
                ended=ended,
            )
            for j, teacher in enumerate(TEACHERS)
        ]
        dropped = Candidate(
            len(candidates) + 3, parent, name, depth, 0, "left", "", None, False, None, "empty", "eos"
        )
        parent = siblings[0].node
        candidates += [*siblings, dropped]
        first = siblings[0]
        chosen.append(Step(first.text, first.teacher, first.score, rng.randrange(99), ended))
    extra = {"level": number, "source": {"file": text()}, "score": text()} if number % 2 else {}
    extra |= {"context": f"Table {text()}", "answers": ["four"]} if number % 4 == 1 else {}
    trace = Trace(
        id=name,
        question=f"How many, {text()}?",
        answer="4" if known else None,
        status="complete",
        score=chosen[-1].score,
        reasoning="".join(step.text for step in chosen),
        response=f"So {text()} \\boxed{{4}}",
        predicted_answer="4" if right else None,
        correct=right if known else None,
        steps=tuple(chosen),
        usage={teacher: Usage(*(rng.randrange(999) for _ in range(3))) for teacher in TEACHERS},
        seconds=rng.random(),
        predictive_perplexity=chosen[-1].score if known else None,
        decoy_scores=tuple(np.float32(rng.random()) for _ in range(2)) if known else None,
        provenance=Provenance(
            settings["method"], settings["selector"], settings["decoding"], "0123", settings["decoys"] > 0
        ),
        extra=extra,
    )
    if number % 11 == 10:
        trace = Trace(
            **vars(trace) | {"status": "stuck", "response": None, "score": None, "steps": (), "reasoning": ""}
        )
    return trace, candidates
