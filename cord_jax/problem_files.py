"""Files that problems are read from, and the names of their columns.

Besides JSON lines these are Parquet files, directories that `datasets` has saved (`save_to_disk`), and directories that
hold Parquet or JSON lines, as data sets on the Hub do. Which files of a directory are a split's say their names:
`train-00000-of-00002.parquet`, `data/train.jsonl`, `train/part1.parquet`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cord_jax.errors import UserError
from cord_jax.files import read_object
from cord_jax.fingerprints import fingerprint
from cord_jax.settings import show

FIELDS = ("id", "question", "answer", "context", "solution", "answers")
ROW_NUMBER = "#"
_LINES = (".jsonl", ".jsonl.gz")
_TABLES = (".parquet", ".arrow")
_SPLITS = ("train", "test", "validation", "valid", "val", "dev", "eval")
# What datasets writes beside the rows that it saves.
_SAVED, _SAVED_SPLITS = "state.json", "dataset_dict.json"


def parse_columns(text: str) -> dict[str, str]:
    """Reads `question:problem,answer:final_answer`: our field -> the file's column. Raises: `UserError`."""
    columns: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        ours, given, theirs = (piece.strip() for piece in part.partition(":"))
        if not given or not theirs or ours not in FIELDS:
            raise UserError(
                f"--columns={show(text)}: {show(part)!r} is not field:column; the fields are {', '.join(FIELDS)}"
            )
        if theirs == ROW_NUMBER and ours != "id":
            raise UserError(
                f"--columns={show(text)}: only an id can be the number of its row; write id:{ROW_NUMBER}"
            )
        if ours in columns:
            raise UserError(f"--columns={show(text)}: gives {ours} twice")
        columns[ours] = theirs
    return columns


def files_of(path: Path, split: str = "") -> list[Path]:
    """The files that hold the rows of a problem file or directory, in their order.

    Args:
      split: of a directory; empty: it has one only.

    Raises: `UserError` that names the directory, if it has no such file or several splits to choose from.
    """
    if not path.is_dir():
        if split:
            raise UserError(
                f"--split={show(split)}: {path} is no directory, and has no splits; leave --split out"
            )
        return [path]
    if (path / _SAVED_SPLITS).is_file():
        splits = _names(path / _SAVED_SPLITS, read_object(path / _SAVED_SPLITS).get("splits"))
        return _saved_files(path / _chosen(path, splits, split))
    if (path / _SAVED).is_file():
        if split:
            raise UserError(
                f"--split={show(split)}: {path} holds one data set without splits; leave --split out"
            )
        return _saved_files(path)
    names = {
        file: file.relative_to(path).as_posix()
        for file in sorted(path.rglob("*"))
        if file.name.endswith((*_LINES, ".parquet"))
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    }
    if not names:
        raise UserError(
            f"{path}: holds no problems; give a file, or a directory with Parquet files or JSON lines"
        )
    if split:
        files = [file for file, name in names.items() if _is_of(split, name)]
        if not files:
            raise UserError(f"--split={show(split)}: no file of {path} has that name in its own")
        return files
    found = [known for known in _SPLITS if any(_is_of(known, name) for name in names.values())]
    if len(found) > 1:
        _chosen(path, found, "")
    return list(names)


def is_table(path: Path) -> bool:
    """Whether a file holds typed columns, not JSON lines."""
    return path.suffix in _TABLES


def read_table(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number from 1, values) of each row of a Parquet file, or of one that datasets saved.

    Raises: `UserError` that names the file, and the row where it is one, and says why it cannot be read.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            f"{path}: needs the package pyarrow; install it: python -m pip install pyarrow"
        ) from None
    if not path.is_file():
        raise UserError(f"{path}: cannot be read; there is no such file")
    number = 0
    try:
        if path.suffix == ".arrow":
            batches: Any = pyarrow.ipc.open_stream(pyarrow.memory_map(str(path)))
        else:
            batches = pyarrow.parquet.ParquetFile(path).iter_batches()
        for batch in batches:
            for values in _values(batch):
                number += 1
                yield number, values
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}, row {number + 1}: the problem file cannot be read: {reason}") from None


def renamed(row: Mapping[str, Any], number: int, columns: Mapping[str, str], typed: bool) -> dict[str, Any]:
    """A row under the names of our fields.

    A column that another takes the name of is left out. A typed column's whole numbers become texts where they are ids
    or answers: a table cannot put them in quotes.

    Args:
      number: of the row, from 1.
      columns: our field -> its column.
      typed: whether the row is a table's.

    Raises: ValueError with the reason if there is no such column.
    """
    for theirs in columns.values():
        if theirs != ROW_NUMBER and theirs not in row:
            held = ", ".join(map(str, row))
            raise ValueError(f'there is no column "{theirs}", which --columns names; there are {held}')
    taken = set(columns.values()) | set(columns)
    values = {name: value for name, value in row.items() if name not in taken}
    values |= {ours: str(number) if theirs == ROW_NUMBER else row[theirs] for ours, theirs in columns.items()}
    if typed:
        values |= {name: _text(values[name]) for name in ("id", "answer") if name in values}
        if isinstance(values.get("answers"), list):
            values["answers"] = [_text(form) for form in values["answers"]]
    return values


def fingerprint_of(source: Any, split: str = "") -> dict[str, Any]:
    """The fingerprint of a problem file, of all files of a directory's split by their names, or of a list."""
    if not isinstance(source, (str, Path)) or not Path(source).is_dir():
        return fingerprint(source)
    return {str(file.relative_to(source)): fingerprint(file) for file in files_of(Path(source), split)}


def _chosen(path: Path, splits: Sequence[str], split: str) -> str:
    if split in splits:
        return split
    if not split and len(splits) == 1:
        return splits[0]
    said = f"--split={show(split)}: {path} holds" if split else f"{path}: holds"
    raise UserError(f"{said} the splits {', '.join(splits)}; choose one with --split")


def _saved_files(path: Path) -> list[Path]:
    files = read_object(path / _SAVED).get("_data_files")
    rows = files if isinstance(files, list) else []
    files = [row.get("filename") if isinstance(row, dict) else None for row in rows]
    return [path / name for name in _names(path / _SAVED, files)]


def _names(file: Path, names: Any) -> list[str]:
    """Names of files or directories beside `file`, in which they stand. Raises: `UserError` if they are none."""
    if not isinstance(names, list) or not names:
        names = [None]
    if not all(
        isinstance(name, str) and name and Path(name).parts == (name,) and name != ".." for name in names
    ):
        raise UserError(f"{file}: damaged: it does not name files of its directory; save the data set again")
    return names


def _is_of(split: str, name: str) -> bool:
    return re.search(rf"(?<![^\W_]){re.escape(split)}(?![^\W_])", name) is not None


def _values(batch: Any) -> Iterator[dict[str, Any]]:
    try:
        yield from batch.to_pylist()
    except ValueError:  # one row is at fault: the others before it are given
        for index in range(batch.num_rows):
            yield batch.slice(index, 1).to_pylist()[0]


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value
