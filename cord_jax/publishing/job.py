"""The job of publishing: finished runs in, a directory of Parquet files with a card out."""

import dataclasses
import itertools
import json
import math
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from cord_jax import settings, statistics
from cord_jax.errors import UserError
from cord_jax.fingerprints import fingerprint
from cord_jax.preferences import pairs_of
from cord_jax.problem_files import fingerprint_of
from cord_jax.problems import read_problems
from cord_jax.publishing.config import PublishConfig
from cord_jax.publishing.decontamination import Overlap, Questions, words_of
from cord_jax.publishing.runs import Runs, read_runs
from cord_jax.run_directory import CONFIG, check_run
from cord_jax.storage import rename_whole, stored
from cord_jax.traces import SUMMARY, TRACES, TREE, Trace, summarize

CARD = "README.md"
REMOVED = "removed.jsonl"
# Least difference of the scores of a pair, as launch.preferences has it.
MARGIN = 0.1
_ROWS_OF_A_GROUP = 1000
_MANY = 10


def publish(config: PublishConfig) -> dict[str, Any]:
    """Makes the directory of a data set, all of it or nothing, and returns its summary.

    The same runs and settings give the same bytes. A directory that holds this very data set is left as it is.

    Returns: `rows`, of each split by data set; `removed`, problems left out; `figures`, as in the `summary.json` of a run,
      of what is published; and what the card tells of runs, shards and files.

    Raises: `UserError` for what cannot be published, before anything is written.
    """
    _need_datasets()
    runs = read_runs(config.runs)
    _check_teachers(config, runs)
    published_is = _describe(config, runs)
    output_dir = Path(config.output_dir).resolve()
    check_run(config.output_dir, **published_is)
    if (output_dir / CARD).exists():
        return json.loads((output_dir / SUMMARY).read_text(encoding="utf-8"))
    removed = _overlaps(config, runs)
    kept = [problem for problem in runs.traces if problem not in removed]
    if not kept:
        raise UserError(
            "--decontaminate: every problem is one of the files given; nothing is left to publish"
        )
    from cord_jax.publishing.card import write_card

    making = output_dir.with_name(f".{output_dir.name}.tmp")
    shutil.rmtree(making, ignore_errors=True)  # of an attempt that was cut off
    try:
        with stored(output_dir):
            making.mkdir(parents=True)
            rows = _write_data(making, runs, kept)
            summary = _summary(config, runs, kept, list(removed.values()), rows)
            if config.test_files:
                lines = (dataclasses.asdict(overlap) for overlap in removed.values())
                (making / REMOVED).write_bytes(b"".join(_encoded(line) + b"\n" for line in lines))
            described = published_is | {"environment": {}, "packages": {}}
            for name, value in ((SUMMARY, summary), (CONFIG, described)):
                (making / name).write_bytes(_encoded(value, indent=2) + b"\n")
            write_card(making / CARD, config, runs, summary, runs.trace(kept[0]))
            _move(making, output_dir)
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise
    return summary


def _need_datasets() -> None:
    try:
        import datasets  # noqa: F401
    except ImportError:
        raise UserError(
            "launch.publish needs the package datasets; install it: python -m pip install datasets"
        ) from None


def _check_teachers(config: PublishConfig, runs: Runs) -> None:
    for teacher in config.licences:
        if teacher not in runs.teachers:
            raise UserError(
                f"--teacher_licenses: there is no teacher {teacher}; the run has {', '.join(runs.teachers)}"
            )


def _describe(config: PublishConfig, runs: Runs) -> dict[str, Any]:
    """What makes the data set this one: a directory that holds another is refused."""
    inputs: dict[str, Any] = {
        f"run {number}": {name: fingerprint(directory / name) for name in (CONFIG, TRACES, TREE)}
        for number, directory in enumerate(runs.directories, start=1)
    }
    inputs |= {f"against {path.name}": fingerprint_of(path, config.split) for path in config.test_files}
    return {"job": "publish", "settings": settings.deciding(config), "inputs": inputs}


def _overlaps(config: PublishConfig, runs: Runs) -> dict[str, Overlap]:
    """Problem id -> its overlap with the files of `--decontaminate`, for those that have one."""
    if not config.test_files:
        return {}
    questions = Questions(
        (path.name, read_problems(path, answers_needed=False, columns=config.columns, split=config.split))
        for path in config.test_files
    )
    traces = map(runs.trace, runs.traces)
    words = ((trace.id, words_of(trace.question, trace.extra.get("context"))) for trace in traces)
    found, most = questions.overlaps(words, config.common_words)
    if most > _MANY and not config.common_words:
        print(
            f"publish: 13 words of {config.decontaminate} stand in {most} problems, which are left out; if they are a turn of "
            f"phrase, --common_words={_MANY} lets them pass",
            file=sys.stderr,
        )
    return {problem: found[problem] for problem in runs.traces if problem in found}


