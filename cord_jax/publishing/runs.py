"""Finished runs of `launch.synthesize`, several as one: rows are found by their problem and read when they are needed."""

import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cord_jax.config import parse_shard
from cord_jax.errors import UserError
from cord_jax.files import parse_row, read_object
from cord_jax.run_directory import read_run_config
from cord_jax.traces import PROMPTS, SUMMARY, TRACES, TREE, Candidate, Trace

# Settings and inputs that say which problems a run took, not how it wrote their traces.
OF_PROBLEMS = ("limit", "shard", "columns", "split", "problems", "decoys from")
WHOLE = "1/1"
_SHOWN = 40


@dataclasses.dataclass(frozen=True)
class Place:
    """A file's bytes from `start` to `end`, which hold whole lines."""

    path: Path
    start: int
    end: int

    def rows(self) -> Iterator[dict[str, Any]]:
        """The JSON objects of these lines."""
        with open(self.path, "rb") as file:
            file.seek(self.start)
            for line in file.read(self.end - self.start).splitlines():
                yield parse_row(line)


@dataclasses.dataclass(frozen=True)
class Runs:
    """One or more finished runs with the same settings.

    Attributes:
      directories: as they were given.
      config: of the first.
      shards: the part of the problem file that each took, as `3/16`.
      seconds: of all together.
      devices: in words, none twice.
      teachers: the writers' names, in the pool's order.
      prompts: what `launch.synthesize` keeps of the first problem's prompts, or nothing.
      traces, trees: problem id -> where its rows are, in the order of the ids.
    """

    directories: tuple[Path, ...]
    config: Mapping[str, Any]
    shards: tuple[str, ...]
    seconds: float
    devices: tuple[str, ...]
    teachers: tuple[str, ...]
    prompts: Mapping[str, Any]
    traces: Mapping[str, Place]
    trees: Mapping[str, Place]

    def trace(self, problem: str) -> Trace:
        """A problem's trace. Raises: `UserError` for one of another version of the program."""
        place = self.traces[problem]
        try:
            (row,) = place.rows()
            return Trace.from_row(row)
        except (KeyError, TypeError) as error:
            raise _another_version(place.path, problem, error) from None

    def tree(self, problem: str) -> list[Candidate]:
        """A problem's candidates, in the order of their numbers. Raises: `UserError` as `trace` does."""
        place = self.trees.get(problem)
        try:
            tree = [] if place is None else [Candidate.from_row(row) for row in place.rows()]
            numbers = [candidate.node for candidate in tree]
            in_order = all(one < next_one for one, next_one in itertools.pairwise(numbers))
        except TypeError as error:
            raise _another_version(self.trees[problem].path, problem, error) from None
        if not in_order:
            raise UserError(
                f'{self.trees[problem].path}: the rows of "{problem}" do not follow one another; the file is damaged'
            )
        return tree


def read_runs(directories: Sequence[Path]) -> Runs:
    """Looks through finished runs.

    Raises: `UserError` that names the directory, if it holds no run, or one that is not finished, damaged, made with other
      settings than the first, or with a problem that another holds.
    """
    configs: list[dict[str, Any]] = []
    summaries = []
    traces: dict[str, Place] = {}
    trees: dict[str, Place] = {}
    for directory in directories:
        config = read_run_config(directory)
        if config is None or config["job"] != "synthesize":
            raise UserError(f"{directory}: holds no run of launch.synthesize; give its output directory")
        configs.append(config)
        _refuse_other_settings(directories[0], configs[0], directory, config)
        found = _index(directory / TRACES, "id")
        summaries.append(_finished(directory, config, len(found)))
        for problem, place in found.items():
            if problem in traces:
                raise UserError(
                    f'{place.path}: the problem "{problem}" is in {traces[problem].path}, too; '
                    "give runs of different problems"
                )
            traces[problem] = place
        trees |= _index(directory / TREE, "problem")
    prompts = _read_json(directories[0], PROMPTS)
    return Runs(
        directories=tuple(directories),
        config=configs[0],
        shards=tuple(str(config["settings"].get("shard", WHOLE)) for config in configs),
        seconds=sum(summary["seconds"] for summary in summaries),
        devices=tuple(dict.fromkeys(summary["device"] for summary in summaries)),
        teachers=tuple(name for name in summaries[0]["tokens"] if name != "total"),
        prompts=prompts if isinstance(prompts, dict) else {},
        traces={problem: traces[problem] for problem in sorted(traces)},
        trees=trees,
    )


def _another_version(path: Path, problem: str, error: Exception) -> UserError:
    return UserError(
        f'{path}, problem "{problem}": a row has other fields ({error}); give a run of this version of launch.synthesize'
    )


def _read_json(directory: Path, name: str) -> Any:
    """The object of a JSON file; None if there is none."""
    try:
        return read_object(directory / name)
    except UserError:
        return None


def _refuse_other_settings(
    first: Path, held: Mapping[str, Any], path: Path, config: Mapping[str, Any]
) -> None:
    def deciding(config: Mapping[str, Any]) -> dict[str, Any]:
        everything = config["settings"] | config["inputs"]
        return {name: value for name, value in everything.items() if name not in OF_PROBLEMS}

    ours, theirs = deciding(held), deciding(config)
    for name in {**ours, **theirs}:
        if ours.get(name) != theirs.get(name):
            shown = [json.dumps(values.get(name), ensure_ascii=False)[:_SHOWN] for values in (ours, theirs)]
            raise UserError(
                f"{path}: was made with other settings than {first}: {name} is {shown[1]}, and {shown[0]} there; "
                "publish them apart"
            )


def _finished(directory: Path, config: Mapping[str, Any], traces: int) -> Mapping[str, Any]:
    """The summary of a run that has a trace of every problem. Raises: `UserError` if it is not finished."""
    part, parts = parse_shard(str(config["settings"].get("shard", WHOLE)))
    problems = config["inputs"].get("problems")
    count = problems.get("count") if isinstance(problems, dict) else None
    if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count < 2**31:
        raise UserError(f"{directory}: holds a run of another version of launch.synthesize; make it again")
    wanted = len(range(part - 1, count, parts))
    summary = _read_json(directory, SUMMARY)
    if not _is_summary(summary) or wanted != traces:
        raise UserError(
            f"{directory}: is not finished ({traces} of {wanted} problems have a trace); run its command again, then publish it"
        )
    return summary


def _is_summary(summary: Any) -> bool:
    """Whether a summary holds what is taken from it."""
    kinds: dict[str, Any] = {"seconds": (int, float), "device": str, "tokens": dict}
    return isinstance(summary, dict) and all(
        isinstance(summary.get(name), kind) for name, kind in kinds.items()
    )


def _index(path: Path, key: str) -> dict[str, Place]:
    """The place of the rows of each value of a field, which follow each other in the file."""
    places: dict[str, Place] = {}
    start = number = 0
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                name, end = parse_row(line)[key], start + len(line)
                if not isinstance(name, str):
                    raise TypeError(f"{key} must be a text")
                held = places.get(name)
                if held is not None and (key == "id" or held.end != start):
                    raise UserError(f'{path}, line {number}: "{name}" was there before; the file is damaged')
                places[name] = Place(path, start if held is None else held.start, end)
                start = end
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}, line {number}: damaged ({error}); make the run again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); is its directory whole?") from None
    return places
