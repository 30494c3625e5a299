"""Fingerprints of the inputs of a run, so that it is continued with the same ones only."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cord_jax.errors import UserError

_CHECKPOINT_SUFFIXES = (".json", ".jinja", ".model", ".safetensors", ".txt")
_WHOLE_FILE_BYTES = 32 * 2**20
_SAMPLED_BLOCKS, _BLOCK_BYTES = 64, 4096


def fingerprint(source: Any) -> dict[str, Any]:
    """Identifies a file or a checkpoint directory without reading all of its weights, or values held in memory.

    A file: its size and the SHA-256 of its content. A directory: the same for each of its configuration,
    tokenizer and weight files, by name. Of a weight file above 32 MiB the hash covers its header and 64
    blocks of 4 KiB spread evenly over it, which tells checkpoints of one architecture apart and takes
    milliseconds. A list of rows or dataclasses: as of a file that holds one in JSON a line.

    Raises: `UserError` if a path does not exist or cannot be read, or values are not JSON.
    """
    if not isinstance(source, (str, os.PathLike)):
        return _fingerprint_rows(source)
    path = Path(source)
    try:
        if path.is_dir():
            files = sorted(f for f in path.iterdir() if f.is_file() and f.suffix in _CHECKPOINT_SUFFIXES)
            return {f.name: _fingerprint_file(f) for f in files}
        return _fingerprint_file(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None


def _fingerprint_rows(values: Iterable[Any]) -> dict[str, Any]:
    rows = [dataclasses.asdict(value) if not isinstance(value, Mapping) else value for value in values]
    try:
        lines = b"".join(
            json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n" for row in rows
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"rows given in memory: not JSON ({error}); give texts, numbers and lists") from None
    return {"bytes": len(lines), "sha256": hashlib.sha256(lines).hexdigest()}


def _fingerprint_file(path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        if path.suffix != ".safetensors" or size <= _WHOLE_FILE_BYTES:
            while chunk := file.read(2**20):
                digest.update(chunk)
        else:
            header = int.from_bytes(file.read(8), "little")
            digest.update(file.read(min(header, _WHOLE_FILE_BYTES)))
            for block in range(_SAMPLED_BLOCKS):
                file.seek((size - _BLOCK_BYTES) * block // (_SAMPLED_BLOCKS - 1))
                digest.update(file.read(_BLOCK_BYTES))
    return {"bytes": size, "sha256": digest.hexdigest()}
