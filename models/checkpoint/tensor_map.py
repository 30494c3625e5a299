"""The tensors of a checkpoint that make up each parameter of a decoder, and their memory order."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from models.config import ModelConfig
from models.families import FAMILIES
from models.families.keys import Entry


class Part(NamedTuple):
    """One tensor's share of a parameter.

    index: place along the parameter's leading stack axes (layer, expert); () if it has none.
    name: the tensor. row: its first row that belongs to this parameter. entry: the table entry.
    """

    index: tuple[int, ...]
    name: str
    row: int
    entry: Entry


def dotted(key: Sequence[str | int]) -> str:
    """Path of a parameter as one string, e.g. "layers.0.attention.q.kernel"."""
    return ".".join(map(str, key))


def parts_of_parameters(
    config: ModelConfig, shapes: Mapping[str, tuple[int, ...]], outputs_first: Collection[str] = ()
) -> dict[str, list[Part]]:
    """For each parameter (dotted path -> shape) the tensors that it consists of.

    Args:
      outputs_first: paths of kernels whose axes are [*outputs, *inputs].
    """
    parts: dict[str, list[Part]] = {path: [] for path in shapes}
    for pattern, entry in FAMILIES[config.family].keys.items():
        for numbers in _numbers(pattern, config):
            row = 0
            for path in entry.paths:
                target, index = _locate(path, numbers, shapes)
                if target is not None:
                    lies = entry._replace(inputs=-entry.inputs) if target in outputs_first else entry
                    parts[target].append(Part(index, pattern.format(**numbers), row, lies))
                    row += tensor_shape(shapes[target][len(index) :], lies)[0]
    return parts


def tensors_of_parts(
    parts: Mapping[str, list[Part]], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """The tensors that a checkpoint must have, name -> shape (fused ones with the rows of all parts)."""
    expected: dict[str, tuple[int, ...]] = {}
    for path, shares in parts.items():
        for index, name, row, entry in shares:
            rows, *columns = tensor_shape(shapes[path][len(index) :], entry)
            expected[name] = (max(row + rows, expected.get(name, (0,))[0]), *columns)
    return expected


def tensor_shape(shape: tuple[int, ...], entry: Entry) -> tuple[int, ...]:
    """Shape in the checkpoint of a parameter's block (without stack axes)."""
    n = entry.inputs
    if n:
        first, last = math.prod(shape[:n]), math.prod(shape[n:])
        return (last, first) if n > 0 else (first, last)
    return shape if entry.matrix else (math.prod(shape),)


def as_tensor(block: np.ndarray, entry: Entry) -> np.ndarray:
    """A view of a parameter's block with the axes of the tensor, as a matrix (a vector is one column)."""
    rows, *columns = tensor_shape(block.shape, entry)
    if entry.inputs > 0:
        return block.reshape(columns[0], rows).T
    return block.reshape(rows, columns[0] if columns else 1)


def tensor_slices(index: tuple[slice, ...], shape: tuple[int, ...], entry: Entry) -> tuple[slice, slice]:
    """Rows and columns of the tensor that hold the shard `index` of a parameter's block of this shape."""
    if entry.inputs:
        n = entry.inputs
        first, last = _flatten(index[:n], shape[:n]), _flatten(index[n:], shape[n:])
        return (last, first) if n > 0 else (first, last)
    if entry.matrix:
        return _flatten(index[:1], shape[:1]), _flatten(index[1:], shape[1:])
    return _flatten(index, shape), slice(0, 1)


def _flatten(index: tuple[slice, ...], shape: tuple[int, ...]) -> slice:
    """A slice of the first axis as a slice of all axes flattened; sharding keeps the others whole."""
    inner = math.prod(shape[1:])
    for axis, size in zip(index[1:], shape[1:], strict=True):
        assert axis.indices(size)[:2] == (0, size), (
            f"only the first of the axes {shape} can be split, got {index}"
        )
    start, stop, _ = index[0].indices(shape[0])
    return slice(start * inner, stop * inner)


def _numbers(pattern: str, config: ModelConfig) -> Iterator[dict[str, int]]:
    """All values of the placeholders of a pattern."""
    layers = range(config.num_layers) if "{layer}" in pattern else range(1)
    if "{expert}" in pattern:
        experts = range(config.experts.num_experts if config.experts else 0)
    else:
        experts = range(1)
    for layer in layers:
        for expert in experts:
            yield {k: v for k, v in (("layer", layer), ("expert", expert)) if f"{{{k}}}" in pattern}


def _locate(
    path: str, numbers: Mapping[str, int], parameters: Mapping[str, object]
) -> tuple[str | None, tuple[int, ...]]:
    """The parameter of a path pattern and the index on its stack axes; (None, ()) if there is none."""
    expert = (numbers["expert"],) if "expert" in numbers else ()
    if (unrolled := path.format(**numbers)) in parameters:
        return unrolled, expert
    stacked = path.replace("{layer}.", "")
    if stacked in parameters:
        return stacked, (numbers["layer"], *expert)
    return None, ()
