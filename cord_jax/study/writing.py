"""Writes the traces of an arm, for all its seeds in one run, and measures them.

The seed of a puzzle stands in its id, and with it in every draw of its search (method, section 3.10). So one run holds the
puzzles of all seeds, and the search is compiled once.
"""

import gzip
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cord_jax import SynthesisConfig, statistics, synthesize
from cord_jax.miniature import world
from cord_jax.miniature.decomposition import Rounds, count_rounds, read_trace
from cord_jax.miniature.quickstart import MAX_REASONING, MAX_RESPONSE, MAX_STEP, MAX_STEPS
from cord_jax.problems import Problem
from cord_jax.storage import write_atomically
from cord_jax.study import arms, learning, trees
from cord_jax.study.arms import Writing
from cord_jax.study.cells import claimed, rows_path
from cord_jax.study.config import StudyConfig
from cord_jax.study.members import find, pool_of
from cord_jax.text.vocabulary import Vocabulary

_FIRST_SEED = 100  # of the puzzles, so that they are not those of the quickstart
_LEARNT = ("id", "question", "answer", "reasoning", "response", "correct", "score")
_OF_STEPS = ("text", "score")


def puzzles_of(arm: Writing, seed: int, count: int) -> list[world.Puzzle]:
    """The first `count` puzzles of a seed; arms with the same lengths write about the same ones."""
    if arm.lengths == (world.MIN_STEPS, world.MAX_STEPS):
        return world.draw_puzzles(_FIRST_SEED + seed, count, "train")
    rng = random.Random(f"{arm.lengths} {_FIRST_SEED + seed}")
    puzzles: dict[world.Puzzle, None] = {}
    while len(puzzles) < count:
        puzzle = world.draw_puzzle(rng, rng.randint(*arm.lengths))
        if puzzle.split == "train":
            puzzles[puzzle] = None
    return list(puzzles)


def number_of_puzzles(arm: Writing, config: StudyConfig) -> int:
    """Of a seed."""
    return max(1, round(arm.share * config.train_problems))


