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
import errno
import fcntl
import importlib.metadata
import json
import logging
import os
import platform
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

from cord_jax import files
from cord_jax.errors import UserError
from cord_jax.storage import REMEDY
from cord_jax.typed_rows import is_of

_LOGGER = logging.getLogger(__name__)
CONFIG = "config.json"
LOG = "log.txt"
_LOCK = ".lock"
_TEMPORARY = ".tmp"
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


class JsonLines:
    """A file of one JSON object a line that only grows, and whose lines are always complete.

    Opening it for the first time after a crash cuts off a torn last line. `append` returns when its rows are
    on the disk. Text is UTF-8, floats are finite, keys keep their order.
    """

    def __init__(self, path: Path):
        """Opens (or prepares to create) `path`; cuts off what follows the last newline."""
        self.path = Path(path)
        if self.path.exists():
            _cut_torn_line(self.path)

    def read(self, needs: Mapping[str, Any] = {}, once: Sequence[str] = ()) -> list[dict[str, Any]]:
        """All rows, in the order they were written; arguments and errors as of `read_lines`."""
        return list(read_lines(self.path, needs, once)) if self.path.exists() else []

    def append(self, *rows: Mapping[str, Any]) -> None:
        """Writes `rows` behind the others and waits for the disk. Rows of one call go out in one write."""
        if not rows:
            return
        content = _encode_lines(rows)
        with stored(self.path), _open(self.path, os.O_APPEND) as file:
            _append(file, content)

    def rewrite(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Replaces the whole file atomically, to drop rows of something that never finished."""
        write_atomically(self.path, _encode_lines(rows))


def read_lines(
    path: Path, needs: Mapping[str, Any] = {}, once: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
    """The rows of a file that a run writes, one after another; a last line without its end is passed over.

    Args:
      needs: fields that every row must have, with their types; those that may be null need not be there.
      once: of them, those that tell rows apart. A row that stands there a second time is passed over, which is told at
        the end.

    Raises: `UserError` that names a line which is not a JSON object, or lacks a field.
    """
    seen: set[tuple] = set()
    doubled = 0
    for number, line in files.read_lines(path):
        if not line.endswith(b"\n"):
            break
        try:
            row = files.parse_row(line)
        except ValueError as error:
            raise _damaged(path, number, str(error)) from None
        for name, kind in needs.items():
            if not is_of(row.get(name), kind):
                raise _damaged(path, number, f'field "{name}" is missing or of another type')
        if once:
            key = tuple(row[field] for field in once)
            if key in seen:
                doubled += 1
                continue
            seen.add(key)
        yield row
    if doubled:
        _LOGGER.warning("%s: %d rows stand there twice; one of each counts", path, doubled)


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
        write_atomically(self.path / name, _encode_pretty(value))

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
    with contextlib.suppress(OSError), _open(directory / LOG, os.O_APPEND) as file:
        _append(file, f"{now} {message}\n".encode())


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
            write_atomically(path / CONFIG, _encode_pretty(wanted))
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
                raise _no_file(file)
    if held is not None:
        _refuse_other_run(
            path, held, {"job": job, "settings": _as_json(settings), "inputs": _as_json(inputs)}
        )
    elif path.is_dir():
        foreign = sorted(
            f.name for f in path.iterdir() if f.name != _LOCK and not f.name.endswith(_TEMPORARY)
        )
        if foreign:
            shown = ", ".join(foreign[:3]) + (", ..." if len(foreign) > 3 else "")
            raise UserError(
                f"output directory {path}: holds files that belong to no run ({shown}); "
                "choose a new or empty directory"
            )


def write_atomically(path: str | os.PathLike, content: bytes | str | Iterable[bytes]) -> None:
    """Writes a file so that a crash at any moment leaves the old content or the new one (text as UTF-8).

    Content that is made piece by piece is written as it comes, and need not fit into memory.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}{_TEMPORARY}")
    with stored(path):
        temporary.unlink(missing_ok=True)
        try:
            with _open(temporary, os.O_EXCL) as file:
                content = content.encode() if isinstance(content, str) else content
                _write(file, [content] if isinstance(content, bytes) else content)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        _flush_path(path.parent)


def rename_whole(making: Path, path: Path) -> None:
    """Gives a directory that has been written its name, once all of it is on the disk."""
    for part in (*sorted(making.rglob("*")), making):
        _flush_path(part)
    os.rename(making, path)
    _flush_path(path.parent)


def _flush_path(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def stored(path: str | os.PathLike) -> Iterator[None]:
    """Turns what a disk may answer, that it is full or gone, into a `UserError` of one line; nothing was written then."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); {REMEDY}") from error


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
    lock = _open(path / _LOCK)
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


def _cut_torn_line(path: Path) -> None:
    with _open(path) as file:
        end = file.seek(0, os.SEEK_END)
        position = end
        while position > 0:
            start = max(0, position - 2**16)
            file.seek(start)
            newline = file.read(position - start).rfind(b"\n")
            if newline >= 0:
                position = start + newline + 1
                break
            position = start
        if position < end:
            file.truncate(position)
            os.fsync(file.fileno())


def _open(path: Path, flags: int = 0) -> IO[bytes]:
    """Opens a file of the directory to read and write, made if absent: every file that is written goes through here.

    A symbolic link in its place is not followed, nor a pipe waited for: whoever shared the directory chose where it
    leads.

    Raises: `UserError` for such a thing; `OSError` as of `os.open`.
    """
    flags |= os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR):
            raise _no_file(path) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _no_file(path)
    # Without a buffer: what did not fit would be in it, and be written when the file is closed.
    return os.fdopen(descriptor, "ab" if flags & os.O_APPEND else "rb+", buffering=0)


def _no_file(path: Path) -> UserError:
    return UserError(f"{path}: is a link or no file; remove it, or choose another output directory")


def _damaged(path: Path, number: int, reason: str) -> UserError:
    return UserError(
        f"{path}, line {number}: damaged ({reason}); remove that line or start a new output directory"
    )


def _encode_lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n" for row in rows)


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


def _append(file: IO[bytes], content: bytes) -> None:
    """Adds content to a file and waits for the disk; nothing of it stays if not all of it fits."""
    end = file.seek(0, os.SEEK_END)
    try:
        _write(file, [content])
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(file.fileno(), end)
        raise


def _write(file: IO[bytes], parts: Iterable[bytes]) -> None:
    """Writes all of it and waits for the disk. A disk that is nearly full takes a part of what it is given."""
    for part in parts:
        rest = memoryview(part)
        while rest:
            rest = rest[file.write(rest) :]
    os.fsync(file.fileno())
