"""The output directory of a run: created, continued or refused.

Every job that writes results (`synthesize`, `evaluate`, `train_student`) opens its directory here:

    with open_run(output_dir, job="evaluate", settings={...}, inputs={"model": fingerprint(model)}) as run:
        samples = run.json_lines("samples.jsonl")
        done = {row["problem"] for row in samples.read()}    # what an earlier, interrupted run has finished
        samples.append({...})                                # on the disk when the call returns
        run.write_json("summary.json", {...})                # the old file or the new one, never half of one

`config.json` says what the run is. It has five parts:

- `job`, `settings`, `inputs` decide what the rows will be. Running a command again on its own directory
  continues it; where one of these differs the directory is refused and the difference is shown.
- `environment` (mesh, slots, paths as the user wrote them, ...) and `packages` (versions) must not change the
  rows. A run may be continued under others: the change is logged, and `config.json` keeps the first ones.

In a job of several processes only process 0 opens the directory.
"""

import contextlib
import dataclasses
import datetime
import fcntl
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from cord_jax import files, storage
from cord_jax.errors import UserError
from cord_jax.json_lines import JsonLines

CONFIG = "config.json"
LOG = "log.txt"
_LOCK = ".lock"
_PACKAGES = (
    "cord_jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "transformers",
    "tokenizers",
    "safetensors",
    "math-verify",
    "numpy",
)