def write_traces(arm: Writing, config: StudyConfig, seeds: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Writes the traces of the seeds and returns the results of each."""
    if arm.learner is None:
        return _write(arm, config, seeds)
    results: dict[int, dict[str, Any]] = {}
    learner = arms.learner_of(arm.learner)
    for seed in seeds:  # each has a student of its own
        with claimed(Path(config.output_dir) / "locks", f"{arm.learner}.seed_{seed}", wait=True):
            student = learning.train_student(learner, config, seed)
        results |= _write(arm, config, (seed,), student)
    return results


def _write(
    arm: Writing, config: StudyConfig, seeds: Sequence[int], student: Path | None = None
) -> dict[int, dict[str, Any]]:
    """The traces of seeds in one run, with `student` among the proposers."""
    count = number_of_puzzles(arm, config)
    problems = []
    for seed in seeds:
        rows = [
            world.problem_row(f"s{seed}-{i}", puzzle) for i, puzzle in enumerate(puzzles_of(arm, seed, count))
        ]
        problems += [Problem(row["id"], row["question"], row["answer"]) for row in rows]
    run = config.work / "traces" / f"{arm.name}.{seeds[0]}-{seeds[-1]}"
    steps: dict[str, Any] = (
        {} if arm.settings["method"] != "cord" else {"max_steps": MAX_STEPS, "max_step_tokens": MAX_STEP}
    )
    if arm.settings.get("segmentation") == "prefix":
        steps["max_step_tokens"] = MAX_REASONING
    summary = synthesize(
        SynthesisConfig(
            pool=pool_of(arm, config.work / "members", student),
            problems=problems,
            output_dir=run,
            max_thinking_tokens=MAX_REASONING,
            max_answer_tokens=MAX_RESPONSE,
            mesh="data:-1,model:1",
            grader="exact",
            **({"slots": 32} | steps | dict(arm.settings)),
        )
    )
    traces = {row["id"]: row for row in _read(run / "traces.jsonl")}
    tree: dict[str, list[dict[str, Any]]] = {name: [] for name in traces}
    for row in _read(run / "tree.jsonl"):
        tree[row["problem"]].append(row)
    vocabulary = Vocabulary.load(find(arm.meta_prover, config.work / "members"))
    results = {}
    for seed in seeds:
        names = [f"s{seed}-{i}" for i in range(count)]
        compared = names[: config.train_problems]
        results[seed] = measure_traces(
            arm, [traces[n] for n in compared], [tree[n] for n in compared], vocabulary
        ) | {
            "puzzles": count,
            "right_of_all": sum(bool(traces[name]["correct"]) for name in names),
            "seconds": round(summary["seconds"] / len(seeds), 1),
            "device": summary["device"],
        }
        path = rows_path(arm.name, Path(config.output_dir), seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(row_to_learn(traces[name])) + "\n" for name in names]
        write_atomically(path, gzip.compress("".join(lines).encode(), mtime=0))
    return results


def row_to_learn(trace: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a row of `traces.jsonl` that a student's training reads."""
    steps = [{key: step[key] for key in _OF_STEPS} for step in trace["steps"]]
    return {key: trace[key] for key in _LEARNT} | {"steps": steps}


def measure_traces(
    arm: Writing,
    traces: Sequence[Mapping[str, Any]],
    tree: Sequence[Sequence[Mapping[str, Any]]],
    vocabulary: Vocabulary,
) -> dict[str, Any]:
    """The results of some puzzles: lists of one value a puzzle, in their order, and counts."""
    read = [read_trace(row) for row in traces]
    teachers = list(traces[0]["usage"])
    pairs = [(row["question"], rows) for row, rows in zip(traces, tree, strict=True)]
    mcts = arm.settings.get("decoding") == "mcts"
    results: dict[str, Any] = {
        "right": [int(bool(row["correct"])) for row in traces],
        "implied": [int(trace.implied) for trace in read],
        "predictive_perplexity": [_rounded(row["predictive_perplexity"] or 0.0) for row in traces],
        "steps": [trace.steps for trace in read],
        "status": [row["status"] for row in traces].count("stuck"),
        "wrong_lines": [sum(t.wrong_lines for t in read), sum(t.texts for t in read)],
        "wrong_equations": [sum(t.wrong_equations for t in read), sum(t.equations for t in read)],
        "tokens": count_tokens(traces, tree, vocabulary),
        "share": _shares(traces, teachers),
    }
    if arm.steps:
        results["candidates"] = trees.measure(pairs, trees.right_nodes, "beam" if mcts else "step")
        if not mcts:
            rounds = sum((count_rounds(*pair) for pair in pairs), Rounds())
            results["rounds"] = [rounds.rounds, rounds.present, rounds.kept, rounds.first]
    elif arm.settings["method"] == "curation":
        results["candidates"] = trees.measure(pairs, trees.right_wholes, "step")
        most = int(arm.settings.get("beam_width", 4))
        results["best_of_fewer"] = [sum(row) for row in trees.best_of_fewer(pairs, most)]
        results["alone"] = _alone(pairs, teachers)
        results["similarity"] = trees.similarity(pairs)
    if "decoy_scores" in traces[0]:
        scored = [row for row in traces if row["decoy_scores"]]
        results["decoys"] = {
            "mean": _rounded(np.mean([np.mean(row["decoy_scores"]) for row in scored])),
            "below": sum(max(row["decoy_scores"]) < row["predictive_perplexity"] for row in scored),
            "of": len(scored),
        }
    return results


def count_tokens(
    traces: Sequence[Mapping[str, Any]], tree: Sequence[Sequence[Mapping[str, Any]]], vocabulary: Vocabulary
) -> dict[str, int]:
    """The tokens that networks process beside the prompts.

    `sampled` by the teachers for their proposals and `scored` by the meta-prover are the files' own counts; `read` are the
    steps that the search went on from, once for every teacher, in the meta-prover's tokens.
    """
    usage = [of for row in traces for of in row["usage"].values()]
    parents = [{row["parent"] for row in rows} for rows in tree]
    texts = [row["text"] for rows, used in zip(tree, parents) for row in rows if row["node"] in used]
    read = sum(map(len, vocabulary.encode_batch(texts))) if texts else 0
    return {
        "sampled": sum(of["proposed"] for of in usage),
        "scored": sum(of["scored"] for of in usage),
        "read": read * len(traces[0]["usage"]),
    }


def _alone(
    pairs: Sequence[tuple[str, Sequence[Mapping[str, Any]]]], teachers: Sequence[str]
) -> dict[str, list[int]]:
    """Teacher -> [whole traces that imply the right answer, of how many]."""
    counts = {teacher: [0, 0] for teacher in teachers}
    for question, rows in pairs:
        right = trees.right_wholes(question, rows)
        for row in rows:
            counts[row["teacher"]][0] += right.get(row["node"], False)
            counts[row["teacher"]][1] += 1
    return counts


def _shares(traces: Sequence[Mapping[str, Any]], teachers: Sequence[str]) -> dict[str, dict[str, float]]:
    table = statistics.shares([[step["teacher"] for step in row["steps"]] for row in traces], teachers)
    return {part: {name: _rounded(share) for name, share in of.items()} for part, of in table.items()}


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _rounded(value: float) -> float:
    return round(float(value), 4)
