"""What a disk may answer in the middle of a run, told in a line."""

import errno
import re

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
