"""Runs of any size, made up: searches that hold together, texts of all kinds, and files as the jobs write them."""

import dataclasses
import json
from pathlib import Path

import numpy as np

from cord_jax.run_directory import open_run
from cord_jax.traces import Candidate, Provenance, Step, Trace, TraceFiles, Usage, summarize

TEACHERS = ("alpha", "beta", "gamma")
NASTY = "</script><script>document.title = 'broken'</script><!-- <b onclick='x'>&amp; \u2028 \\u003c ]]>"
_DROPPED = ("duplicate", "arithmetic", "empty")


def write_synthesis(
    path: Path,
    problems: int,
    *,
    steps: int = 6,
    words: int = 12,
    width: int = 3,
    decoding: str = "beam",
    accuracy: float = 0.7,
    seed: int = 0,
    finished: bool = True,
    decoys: bool = True,
    integrator: str | None = None,
) -> None:
    """A run of synthesis; texts of step, question and response hold markup that must not become part of a page."""
    random = np.random.default_rng(seed)
    settings = {
        "method": "integration" if integrator else "cord",
        "decoding": decoding,
        "selector": "predictive_perplexity",
        "beam_width": width,
        "max_steps": steps,
        "limit": 0,
        "filters": "arithmetic",
        "proposers": [{"name": name, "checkpoint": name} for name in TEACHERS],
    }
    with open_run(path, job="synthesize", settings=settings, environment={"problems": "gone.jsonl"}) as run:
        rows = {"traces": [], "tree": []}
        traces = []
        for number in range(problems):
            trace, candidates = _search(
                f"p{number} <i>&", random, steps, words, width, decoding, accuracy, decoys
            )
            if integrator:
                step = Step("All in all 12.\n\n", integrator, trace.score, 5, "think_end")
                trace = dataclasses.replace(trace, steps=(step,), reasoning=step.text)
            traces.append(trace)
            rows["traces"].append(trace.to_row())
            rows["tree"] += [candidate.to_row() for candidate in candidates]
        files = TraceFiles(run)
        files._tree.append(*rows["tree"])
        files._traces.append(*rows["traces"])
        if finished:
            run.write_json("summary.json", summarize(traces, TEACHERS, seconds=12.5, device="1 x test"))


def _search(key, random, steps, words, width, decoding, accuracy, decoys):
    """A search of `steps` rounds: beams that are kept by their scores, or expansions of any node."""
    vocabulary = np.array(
        ["add", "the", "two", "sides", "so", "that", "x", "=", "$\\frac{1}{2}$", "hence", "√2", "12", "7.5"]
    )
    candidates: list[Candidate] = []
    frontier = [0]
    depth = {0: 0}
    for round_ in range(steps):
        made = []
        for beam, parent in enumerate(frontier):
            for teacher in TEACHERS:
                dropped = str(random.choice(_DROPPED)) if random.random() < 0.15 else None
                text = f"### Step {depth[parent] + 1}: " + " ".join(random.choice(vocabulary, words)) + "\n\n"
                text = NASTY + text if random.random() < 0.05 else text
                score = None if dropped else _score(random, (depth[parent] + 1) / steps)
                made.append(
                    Candidate(
                        node=len(candidates) + len(made) + 1,
                        parent=parent,
                        problem=key,
                        step=depth[parent] + 1,
                        beam=round_ if decoding == "mcts" else beam,
                        teacher=teacher,
                        text="" if dropped == "empty" else text,
                        score=score,
                        kept=False,
                        rank=None,
                        dropped=dropped,
                        ended="think_end" if depth[parent] + 1 == steps else "marker",
                    )
                )
        best = sorted((c for c in made if c.score is not None), key=lambda c: -c.score)[:width]
        ranks = {c.node: rank for rank, c in enumerate(best)}
        candidates += [dataclasses.replace(c, kept=c.node in ranks, rank=ranks.get(c.node)) for c in made]
        depth |= {c.node: c.step for c in made}
        if not best:
            break
        frontier = [c.node for c in best]
        if decoding == "mcts":
            open_nodes = [c.node for c in candidates if c.score is not None and c.step < steps]
            frontier = [int(random.choice(open_nodes))] if open_nodes else []
    return _trace(key, random, candidates, accuracy, decoys), candidates


def _trace(key, random, candidates, accuracy, decoys):
    scored = [c for c in candidates if c.score is not None]
    node = max(scored, key=lambda c: (c.step, c.score), default=None)
    path, by_number = [], {c.node: c for c in candidates}
    while node is not None:
        path.insert(0, node)
        node = by_number.get(node.parent)
    steps = tuple(Step(c.text, c.teacher, c.score, len(c.text.split()), c.ended) for c in path)
    right = bool(random.random() < accuracy)
    score = steps[-1].score if steps else None
    return Trace(
        id=key,
        question=f"What is {key}? {NASTY}",
        answer="12",
        status="complete" if random.random() < 0.9 else "budget",
        score=score,
        reasoning="".join(step.text for step in steps),
        response=f"So \\boxed{{12}}. {NASTY}",
        predicted_answer="12" if right else "<u>13</u>",
        correct=right,
        steps=steps,
        usage={name: Usage(*(int(n) for n in random.integers(10, 400, 3))) for name in TEACHERS},
        seconds=float(np.round(random.gamma(4.0, 2.0), 3)),
        predictive_perplexity=score,
        decoy_scores=tuple(_score(random, 0.3) for _ in range(2)) if decoys else None,
        provenance=Provenance("cord", "predictive_perplexity", "beam", "0123456789abcdef", decoys),
    )


def _score(random, level: float) -> float:
    return float(str(np.float32(np.clip(random.normal(level, 0.15), 0.001, 0.999))))


def write_evaluation(
    path: Path, problems: int, samples: int, *, accuracy: float, seed: int, finished: bool = True
) -> None:
    """A run of evaluation, whose problem file is gone."""
    random = np.random.default_rng(seed)
    with open_run(
        path, job="evaluate", settings={"samples": samples, "limit": 0}, environment={"problems": "gone"}
    ) as run:
        rows = []
        for number in range(problems):
            for sample in range(samples):
                right = bool(random.random() < accuracy)
                rows.append(
                    {
                        "problem": f"q{number}",
                        "sample": sample,
                        "text": f"{NASTY} so it is {number}",
                        "predicted_answer": "12" if right else None,
                        "correct": right,
                        "tokens": 40,
                        "thinking_tokens": 30,
                        "answer_tokens": 10,
                        "thought_closed": True,
                        "ended": "eos",
                    }
                )
        run.json_lines("samples.jsonl").append(*rows)
        if finished:
            run.write_json("summary.json", {f"maj@{samples}": 0.5, "pass@1": accuracy})


def write_training(path: Path, steps: int, *, exported: bool = True) -> None:
    """A run of training."""
    with open_run(path, job="train_student", settings={"learning_rate": 1e-3}) as run:
        run.json_lines("metrics.jsonl").append(
            *(
                {"step": i, "loss": 1 / i, "learning_rate": 1e-3 / i, "grad_norm": 2.0 / i, "mfu": None}
                for i in range(1, steps + 1)
            )
        )
    if exported:
        (path / "hf").mkdir()
        (path / "hf" / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
