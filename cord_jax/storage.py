"""Files on a disk that may be full or gone in the middle of a run: written whole or not at all, and told in a line."""

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from cord_jax.errors import UserError

TEMPORARY = ".tmp"
_FULL_OR_GONE = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EIO,
    errno.EROFS,
    errno.ESTALE,
    errno.ENODEV,
    errno.ENOTCONN,
}
# Libraries in C++ tell the reason in words.
_WORDS = ("No space left on device", "Disk quota exceeded", "Input/output error", "Stale file handle")
_QUOTED_PATH = re.compile(r'"(/[^"]+)"')


# What to do about it: everything that was written stands, in whole lines and whole files.
REMEDY = "what was written before is whole, and the same command continues when that is mended"


def storage_problem(error: BaseException) -> str | None:
    """Says in words that a disk is full, gone or over its quota, if that is what an error comes from; else None."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    for link in chain:
        if isinstance(link, OSError) and link.errno in _FULL_OR_GONE:
            where = f"{link.filename}: " if link.filename else ""
            return f"{where}{link.strerror}"
        for words in _WORDS:
            if words in str(link):
                path = _QUOTED_PATH.search(str(link))
                return f"{path[1]}: {words}" if path else words
    return None


def write_atomically(path: str | os.PathLike, content: bytes | str | Iterable[bytes]) -> None:
    """Writes a file so that a crash at any moment leaves the old content or the new one (text as UTF-8).

    Content that is made piece by piece is written as it comes, and need not fit into memory.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}{TEMPORARY}")
    with stored(path):
        temporary.unlink(missing_ok=True)
        try:
            with open_to_write(temporary, os.O_EXCL) as file:
                content = content.encode() if isinstance(content, str) else content
                _write(file, [content] if isinstance(content, bytes) else content)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        _flush(path.parent)


def rename_whole(making: Path, path: Path) -> None:
    """Gives a directory that has been written its name, once all of it is on the disk."""
    for part in (*sorted(making.rglob("*")), making):
        _flush(part)
    os.rename(making, path)
    _flush(path.parent)


def _flush(path: Path) -> None:
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


def open_to_write(path: Path, flags: int = 0) -> IO[bytes]:
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
            raise no_file(path) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise no_file(path)
    # Without a buffer: what did not fit would be in it, and be written when the file is closed.
    return os.fdopen(descriptor, "ab" if flags & os.O_APPEND else "rb+", buffering=0)


def no_file(path: Path) -> UserError:
    """What is said of a link, a pipe or a directory in the place of a file."""
    return UserError(f"{path}: is a link or no file; remove it, or choose another output directory")


def append(file: IO[bytes], content: bytes) -> None:
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
