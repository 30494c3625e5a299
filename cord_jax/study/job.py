"""The study as a job: which cell is computed next, by whom, and the page at the end.

Several processes may work on one output directory. Each takes the first task, in the order of the arms, that is not done,
that nobody has and whose traces are there. Killed at any moment, a study loses what was under way, of which searches
continue where they were. A task that fails is told, noted in `failed/` and left out until the note is removed.
"""

import dataclasses
import itertools
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from cord_jax.storage import storage_problem, write_atomically
from cord_jax.study import arms, cells, definitions
from cord_jax.study.arms import Arm, Learner, Writing
from cord_jax.study.config import StudyConfig

_PAUSE_SECONDS = 1.0


@dataclasses.dataclass(frozen=True)
class Task:
    """What one process does at a time: seeds of a way of writing that have no cell, or whose rows a student needs and are
    gone; or one student.

    Attributes:
        name: of its lock.
    """

    name: str
    arm: Arm
    seeds: tuple[int, ...]


def study(config: StudyConfig, say: Callable[[str], None] = print) -> bool:
    """Computes what is missing and nobody else computes; returns whether all is there.

    The page is written by whoever finds everything done, or the time limit passed.

    Args:
        say: is told one line for every task, and where the page is.

    Raises: `UserError` if the output directory holds results of other arms or sizes.
    """
    from cord_jax.study.page import write_page

    start = time.monotonic()
    chosen = arms.choose(config.arms)
    for arm in chosen:
        if isinstance(arm, Writing) and arm.absent:
            say(f"{arm.name} is left out: there is no {arm.absent}")
    chosen = tuple(arm for arm in chosen if _can_run(arm))
    while not config.only_page:
        if not tasks(chosen, config) or (config.time_limit and time.monotonic() - start > config.time_limit):
            break
        if not _do_one(chosen, config, say):
            time.sleep(_PAUSE_SECONDS)
    done = not tasks(chosen, config)
    path = write_page(config)
    say(f"{'all is done' if done else 'not all is done'}: {path}")
    return done


def tasks(chosen: tuple[Arm, ...], config: StudyConfig) -> list[Task]:
    """What is left to do, has not failed, and does not wait for something that has, in order."""
    directory, seeds = Path(config.output_dir), tuple(config.all_seeds)
    missing = {
        arm.name: tuple(
            seed
            for seed in seeds
            if cells.read_cell(directory, arm.name, seed, definitions.definition_of(arm, config)) is None
        )
        for arm in chosen
    }
    to_do: dict[str, tuple[int, ...]] = {}
    needed: set[tuple[str | None, int]] = set()
    for arm in sorted(chosen, key=_depth, reverse=True):
        to_do[arm.name] = tuple(
            seed
            for seed in seeds
            if seed in missing[arm.name]
            or ((arm.name, seed) in needed and not cells.rows_path(arm.name, directory, seed).exists())
        )
        needed |= {(arms.rows_needed(arm), seed) for seed in to_do[arm.name]}
    found: list[Task] = []
    to_come: set[tuple[str, int]] = set()  # rows that will be there
    for arm in sorted(chosen, key=_depth):
        rows = arms.rows_needed(arm)
        wanted = [
            seed
            for seed in to_do[arm.name]
            if rows is None or (rows, seed) in to_come or cells.rows_path(rows, directory, seed).exists()
        ]
        if isinstance(arm, Learner):
            possible = [Task(f"{arm.name}.seed_{seed}", arm, (seed,)) for seed in wanted]
        else:
            parts = itertools.groupby(wanted, key=lambda seed: seed // config.together)
            possible = [Task(f"{arm.name}.part_{part}", arm, tuple(of_part)) for part, of_part in parts]
        possible = [task for task in possible if not _note(directory, task).exists()]
        if isinstance(arm, Writing):
            to_come |= {(arm.name, seed) for task in possible for seed in task.seeds}
        found += possible
    return sorted(found, key=lambda task: chosen.index(task.arm))


def _depth(arm: Arm) -> int:
    """So many other arms this one waits for, one behind the other."""
    rows = arms.rows_needed(arm)
    return 0 if rows is None else 1 + _depth(arms.BY_NAME[rows])


def _can_run(arm: Arm) -> bool:
    rows = arms.rows_needed(arm)
    return (isinstance(arm, Learner) or arm.absent is None) and (rows is None or _can_run(arms.BY_NAME[rows]))


def _do_one(chosen: tuple[Arm, ...], config: StudyConfig, say: Callable[[str], None]) -> bool:
    """Does the first task that can be done now; returns whether there was one."""
    from cord_jax.study.learning import learn
    from cord_jax.study.writing import write_traces

    directory = Path(config.output_dir)
    for listed in tasks(chosen, config):
        arm = listed.arm
        rows = arms.rows_needed(arm)
        if rows is not None and not all(
            cells.rows_path(rows, directory, seed).exists() for seed in listed.seeds
        ):
            continue
        with cells.claimed(directory / "locks", listed.name) as mine:
            # Somebody may have done it, or a part, since it was listed.
            left = [task for task in tasks(chosen, config) if task.name == listed.name] if mine else []
            for task in left:
                start = time.monotonic()
                try:
                    if isinstance(arm, Writing):
                        results = write_traces(arm, config, task.seeds)
                    else:
                        results = {seed: learn(arm, config, seed) for seed in task.seeds}
                except Exception as error:  # of many arms one may ask for what it cannot get
                    if storage_problem(error):  # which is no fault of the task
                        raise
                    note = _note(directory, task)
                    note.parent.mkdir(parents=True, exist_ok=True)
                    write_atomically(note, traceback.format_exc())
                    say(f"{task.name} failed: {type(error).__name__}; {note} tells how")
                    return True
                definition = definitions.definition_of(arm, config)
                for seed, of_seed in results.items():
                    if cells.read_cell(directory, arm.name, seed, definition) is None:
                        cells.write_cell(directory, arm.name, seed, definition, of_seed)
                say(f"{task.name}: {time.monotonic() - start:.0f} s")
                return True
    return False


def _note(directory: Path, task: Task) -> Path:
    """The file that says how a task failed."""
    return directory / "failed" / f"{task.name}.txt"
