"""Byte ranges of safetensors files.

The format (https://github.com/huggingface/safetensors): 8 bytes little-endian header length, a JSON header with dtype,
shape and byte offsets of each tensor, then the tensors, row-major. Only what is asked for is read, with `pread`.
"""

import json
import logging
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np

from models.checkpoint.remedies import no_weights
from models.errors import CheckpointError
from models.files import Fields, decode_json, open_regular, read_json_object, show

DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}

# Bytes read at a time by one thread: bounds the memory of a read beside its result, and stays in the cache.
CHUNK_BYTES = 1 << 20
# Rows of a chunk that are transposed at a time: whole cache lines are written, none twice.
TILE_ROWS = 32
READ_THREADS = min(8, os.cpu_count() or 1)
_MAX_HEADER_BYTES = 100 << 20
_LARGEST_SIZE = 1 << 62
_LOG = logging.getLogger(__name__)


class Tensor(NamedTuple):
    """A stored tensor: its name, file, dtype, shape, and its first byte in the file."""

    name: str
    file: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int


def read_header(file: Path) -> dict[str, Tensor]:
    """The tensors of one file.

    Raises:
      CheckpointError: not a safetensors file, a header whose fields are not what they must be, tensors that overlap
        or lie beyond the end of the file, or a dtype that is not supported.
    """
    try:
        with open_regular(file) as stream:
            size = os.fstat(stream.fileno()).st_size
            start = stream.read(8)
            length = int.from_bytes(start, "little")
            fits = size >= 8 and length <= min(size - 8, _MAX_HEADER_BYTES)
            text = stream.read(length) if fits else b""
        if start == b"version ":
            raise ValueError(
                f"a Git LFS pointer of {size} bytes instead of the weights; get them with 'git lfs pull'"
            )
        if not fits:
            raise ValueError(
                f"not a complete safetensors file: the header should take {length} bytes, the file has {size}"
            )
        header = decode_json(text)
    except ValueError as error:
        raise CheckpointError(f"{file}: {error}") from None
    header = dict(Fields(f"{file}: header", header).values)
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        tensors[name] = _tensor(name, Fields(f"{file}: tensor {name!r}", entry), file, 8 + length, size)
    _refuse_overlap(tensors.values())
    return tensors


def _tensor(name: str, entry: Fields, file: Path, start: int, size: int) -> Tensor:
    """The tensor of one entry of a header; data begin at byte `start` of a file of `size` bytes."""
    kind = entry.text("dtype")
    if kind not in DTYPES:
        packed = kind.startswith(("F8", "F4", "I8", "U8", "I32", "U32"))
        hint = "; quantised weights are not read: use the original checkpoint" if packed else ""
        raise CheckpointError(f"{entry.where} has dtype {kind}; supported are {', '.join(DTYPES)}{hint}")
    for field in ("shape", "data_offsets"):
        if not entry.has(field):
            raise CheckpointError(f"{entry.where}: field {field!r} is missing")
    shape = entry.integers("shape", at_most=_LARGEST_SIZE)
    offsets, dtype = entry.integers("data_offsets", at_most=_LARGEST_SIZE), DTYPES[kind]
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CheckpointError(
            f"{entry.where}: field 'data_offsets' must be the first byte and the one after the last, found "
            f"{show(offsets)}"
        )
    begin, end = offsets
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise CheckpointError(
            f"{entry.where} of shape {list(shape)} and dtype {kind} needs {math.prod(shape) * dtype.itemsize} bytes, "
            f"its header gives it {end - begin}"
        )
    if start + end > size:
        raise CheckpointError(
            f"{file}: truncated: tensor {name!r} ends at byte {start + end}, the file has {size} bytes"
        )
    return Tensor(name, file, dtype, shape, start + begin)


def _refuse_overlap(tensors: Iterable[Tensor]) -> None:
    """Raises CheckpointError if two tensors share bytes."""
    last = None
    for tensor in sorted((tensor for tensor in tensors if math.prod(tensor.shape)), key=lambda t: t.offset):
        if last is not None and tensor.offset < last.offset + math.prod(last.shape) * last.dtype.itemsize:
            raise CheckpointError(f"{tensor.file}: tensors {last.name!r} and {tensor.name!r} share bytes")
        last = tensor


