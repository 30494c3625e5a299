"""pass@1 of a model on a problem file: n sampled answers per problem, each graded.

The model writes freely after its prompt (which ends in `<think>`): reasoning, `</think>`, response. What is
graded is the answer that the text after the last `</think>` states; a sample without one is unanswered. The
samples come from the decoder of the search engine, and depend on seed, problem and sample index only.
"""

import contextlib
import itertools
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

import models
from cord_jax import interruption, settings, statistics
from cord_jax.advice import advice_on_samples
from cord_jax.config import EvaluationConfig
from cord_jax.engine.generate import SampleSettings, generate
from cord_jax.engine.limits import check_length
from cord_jax.engine.overflow import refuse_overflow
from cord_jax.files import read_object
from cord_jax.fingerprints import fingerprint
from cord_jax.grading import (
    Grader,
    Submission,
    check_judge,
    grader_options,
    open_grader,
    predicted_answer,
)
from cord_jax.grading.agreement import same
from cord_jax.growth import identity_in, note_growth
from cord_jax.json_lines import read_lines
from cord_jax.mesh import device_name, from_process_0, parse_mesh
from cord_jax.problems import Problem, read_problems
from cord_jax.progress import Progress, announced
from cord_jax.run_directory import check_run, open_run
from cord_jax.text.prompt_settings import choose, read_prompt_file
from cord_jax.text.prompts import THINK_END, encode_prompts
from cord_jax.text.vocabulary import Vocabulary

SAMPLES = "samples.jsonl"
SUMMARY = "summary.json"
# Fields of a row that later rows and the summary are computed from.
_NEEDS = {"problem": str, "sample": int, "text": str, "correct": bool, "tokens": int, "thinking_tokens": int}
_NEEDS |= {"answer_tokens": int, "thought_closed": bool, "ended": str}
_KEY = ("problem", "sample")


