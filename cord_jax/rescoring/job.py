"""The job behind `launch.rescore`: a finished run and a question in; `scores.jsonl`, `winners.jsonl`, `summary.json` out."""

import contextlib
import dataclasses
import functools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cord_jax import settings as settings_of
from cord_jax.errors import UserError
from cord_jax.files import read_object
from cord_jax.fingerprints import fingerprint
from cord_jax.json_lines import read_lines
from cord_jax.pool import PoolSpec, described, read_pool
from cord_jax.rescoring import shares
from cord_jax.rescoring.config import RescoringConfig
from cord_jax.rescoring.correlation import rank_correlations
from cord_jax.rescoring.question import Question, ask
from cord_jax.rescoring.recorded_run import read_run
from cord_jax.rescoring.rules import Found
from cord_jax.run_directory import RunDirectory, check_run, open_run
from cord_jax.traces import SUMMARY, TRACES, TREE, decimal

SCORES, WINNERS = "scores.jsonl", "winners.jsonl"
_VOCABULARY = "tokenizer.json"

# New scores of a problem's candidates, and the meta-prover's tokens of the reasoning up to them, by node.
NewScores = tuple[str, Mapping[int, float], Mapping[int, int]]


def rescore(config: RescoringConfig) -> dict[str, Any]:
    """Asks a run what it would have chosen, and returns the summary.

    Models are loaded only where another meta-prover or selector is asked for, and that selector is not `random`.

    Raises: `UserError` or `models.CheckpointError` for input that cannot be used, before anything is written.
    """
    started = time.monotonic()
    run = read_run(Path(config.run))
    question = ask(config, run)
    spec = _pool(config, question) if question.anew else None
    run_is = _describe(config, question, spec)
    check_run(config.output_dir, **run_is)
    output_dir = Path(config.output_dir)
    if (output_dir / SUMMARY).exists():
        return read_object(output_dir / SUMMARY)
    if spec is not None:
        question = _with_meta_prover(question, spec, run_is["inputs"]["meta_prover"])
    done = (
        {row["problem"] for row in read_lines(output_dir / WINNERS)}
        if (output_dir / WINNERS).exists()
        else set()
    )
    pending = [problem for problem in run.traces if problem not in done]
    with contextlib.ExitStack() as stack:
        score = _scoring(question, spec, pending, stack)
        output = stack.enter_context(open_run(output_dir, **run_is, environment=settings_of.free(config)))
        if not run.finished:
            output.log(f"{run.path}: the run is not finished; its {len(run.traces)} traces so far are used")
        _write(output, question, score(output.log))
        summary = _summarize(output, question) | {"seconds": round(time.monotonic() - started, 1)}
        output.write_json(SUMMARY, summary)
        return summary


def _scoring(
    question: Question, spec: PoolSpec | None, pending: Sequence[str], stack: contextlib.ExitStack
) -> Callable[[Callable[[str], None]], Iterator[NewScores]]:
    """A function that scores the problems that are pending and logs how it goes; what it needs is loaded at once, if it is
    anything.
    """
    run = question.run
    if spec is None or not pending:
        return lambda log: (_known_scores(question, problem) for problem in pending)
    from cord_jax.rescoring.scoring import open_scoring

    scoring = open_scoring(question.config, spec, run.problems, run.trees, run.teachers)
    return functools.partial(stack.enter_context(scoring), pending)


def _known_scores(question: Question, problem: str) -> NewScores:
    candidates, run = question.run.trees[problem], question.run
    valid = [c for c in candidates if c.dropped is None]
    if not question.drawn or run.config.selector == "random":
        return problem, {c.node: c.score for c in valid if c.score is not None}, {}
    draw_sbk = question.draws(problem, len(run.teachers))
    return problem, {c.node: draw_sbk[c.step - 1, c.beam, run.teachers.index(c.teacher)] for c in valid}, {}


def _write(output: RunDirectory, question: Question, new_scores: Iterator[NewScores]) -> None:
    """Writes the scores of each problem, then its winner."""
    scores, winners = output.json_lines(SCORES), output.json_lines(WINNERS)
    done = {row["problem"] for row in winners.read({"problem": str})}
    held = scores.read({"problem": str})
    whole = [row for row in held if row["problem"] in done]
    if len(whole) < len(held):  # of a problem at which an earlier run was cut off
        scores.rewrite(whole)
    for problem, new, thinking in new_scores:
        rows = [
            {
                "problem": problem,
                "node": c.node,
                "step": c.step,
                "beam": c.beam,
                "teacher": c.teacher,
                "old_score": decimal(c.score),
                "new_score": decimal(new.get(c.node)),
                "thinking_tokens": thinking.get(c.node),
            }
            for c in question.run.trees[problem]
        ]
        scores.append(*rows)
        winners.append(question.winner(problem, rows))