def _write_data(directory: Path, runs: Runs, kept: list[str]) -> dict[str, dict[str, int]]:
    """Writes all Parquet files and returns the rows of each split by data set; no file is made without rows."""
    from cord_jax.publishing import features
    from cord_jax.publishing.card import FILES

    def traces(right: bool) -> Iterator[dict[str, Any]]:
        for trace in map(runs.trace, kept):
            if (trace.correct is True) is right:
                yield features.trace_row(trace)

    def pairs() -> Iterator[dict[str, Any]]:
        for problem in kept:
            question = runs.trace(problem).messages[0]["content"]
            rows = (candidate.to_row() for candidate in runs.tree(problem))
            yield from map(features.pair_row, pairs_of(rows, {problem: question}, MARGIN))

    sources = {
        ("default", "train"): (features.TRACES, traces(True)),
        ("default", "other"): (features.TRACES, traces(False)),
        ("tree", "train"): (
            features.TREE,
            (features.tree_row(c) for problem in kept for c in runs.tree(problem)),
        ),
        ("pairs", "train"): (features.PAIRS, pairs()),
    }
    counts: dict[str, dict[str, int]] = {}
    for (name, split), (columns, rows) in sources.items():
        count = _write_parquet(directory / FILES[name][split], columns, rows)
        if count:  # datasets cannot load a file without rows
            counts.setdefault(name, {})[split] = count
    return counts


def _write_parquet(path: Path, columns: Any, rows: Iterable[dict[str, Any]]) -> int:
    """Writes rows with declared columns in groups, and returns how many there are."""
    import pyarrow
    from pyarrow import parquet

    count, rows = 0, iter(rows)
    first = list(itertools.islice(rows, _ROWS_OF_A_GROUP))
    if not first:
        return 0
    path.parent.mkdir(exist_ok=True)
    schema = columns.arrow_schema
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        while first:
            try:
                table = pyarrow.Table.from_pylist(first, schema=schema)
            except pyarrow.ArrowException as error:
                raise UserError(
                    f"a row does not fit the columns of {path.parent.name}: {error}; make the run again"
                ) from None
            writer.write_table(table)
            count += len(first)
            first = list(itertools.islice(rows, _ROWS_OF_A_GROUP))
    return count


def _summary(
    config: PublishConfig,
    runs: Runs,
    kept: list[str],
    removed: list[Overlap],
    rows: dict[str, dict[str, int]],
) -> dict[str, Any]:
    traces = [_without_texts(runs.trace(problem)) for problem in kept]
    figures = summarize(traces, runs.teachers, seconds=runs.seconds, device=", ".join(runs.devices))
    decoys = [trace.decoy_scores for trace in traces if trace.decoy_scores]
    figures |= {"decoys": max(map(len, decoys), default=0)}
    figures |= _estimated(
        "predictive_perplexity", [t.predictive_perplexity or 0.0 for t in traces if t.answer is not None]
    )
    figures |= _estimated("decoy_scores", [sum(scores) / len(scores) for scores in decoys])
    return {
        "rows": rows,
        "removed": {
            "question": sum(overlap.reason == "question" for overlap in removed),
            "13-gram": sum(overlap.reason != "question" for overlap in removed),
            "against": [path.name for path in config.test_files],
            "common_words": config.common_words,
        },
        "runs": len(runs.directories),
        "shards": list(runs.shards),
        "without_gold_answer": sum(trace.answer is None for trace in traces),
        "margin": MARGIN,
        "figures": figures,
    }


def _estimated(name: str, values: list[float]) -> dict[str, float | None]:
    """A mean over problems and its standard error, under the names of a summary."""
    found = statistics.estimate(values)
    pairs = ((name, found.mean), (f"{name}_standard_error", found.standard_error))
    return {name: None if math.isnan(value) else round(value, 6) for name, value in pairs}


def _without_texts(trace: Trace) -> Trace:
    """A trace for counting, which takes little memory."""
    steps = tuple(dataclasses.replace(step, text="") for step in trace.steps)
    response = None if trace.response is None else ""  # whether there is one decides who has stated no answer
    return dataclasses.replace(trace, question="", reasoning="", response=response, steps=steps, extra={})


def _encoded(value: Any, indent: int | None = None) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent).encode()


def _move(making: Path, output_dir: Path) -> None:
    """Gives a finished directory its name."""
    if output_dir.is_dir():  # empty, or with what a run leaves that never began
        shutil.rmtree(output_dir)
    rename_whole(making, output_dir)