@interruption.handled()
def evaluate(config: EvaluationConfig) -> dict[str, Any]:
    """Writes `samples.jsonl` and `summary.json` into the run directory and returns the summary.

    A row of `samples.jsonl`, appended as samples finish: `problem`, `sample` (its index, from 0), `text`,
    `predicted_answer`, `correct`, `tokens` (sampled, EOS included) and how many of them are `thinking_tokens` (up to
    `</think>`) and `answer_tokens`, `thought_closed`, `ended` (`eos` or `cap`). The summary: `pass@1` and its
    `standard_error` over problems, `pass@k` for powers of two (`statistics.pass_at_k`) and `maj@n`
    (`majority_is_right`), `problems`, `samples` (per problem), `per_problem` (id -> `correct`, `samples`), `ended`
    counts, `unclosed_thoughts` (share of the samples), means of the three token counts, `seconds` (of the process that
    finished the run), `device`.

    In a job of several processes all call it; process 0 writes and returns the summary, the others return {}.

    Raises: `UserError` or `models.CheckpointError` for input that cannot be used, before anything is written.
    """
    asked, config = config, config.resolved
    problems = read_problems(config.problems, columns=config.columns, split=config.split)
    problems = problems[: config.limit or None]
    check_judge(config.judge)
    mesh = parse_mesh(config.mesh)
    prompt = choose(
        read_prompt_file(config.model),
        config.system_prompt,
        config.user_prompt,
        config.template_arguments,
    )
    run_is: dict[str, Any] = {
        "job": "evaluate",
        "settings": settings.deciding(config) | prompt.to_row(),
        "inputs": {
            "model": fingerprint(config.model),
            "problems": identity_in(
                config.output_dir,
                problems,
                may_grow=not models.read_config(config.model).rope.depends_on_length,
            ),
        }
        | ({} if config.judge is None else {"judge": fingerprint(config.judge)}),
    }
    writes = jax.process_index() == 0
    if writes:
        check_run(config.output_dir, **run_is)
    vocabulary = Vocabulary.load(config.model)
    flag = None if asked.max_tokens is None else "--max_tokens"
    check_length(config.model, vocabulary, prompt, problems, config.max_tokens, flag)
    prompts = encode_prompts(vocabulary, prompt, problems)
    model_config = models.read_config(config.model)
    vocabulary.defined(model_config.vocab_size)  # told before the weights are read
    execution = models.execution_of(model_config, mesh, decodes=True)
    length = config.max_tokens + max(map(len, prompts))
    with announced(f"evaluate: loading {config.model}"):
        model = models.load(
            config.model,
            mesh,
            stacked=execution.stacked,
            max_length=length,
            outputs_first=execution.outputs_first,
        )
    refuse_overflow(model, mesh, prompts[0], config.model)
    options = grader_options(config.judge, mesh)
    pending = from_process_0(
        _pending(config, problems, Path(config.output_dir) / SAMPLES if writes else None)
    )
    if not writes:
        generated = _generate(config, problems, prompts, pending, vocabulary, model, mesh)
        if config.judge is None:
            deque(generated, maxlen=0)
        else:  # a judge lies on the devices of all processes
            with open_grader(config.grader, **options) as grader:
                for index, group in itertools.groupby(generated, key=lambda item: item[0]):
                    _grade(problems[index], list(group), vocabulary, grader)
        return {}

    def look() -> None:
        report.tell(lambda: _line(rows, len(problems) * config.samples))
        if jax.process_count() == 1:
            interruption.look()

    with open_grader(config.grader, **options) as grader, contextlib.ExitStack() as stack:
        # What does not fit is refused now; samples are drawn when they are asked for.
        generated = _generate(config, problems, prompts, pending, vocabulary, model, mesh, look)
        run = stack.enter_context(open_run(config.output_dir, **run_is, environment=settings.free(config)))
        note_growth(run, problems)
        file = run.json_lines(SAMPLES)
        rows = file.read(_NEEDS, once=_KEY)
        done = {(row["problem"], row["sample"]) for row in rows}
        start = time.monotonic()
        report = Progress(run.log)
        if pending.any():
            report.log(
                f"evaluate: compiling; {len(rows)} of {len(problems) * config.samples} samples are there"
            )
        for index, group in itertools.groupby(generated, key=lambda item: item[0]):
            # An interruption may leave a problem half written; its samples are then drawn again, alike.
            graded = _grade(problems[index], list(group), vocabulary, grader)
            graded = [row for row in graded if (row["problem"], row["sample"]) not in done]
            file.append(*graded)
            rows += graded
        report.clear()
        if not pending.any() and (run.path / SUMMARY).exists():
            return read_object(run.path / SUMMARY)
        summary = summarize(rows, [problem.id for problem in problems], config.samples)
        summary |= {"seconds": round(time.monotonic() - start, 1), "device": device_name(mesh)}
        summary["advice"] = advice_on_samples(rows)
        run.write_json(SUMMARY, summary)
        return summary


def summarize(rows: Sequence[Mapping[str, Any]], problems: Sequence[str], samples: int) -> dict[str, Any]:
    """The part of the summary that follows from the rows of `samples.jsonl`; see `evaluate`."""
    by_problem: dict[str, list[Mapping[str, Any]]] = {problem: [] for problem in problems}
    for row in sorted(rows, key=lambda row: row["sample"]):
        by_problem[row["problem"]].append(row)
    correct = {problem: [row["correct"] for row in of] for problem, of in by_problem.items()}
    pass_at_1 = statistics.pass_at_1(correct)
    chances = {2**i: statistics.pass_at_k(correct, 2**i) for i in range(1, samples.bit_length())}
    ended = Counter(row["ended"] for row in rows)
    return {
        "pass@1": round(pass_at_1.mean, 6),
        "standard_error": None
        if math.isnan(pass_at_1.standard_error)
        else round(pass_at_1.standard_error, 6),
        **{f"pass@{k}": round(chance.mean, 6) for k, chance in chances.items()},
        f"maj@{samples}": round(float(np.mean([majority_is_right(of) for of in by_problem.values()])), 6),
        "problems": pass_at_1.count,
        "samples": samples,
        "per_problem": {
            problem: {"correct": sum(right), "samples": len(right)} for problem, right in correct.items()
        },
        "ended": {name: ended[name] for name in ("eos", "cap")},
        "unclosed_thoughts": round(float(np.mean([not row["thought_closed"] for row in rows])), 6),
        **{
            f"mean_{name}": round(sum(row[name] for row in rows) / len(rows), 1)
            for name in ("tokens", "thinking_tokens", "answer_tokens")
        },
    }