def _summarize(output: RunDirectory, question: Question) -> dict[str, Any]:
    """The summary of what has been written."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in output.json_lines(SCORES).read():
        rows.setdefault(row["problem"], []).append(row)
    winners = output.json_lines(WINNERS).read()
    covered = [row for row in winners if row["covered"]]
    known = [row["correct"] for row in covered if row["correct"] is not None]
    pairs = [
        (row["problem"], row["step"], row["old_score"], row["new_score"])
        for of_problem in rows.values()
        for row in of_problem
        if row["old_score"] is not None and row["new_score"] is not None
    ]
    summary: dict[str, Any] = {
        "problems": len(winners),
        "covered": len(covered),
        "exact": sum(row["exact"] for row in winners),
        "same_winner": sum(row["same"] for row in covered),
        "not_covered": {row["problem"]: row["why"] for row in winners if not row["covered"]},
        "old_winners": _means(covered, old="old_score", new="old_node_new_score"),
        "new_winners": _means(covered, old="new_node_old_score", new="new_score"),
        "correct_known": len(known),
        "correct": sum(known),
        "rank_correlation": rank_correlations(pairs) if question.anew or question.drawn else None,
        "credit": None,
        "without": None,
        "shapley": None,
    }
    teachers = question.teachers
    if not 1 < len(teachers) <= shares.MOST_TEACHERS:
        return summary
    summary["credit"] = shares.credit(teachers, [question.endings(p, of_one) for p, of_one in rows.items()])
    if question.searched is None:
        searches = {problem: _search(question, problem, of_one) for problem, of_one in rows.items()}
        correct = {row["problem"]: row["correct"] for row in winners}
        asked = [(search, correct[problem]) for problem, search in searches.items()]
        summary["without"] = shares.leave_one_out(teachers, asked)
        summary["shapley"] = shares.shapley_shares(teachers, list(searches.values()))
    return summary


def _search(question: Question, problem: str, rows: Sequence[Mapping[str, Any]]) -> shares.Search:
    """The search of a problem by groups of teachers; each is made once."""

    @functools.cache
    def search(teachers: tuple[str, ...]) -> Found:
        return question.find(problem, rows, teachers)

    return search


def _means(winners: Sequence[Mapping[str, Any]], **names: str) -> dict[str, float | None]:
    """The means of old and new scores of winners, one that has none counting 0."""
    return {
        f"mean_{which}_score": round(sum(row[name] or 0.0 for row in winners) / len(winners), 6)
        if winners
        else None
        for which, name in names.items()
    }


def _pool(config: RescoringConfig, question: Question) -> PoolSpec:
    """The pool whose models score. Raises: `UserError` if the run's own is needed and has changed."""
    run, selector = question.run, question.config.selector
    if config.pool is not None:
        spec = read_pool(config.pool)
    else:
        path = Path(str(run.config.pool))
        if not path.is_file():
            raise UserError(
                f"--selector={selector} needs a meta-prover, and the run's own pool ({path}) is not there; give --pool"
            )
        spec = read_pool(path)
        if _as_json(described(spec.meta_prover)) != run.described["settings"]["meta_prover"]:
            raise UserError(
                f"--selector={selector}: {path} has another meta-prover than the run's; give --pool"
            )
    if selector == "process_reward" and spec.reward_model is None:
        raise UserError(
            f"--selector={selector} needs a reward model; name one in a [reward_model] table of the pool"
        )
    return spec


def _describe(config: RescoringConfig, question: Question, spec: PoolSpec | None) -> dict[str, Any]:
    """Describes what makes the output what it is."""
    inputs: dict[str, Any] = {name: fingerprint(Path(config.run) / name) for name in (TRACES, TREE)}
    settings = settings_of.deciding(config) | {"run": question.run.described["settings"]}
    if spec is not None:
        settings["meta_prover"] = described(spec.meta_prover)
        inputs["meta_prover"] = fingerprint(spec.meta_prover.checkpoint)
        if question.config.selector == "process_reward" and spec.reward_model is not None:
            settings["reward_model"] = described(spec.reward_model)
            inputs["reward_model"] = fingerprint(spec.reward_model.checkpoint)
    return {"job": "rescore", "settings": settings, "inputs": inputs}


def _with_meta_prover(question: Question, spec: PoolSpec, meta_prover: Mapping[str, Any]) -> Question:
    """The question with what matters of the meta-prover that scores anew.

    Args:
      meta_prover: the fingerprint of its checkpoint. Whether the run's had the same vocabulary, its `config.json` says.
    """
    described_run = question.run.described
    name = described_run["settings"]["meta_prover"]["checkpoint"]
    recorded = [prints for of, prints in described_run["inputs"].items() if of.endswith(f"({name})")]
    same = recorded and all(prints.get(_VOCABULARY) == meta_prover.get(_VOCABULARY) for prints in recorded)
    return dataclasses.replace(
        question, judge_temperature=spec.meta_prover.temperature, another_vocabulary=not same
    )


def _as_json(values: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(values, default=str))