def read_directory(directory: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint: `model.safetensors`, or else the shards of `model.safetensors.index.json`.

    Of both, the one file is read, as transformers does, and the index is logged.

    Raises:
      CheckpointError: no safetensors, a missing shard, or an index that does not agree with the shards.
    """
    index, single = directory / "model.safetensors.index.json", directory / "model.safetensors"
    if single.exists():
        if index.exists():
            _LOG.warning("%s: read instead of the shards of %s, as in transformers", single, index.name)
        return read_header(single)
    if not index.exists():
        if single.is_symlink():
            raise CheckpointError(f"{single}: a link to a file that is not there; finish the download")
        others = sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []
        pickles = [name for name in others if name.endswith((".bin", ".pt", ".pth", ".ckpt"))]
        if pickles:
            raise CheckpointError(
                f"{directory}: holds only pickled weights ({pickles[0]}), which are never opened because "
                "they can run code; expected model.safetensors: save the model again with safetensors"
            )
        raise CheckpointError(
            f"{directory}: expected model.safetensors or model.safetensors.index.json, found "
            f"{others[:8] or 'nothing'}{no_weights(others)}"
        )
    places = _places(index)
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(places.values())):
        file = directory / shard
        if not os.path.exists(file):  # False, too, for a name that is too long
            raise CheckpointError(
                f"{file}: missing shard; {index.name} places {_count(places, shard)} tensors in it"
            )
        found = read_header(file)
        for name in found:
            if places.get(name) != shard:
                raise CheckpointError(
                    f"{file}: tensor {name!r} is here but {index.name} places it in {places.get(name)}"
                )
        tensors.update(found)
    for name, shard in places.items():
        if name not in tensors:
            raise CheckpointError(
                f"{directory / shard}: tensor {name!r} is missing; {index.name} places it here"
            )
    return tensors


def names(directory: Path) -> list[str]:
    """Names of a checkpoint's tensors; none if it has no weights."""
    index, single = directory / "model.safetensors.index.json", directory / "model.safetensors"
    if single.exists():
        return list(read_header(single))
    return list(_places(index)) if index.exists() else []


def _places(index: Path) -> dict[str, str]:
    """The shard of each tensor, from an index file: files within the checkpoint's directory only."""
    places = dict(Fields(str(index), read_json_object(index)).section("weight_map").values)
    if not places:
        raise CheckpointError(f"{index}: expected an object 'weight_map' with the file of each tensor")
    for name, shard in places.items():
        inside = isinstance(shard, str) and shard and "\0" not in shard
        if not inside or Path(shard).is_absolute() or ".." in Path(shard).parts:
            raise CheckpointError(
                f"{index}: tensor {name!r} must lie in a file of this directory, found {show(shard)}"
            )
    return places


def _count(places: Mapping[str, str], shard: str) -> int:
    return sum(place == shard for place in places.values())


def equal(first: Tensor, second: Tensor) -> bool:
    """Compares two tensors, bit for bit."""
    if (first.dtype, first.shape) != (second.dtype, second.shape):
        return False
    rows = first.shape[0]
    pieces = ((_map_rows(t, i, min(i + 1024, rows)).view(np.uint8) for t in (first, second))
              for i in range(0, rows, 1024))  # fmt: skip
    return all(np.array_equal(left, right) for left, right in pieces)


def read_block(tensor: Tensor, rows: slice, columns: slice, out: np.ndarray) -> None:
    """Copies a block of a tensor into `out`, cast to the dtype of `out`, reading no other bytes.

    The tensor is taken as a matrix [first axis, all others] (a vector as one column), and `out` has the shape
    of the block, in any memory order (a transposed view transposes). Whole rows are read in large pieces,
    parts of rows through a map of the file.

    Raises:
      CheckpointError: a value is not finite, or the file ends early.
    """
    whole = (columns.start, columns.stop) == (0, math.prod(tensor.shape[1:]))
    row_bytes = (columns.stop - columns.start) * tensor.dtype.itemsize
    step = max(1, CHUNK_BYTES // max(1, row_bytes))

    def copy(start: int) -> None:
        stop = min(start + step, rows.stop)
        target = out[start - rows.start : stop - rows.start]
        direct = whole and target.dtype == tensor.dtype and target.flags.c_contiguous
        if whole:
            block = target if direct else np.empty(target.shape, tensor.dtype)
            _pread(descriptor, block, tensor.offset + start * row_bytes)
        else:
            block = _map_rows(tensor, start, stop)[:, columns].copy()
        block = cast(block, out.dtype)
        if not all_finite(block):
            raise CheckpointError(_first_not_finite(tensor, block, start, columns.start))
        if not direct:
            _copy_tiles(block, target)

    descriptor = os.open(tensor.file, os.O_RDONLY)
    try:
        starts = range(rows.start, rows.stop, step)
        if len(starts) == 1:
            copy(rows.start)
        else:
            with ThreadPoolExecutor(READ_THREADS) as pool:
                list(pool.map(copy, starts))
    finally:
        os.close(descriptor)


# Bits that are all ones in NaN and infinity, and in no other value.
_EXPONENTS = {
    "float32": (np.uint32, 0x7F800000),
    "float16": (np.uint16, 0x7C00),
    "bfloat16": (np.uint16, 0x7F80),
}


def all_finite(block: np.ndarray) -> bool:
    """True if an array has neither NaN nor infinity."""
    if block.dtype.name not in _EXPONENTS:
        return bool(np.isfinite(block).all())
    unsigned, mask = _EXPONENTS[block.dtype.name]
    return not block.size or bool((block.view(unsigned) & unsigned(mask)).max() != mask)


def _first_not_finite(tensor: Tensor, block: np.ndarray, row: int, column: int) -> str:
    i, j = map(int, np.argwhere(~np.isfinite(block.astype(np.float64)))[0])
    return (
        f"{tensor.file}: tensor {tensor.name!r} has {block[i, j]} at row {row + i}, column {column + j} as "
        f"{block.dtype.name}; expected finite weights"
    )


def cast(block: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """`block` in this dtype; itself if it has it. What is beyond the range of the dtype becomes infinite."""
    if block.dtype == DTYPES["BF16"] and dtype == DTYPES["F32"]:
        return (block.view(np.uint16).astype(np.uint32) << 16).view(np.float32)  # exact, and much faster
    with np.errstate(over="ignore"):
        return block.astype(dtype, copy=False)


def aligned_empty(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """An uninitialised array at a multiple of 64 bytes, which a CPU device takes over without a copy."""
    size = math.prod(shape) * dtype.itemsize
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


def _copy_tiles(block: np.ndarray, target: np.ndarray) -> None:
    """target[...] = block, fast also where the memory orders of the two differ."""
    if block.dtype.itemsize == 2:
        block, target = block.view(np.uint16), target.view(np.uint16)  # numpy is slow with dtypes not its own
    for i in range(0, len(block), TILE_ROWS):
        target[i : i + TILE_ROWS] = block[i : i + TILE_ROWS]


def _map_rows(tensor: Tensor, start: int, stop: int) -> np.ndarray:
    """Rows of a tensor as a map of the file, [stop - start, columns]; memory is used for what is touched."""
    width = math.prod(tensor.shape[1:])
    place = tensor.offset + start * width * tensor.dtype.itemsize
    return np.memmap(tensor.file, tensor.dtype, "r", place, (stop - start, width))


def _pread(descriptor: int, out: np.ndarray, offset: int) -> None:
    buffer, done = memoryview(out.reshape(-1).view(np.uint8)), 0
    while done < len(buffer):
        count = os.preadv(descriptor, [buffer[done:]], offset + done)
        if count == 0:
            raise CheckpointError(f"a safetensors file ended at byte {offset + done} while it was read")
        done += count


def write_file(
    file: Path, tensors: Sequence[tuple[str, np.dtype, tuple[int, ...]]], data: Iterable[np.ndarray]
) -> None:
    """Writes one file.

    Args:
      file: where.
      tensors: name, dtype and shape of each, in the order of `data`.
      data: the arrays, made one at a time.
    """
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, dtype, shape in tensors:
        length = math.prod(shape) * dtype.itemsize
        entry = {"dtype": DTYPE_NAMES[dtype], "shape": list(shape), "data_offsets": [offset, offset + length]}
        header[name], offset = entry, offset + length
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(file, "wb") as stream:
        stream.write(len(text).to_bytes(8, "little"))
        stream.write(text)
        for array in data:
            stream.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