def majority_is_right(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the answer that most of a problem's samples give is right.

    Answers count as one where `agreement.same` tells without mathematics that they agree; of two that are given equally
    often the one given first counts. Samples without an answer have no vote.
    """
    first_rows: list[Mapping[str, Any]] = []
    votes: list[int] = []
    for row in rows:
        answer = row["predicted_answer"]
        if answer is None:
            continue
        for i, other in enumerate(first_rows):
            if same(answer, other["predicted_answer"], _no_mathematics):
                votes[i] += 1
                break
        else:
            first_rows.append(row)
            votes.append(1)
    return bool(votes) and first_rows[votes.index(max(votes))]["correct"]


def _no_mathematics(answer: str, other: str, places: int | None) -> bool:
    return False


def _pending(config: EvaluationConfig, problems: Sequence[Problem], samples: Path | None) -> np.ndarray:
    """bool [problems]: those of which a sample is missing in a file, which need not be there."""
    rows = read_lines(samples, _NEEDS) if samples is not None and samples.exists() else ()
    done = {(row["problem"], row["sample"]) for row in rows}
    return np.array(
        [any((problem.id, sample) not in done for sample in range(config.samples)) for problem in problems]
    )


def _generate(
    config: EvaluationConfig,
    problems: Sequence[Problem],
    prompts: Sequence[list[int]],
    pending: np.ndarray,
    vocabulary: Vocabulary,
    model: models.Decoder,
    mesh: Mesh,
    on_look: Callable[[], None] = lambda: None,
) -> Iterator[tuple[int, int, Sequence[int], str]]:
    """(problem index, sample, ids, ended) of all samples of the problems where `pending` (bool) is set.

    Raises: `UserError` if there is no room for them; at once.
    """
    chosen = np.flatnonzero(pending).tolist()
    if not chosen:
        return iter(())
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
    generated = generate(model, vocabulary, given, keys, settings, mesh, on_look)
    return ((chosen[index], sample, ids, ended) for index, sample, ids, ended in generated)


def _line(rows: Sequence[Mapping[str, Any]], total: int) -> str:
    """How an evaluation stands."""
    right = f", {np.mean([row['correct'] for row in rows]):.1%} of them correct" if rows else ""
    return f"evaluate: {len(rows)} of {total} samples{right}"


def _grade(
    problem: Problem,
    generated: Sequence[tuple[int, int, Sequence[int], str]],
    vocabulary: Vocabulary,
    grader: Grader,
) -> list[dict[str, Any]]:
    """Rows of `samples.jsonl` for samples of one problem, as `_generate` gives them."""
    texts = [vocabulary.text(ids[:-1] if ended == "eos" else ids) for _, _, ids, ended in generated]
    thinking = [_thinking_tokens(ids, vocabulary) for _, _, ids, _ in generated]
    responses = [text.rpartition(THINK_END)[2] for text in texts]
    # A thought that was never closed has no response.
    answers = [
        None if tokens is None else predicted_answer(response)
        for response, tokens in zip(responses, thinking, strict=True)
    ]
    correct = grader.grade_responses(
        [Submission(problem, *graded) for graded in zip(responses, answers, strict=True)]
    )
    return [
        {
            "problem": problem.id,
            "sample": sample,
            "text": text,
            "predicted_answer": answer,
            "correct": right,
            "tokens": len(ids),
            "thinking_tokens": len(ids) if tokens is None else tokens,
            "answer_tokens": 0 if tokens is None else len(ids) - tokens,
            "thought_closed": tokens is not None,
            "ended": ended,
        }
        for (_, sample, ids, ended), text, tokens, answer, right in zip(
            generated, texts, thinking, answers, correct, strict=True
        )
    ]


def _thinking_tokens(ids: Sequence[int], vocabulary: Vocabulary) -> int | None:
    """The tokens up to the last `</think>`, with the one that completes it; None if there is none."""
    lengths = np.cumsum([len(vocabulary.token_bytes[i]) for i in ids])
    start = vocabulary.join(ids).rfind(THINK_END.encode())
    return None if start < 0 else int(np.searchsorted(lengths, start + len(THINK_END))) + 1