@dataclasses.dataclass(frozen=True)
class RunDirectory:
    """An open run directory. Use it as a context manager: leaving it lets another process open the directory.

    Attributes:
      path: the directory.
      config: the content of `config.json`.
      continued: whether the directory held this run already.
    """

    path: Path
    config: dict[str, Any]
    continued: bool
    _lock: Any = dataclasses.field(repr=False)

    def json_lines(self, name: str) -> JsonLines:
        """The file `name` of rows, ready to be read and continued."""
        return JsonLines(self.path / name)

    def write_json(self, name: str, value: Any) -> None:
        """Writes `value` as indented JSON, atomically."""
        storage.write_atomically(self.path / name, _encode_pretty(value))

    def log(self, message: str) -> None:
        """Prints one line to stderr and appends it, with the time (UTC), to `log.txt`."""
        add_to_log(self.path, message)
        print(message, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Lets go of the directory. Nothing needs to be written: every call above left the files complete."""
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception) -> None:
        self.close()


def add_to_log(directory: Path, message: str) -> None:
    """Appends a line with the time (UTC) to the `log.txt` of a run."""
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    # What cannot be logged is no reason to end; what must be written says so itself.
    with contextlib.suppress(OSError), storage.open_to_write(directory / LOG, os.O_APPEND) as file:
        storage.append(file, f"{now} {message}\n".encode())


def open_run(
    output_dir: str | os.PathLike,
    *,
    job: str,
    settings: Mapping[str, Any],
    inputs: Mapping[str, Any] = {},
    environment: Mapping[str, Any] = {},
) -> RunDirectory:
    """Creates the directory of a run, or continues the run that it holds.

    Args:
      output_dir: is created, with its parents, if it does not exist.
      job: the command's name, for instance "synthesize".
      settings: everything that decides the rows, seed included; JSON values (paths are written as text).
      inputs: name -> `fingerprint(path)` of each file or checkpoint that is read.
      environment: what may differ when the run is continued, such as the mesh.

    Returns: the open directory. No other process can open it until it is closed.

    Raises:
      UserError: it is not a directory, cannot be written, is open in another process, holds files but no run,
        or holds a run of another job or with other settings or inputs. Nothing in it has been changed then.
    """
    path = Path(output_dir)
    wanted = {
        "job": job,
        "settings": _as_json(settings),
        "inputs": _as_json(inputs),
        "environment": _as_json(environment),
        "packages": _package_versions(),
    }
    check_run(path, job=job, settings=settings, inputs=inputs)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = _take_lock(path)
    except OSError as error:
        raise UserError(
            f"output directory {path}: cannot be written ({error.strerror}); choose another"
        ) from None
    try:
        held = read_run_config(path)
        if held is None:
            storage.write_atomically(path / CONFIG, _encode_pretty(wanted))
            return RunDirectory(path, wanted, False, lock)
        _refuse_other_run(path, held, wanted)  # another process may have been here since the check
        run = RunDirectory(path, held, True, lock)
        changes = _differences(
            _flat(held, "environment", "packages"), _flat(wanted, "environment", "packages")
        )
        if changes:
            run.log(f"continuing {path} in another environment: " + "; ".join(changes))
        return run
    except BaseException:
        lock.close()
        raise


def check_run(
    output_dir: str | os.PathLike, *, job: str, settings: Mapping[str, Any], inputs: Mapping[str, Any] = {}
) -> None:
    """Raises what `open_run` would for the same arguments, and writes nothing.

    For a job that loads its models before it creates its directory, so that a broken checkpoint leaves none
    behind and a directory that will be refused costs no loading.
    """
    path = Path(output_dir)
    if path.exists() and not path.is_dir():
        raise UserError(f"output directory {path}: is a file; choose a directory")
    held = read_run_config(path)
    if path.is_dir():
        for file in path.iterdir():  # below the first level only what this program has made anew is written
            if file.is_symlink() or not (file.is_file() or file.is_dir()):
                raise storage.no_file(file)
    if held is not None:
        _refuse_other_run(
            path, held, {"job": job, "settings": _as_json(settings), "inputs": _as_json(inputs)}
        )
    elif path.is_dir():
        foreign = sorted(
            f.name for f in path.iterdir() if f.name != _LOCK and not f.name.endswith(storage.TEMPORARY)
        )
        if foreign:
            shown = ", ".join(foreign[:3]) + (", ..." if len(foreign) > 3 else "")
            raise UserError(
                f"output directory {path}: holds files that belong to no run ({shown}); "
                "choose a new or empty directory"
            )


def _refuse_other_run(path: Path, held: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    if held["job"] != wanted["job"]:
        raise UserError(
            f"output directory {path}: holds a run of {held['job']}, not of {wanted['job']}; "
            "choose another directory"
        )
    differences = _differences(_flat(held, "settings", "inputs"), _flat(wanted, "settings", "inputs"))
    if differences:
        shown = "; ".join(differences[:6]) + (
            f"; and {len(differences) - 6} more" if len(differences) > 6 else ""
        )
        raise UserError(
            f"output directory {path}: holds a run with other settings: {shown}; "
            "repeat its settings to continue it, or choose another directory"
        )


def read_run_config(path: str | os.PathLike) -> dict[str, Any] | None:
    """The config.json of a run's directory; None if there is none, or one of another kind (a checkpoint's, say)."""
    from models.files import read_regular  # only now: it brings jax

    try:
        config = files.parse_row(read_regular(Path(path) / CONFIG))
    except ValueError:
        return None
    parts = ("job", "settings", "inputs", "environment", "packages")
    objects = all(isinstance(config.get(part), dict) for part in parts[1:])
    return config if objects and isinstance(config.get("job"), str) else None


def _take_lock(path: Path) -> Any:
    """Keeps a second process from writing into the run; a dying process lets go by itself."""
    lock = storage.open_to_write(path / _LOCK)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise UserError(
            f"output directory {path}: is in use by another process; wait for it or end it"
        ) from None
    except OSError:
        pass  # some network file systems have no locks; the run is worth more than this protection
    return lock


def _package_versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _flat(config: Mapping[str, Any], *parts: str) -> dict[str, Any]:
    """{"settings": {"a": {"b": 1}}} -> {"a.b": 1}, over the named parts of a config."""
    flat: dict[str, Any] = {}

    def visit(name: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                visit(f"{name}.{key}" if name else key, inner)
        else:
            flat[name] = value

    for part in parts:
        visit("", config[part])
    return flat


def _differences(held: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """One phrase for each value that is not the same in both, in the order of `wanted`."""
    absent = object()

    def show(value: Any) -> str:
        text = "absent" if value is absent else json.dumps(value, ensure_ascii=False)
        return text if len(text) <= 40 else text[:37] + "..."

    names = list(wanted) + [name for name in held if name not in wanted]
    pairs = ((name, held.get(name, absent), wanted.get(name, absent)) for name in names)
    return [f"{name} is {show(a)} there, {show(b)} here" for name, a, b in pairs if a != b]


def _encode_pretty(value: Any) -> bytes:
    return (
        json.dumps(value, ensure_ascii=False, allow_nan=False, indent=2, default=_path_as_text).encode()
        + b"\n"
    )


def _as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """As it will come back from the file (tuples as lists, paths as text), to be compared with it."""
    return json.loads(json.dumps(dict(values), default=_path_as_text))


def _path_as_text(value: Any) -> str:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{value!r} is not a JSON value")
