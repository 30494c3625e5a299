"""Functions of rows of which only the first few matter: for CPUs, where a row that is left out is time saved."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


@dataclasses.dataclass(frozen=True)
class Leading:
    """The first rows of arrays [1, x, ...], which alone matter.

    Attributes:
      count: how many, int32 scalar.
      least: it is mostly a multiple of that.
    """

    count: jax.Array
    least: int = 1


def program_sizes(total: int, least: int) -> list[int]:
    """Numbers of rows for which there are programs, ascending: so many that few rows are computed in vain."""
    sizes, half = {total}, total
    while half > least:
        for rows in (-(-3 * half // 4), -(-half // 2)):
            sizes.add(min(total, -(-rows // least) * least))
        half = -(-half // 2)
    return sorted(sizes)


def of_leading(rows: Leading | None, function: Callable, *arrays_1x: jax.Array) -> Any:
    """`function` of the first `rows.count` rows and maybe some more, of all where `rows` is None.

    Programs are made for all rows, for three quarters and half of them, and so on down to `rows.least`.

    Args:
      function: of arrays [1, x, ...], to one or several [1, x, ...]; a row depends on the same row only.

    Returns: what it gives, with zeros for the rows that were left out.
    """
    if rows is None:
        return function(*arrays_1x)
    total = arrays_1x[0].shape[1]
    sizes = program_sizes(total, rows.least)

    def of_first(size):
        def padded(x_1x):
            return jnp.pad(x_1x, [(0, 0), (0, total - size), *[(0, 0)] * (x_1x.ndim - 2)])

        return lambda *arrays_1x: jax.tree.map(padded, function(*(x_1x[:, :size] for x_1x in arrays_1x)))

    smaller = sum(rows.count > size for size in sizes[:-1])
    return lax.switch(smaller, [of_first(size) for size in sizes], *arrays_1x)
