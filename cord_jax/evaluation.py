"""pass@1 of a model on a problem file: n sampled answers per problem, each graded.

The model writes freely after its prompt (which ends in `<think>`): reasoning, `</think>`, response. What is
graded is the answer that the text after the last `</think>` states, or the whole text's if there is none. The
samples come from the decoder of the search engine, and depend on seed, problem and sample index only.
"""

import itertools
import json
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

import models
from cord_jax import settings, statistics
from cord_jax.config import EvaluationConfig
from cord_jax.engine.generate import SampleSettings, generate
from cord_jax.fingerprints import fingerprint
from cord_jax.grading import Grader, Submission, open_grader, predicted_answer
from cord_jax.mesh import device_name, from_process_0, parse_mesh
from cord_jax.problems import Problem, read_problems
from cord_jax.run_directory import check_run, open_run
from cord_jax.text.prompts import encode_prompts
from cord_jax.text.vocabulary import Vocabulary

SAMPLES = "samples.jsonl"
SUMMARY = "summary.json"
_REPORT_SECONDS = 10.0


def evaluate(config: EvaluationConfig) -> dict[str, Any]:
    """Writes `samples.jsonl` and `summary.json` into the run directory and returns the summary.

    A row of `samples.jsonl`, appended as samples finish: `problem`, `sample` (its index, from 0), `text`,
    `predicted_answer`, `correct`, `tokens` (sampled, EOS included), `ended` (`eos` or `cap`). The summary:
    `pass@1` and its `standard_error` over problems, `problems`, `samples` (per problem), `per_problem` (id ->
    `correct`, `samples`), `ended` counts, `mean_tokens`, `seconds` (of the process that finished the run),
    `device`.

    In a job of several processes all call it; process 0 writes and returns the summary, the others return {}.

    Raises: `UserError` or `models.CheckpointError` for input that cannot be used, before anything is written.
    """
    problems = read_problems(config.problems)[: config.limit or None]
    mesh = parse_mesh(config.mesh)
    run_is: dict[str, Any] = {
        "job": "evaluate",
        "settings": settings.deciding(config),
        "inputs": {"model": fingerprint(config.model), "problems": fingerprint(config.problems)},
    }
    writes = jax.process_index() == 0
    if writes:
        check_run(config.output_dir, **run_is)
    vocabulary = Vocabulary.load(config.model)
    prompts = encode_prompts(vocabulary, None, problems)
    execution = models.execution_of(models.read_config(config.model), mesh, decodes=True)
    length = config.max_tokens + max(map(len, prompts))
    model = models.load(
        config.model,
        mesh,
        stacked=execution.stacked,
        max_length=length,
        outputs_first=execution.outputs_first,
    )
    if not writes:
        for _ in _generate(
            config, problems, prompts, from_process_0(np.zeros(len(problems), bool)), vocabulary, model, mesh
        ):
            pass
        return {}
    with (
        open_run(config.output_dir, **run_is, environment=settings.free(config)) as run,
        open_grader(config.grader) as grader,
    ):
        file = run.json_lines(SAMPLES)
        rows = file.read()
        done = {(row["problem"], row["sample"]) for row in rows}
        pending = np.array(
            [
                any((problem.id, sample) not in done for sample in range(config.samples))
                for problem in problems
            ]
        )
        start = reported = time.monotonic()
        generated = _generate(config, problems, prompts, from_process_0(pending), vocabulary, model, mesh)
        for index, group in itertools.groupby(generated, key=lambda item: item[0]):
            # An interruption may leave a problem half written; its samples are then drawn again, alike.
            new = [item for item in group if (problems[index].id, item[1]) not in done]
            graded = _grade(problems[index], new, vocabulary, grader)
            file.append(*graded)
            rows += graded
            if time.monotonic() - reported > _REPORT_SECONDS:
                reported = time.monotonic()
                run.log(
                    f"evaluate: {len(rows)} of {len(problems) * config.samples} samples, "
                    f"{np.mean([row['correct'] for row in rows]):.1%} of them correct"
                )
        if not pending.any() and (run.path / SUMMARY).exists():
            return json.loads((run.path / SUMMARY).read_text())
        summary = summarize(rows, [problem.id for problem in problems], config.samples)
        summary |= {"seconds": round(time.monotonic() - start, 1), "device": device_name(mesh)}
        run.write_json(SUMMARY, summary)
        return summary


def summarize(rows: Sequence[Mapping[str, Any]], problems: Sequence[str], samples: int) -> dict[str, Any]:
    """The part of the summary that follows from the rows of `samples.jsonl`; see `evaluate`."""
    by_problem: dict[str, list[bool]] = {problem: [] for problem in problems}
    for row in rows:
        by_problem[row["problem"]].append(row["correct"])
    pass_at_1 = statistics.pass_at_1(by_problem)
    ended = Counter(row["ended"] for row in rows)
    return {
        "pass@1": round(pass_at_1.mean, 6),
        "standard_error": None
        if math.isnan(pass_at_1.standard_error)
        else round(pass_at_1.standard_error, 6),
        "problems": pass_at_1.count,
        "samples": samples,
        "per_problem": {
            problem: {"correct": sum(correct), "samples": len(correct)}
            for problem, correct in by_problem.items()
        },
        "ended": {name: ended[name] for name in ("eos", "cap")},
        "mean_tokens": round(sum(row["tokens"] for row in rows) / len(rows), 1),
    }


def _generate(
    config: EvaluationConfig,
    problems: Sequence[Problem],
    prompts: Sequence[list[int]],
    pending: np.ndarray,
    vocabulary: Vocabulary,
    model: models.Decoder,
    mesh: Mesh,
) -> Iterator[tuple[int, int, Sequence[int], str]]:
    """(problem index, sample, ids, ended) of all samples of the problems where `pending` (bool) is set."""
    chosen = np.flatnonzero(pending).tolist()
    if chosen:
        settings = SampleSettings(
            samples=config.samples,
            temperature=config.temperature,
            top_k=config.top_k,
            top_p=config.top_p,
            max_tokens=config.max_tokens,
            seed=config.seed,
            slots=config.slots,
        )
        given, keys = [prompts[i] for i in chosen], [problems[i].id for i in chosen]
        for index, sample, ids, ended in generate(model, vocabulary, given, keys, settings, mesh):
            yield chosen[index], sample, ids, ended


def _grade(
    problem: Problem,
    generated: Sequence[tuple[int, int, Sequence[int], str]],
    vocabulary: Vocabulary,
    grader: Grader,
) -> list[dict[str, Any]]:
    """Rows of `samples.jsonl` for samples of one problem, as `_generate` gives them."""
    texts = [vocabulary.text(ids[:-1] if ended == "eos" else ids) for _, _, ids, ended in generated]
    answers = [predicted_answer(text.rpartition("</think>")[2]) for text in texts]
    correct = grader.grade_responses(
        [Submission(problem, text, answer) for text, answer in zip(texts, answers, strict=True)]
    )
    return [
        {
            "problem": problem.id,
            "sample": sample,
            "text": text,
            "predicted_answer": answer,
            "correct": right,
            "tokens": len(ids),
            "ended": ended,
        }
        for (_, sample, ids, ended), text, answer, right in zip(
            generated, texts, answers, correct, strict=True
        )
    ]
