"""Functions of rows of which only the first few matter: a row that is left out is time saved on a CPU."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


@dataclasses.dataclass(frozen=True)
class Leading:
    """Applies functions of rows to the first rows of arrays [1, p, ...], which alone matter, and maybe some more.

    Programs are made for all rows, for three quarters and half of them, and so on down to `least`.

    Attributes:
      count: how many matter, int32 scalar.
      least: it is mostly a multiple of that.
    """

    count: jax.Array
    least: int = 1

    def __call__(self, function: Callable, *arrays_1p: jax.Array) -> Any:
        """`function` of the first rows, with zeros for the rows that were left out.

        Args:
          function: of arrays [1, p, ...], to one or several [1, p, ...]; a row depends on the same row only.
        """
        total = arrays_1p[0].shape[1]
        sizes = program_sizes(total, self.least)

        def of_first(size):
            def padded(x_1p):
                return jnp.pad(x_1p, [(0, 0), (0, total - size), *[(0, 0)] * (x_1p.ndim - 2)])

            return lambda *arrays_1p: jax.tree.map(padded, function(*(x_1p[:, :size] for x_1p in arrays_1p)))

        smaller = sum(self.count > size for size in sizes[:-1])
        return lax.switch(smaller, [of_first(size) for size in sizes], *arrays_1p)


def program_sizes(total: int, least: int) -> list[int]:
    """Numbers of rows for which there are programs, ascending: so many that few rows are computed in vain."""
    sizes, half = {total}, total
    while half > least:
        for rows in (-(-3 * half // 4), -(-half // 2)):
            sizes.add(min(total, -(-rows // least) * least))
        half = -(-half // 2)
    return sorted(sizes)
