"""Writing parts of large arrays in place, and running a part of a program once or not at all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cord_jax.mesh import parse_mesh
from cord_jax.search import slots
from cord_jax.search.jax_tools import when
from cord_jax.search.shards import Shards
from models.attention import kv_cache


@pytest.mark.parametrize("mesh", [None, "data:1,model:2", "data:1,model:8"])
@pytest.mark.parametrize("axis", kv_cache.COLUMNS)
@pytest.mark.parametrize("start", [-3, 0, 5, 12, 14, 16, 40])
def test_columns_are_written_as_far_as_they_lie_in_a_block(mesh, axis, start):
    """On one device, and on several whose columns are more and fewer than what is written."""
    rng = np.random.default_rng(0)
    shape, new_shape = [4, 2, 3, 3], [2, 2, 3, 3]
    shape[axis], new_shape[axis] = 16, 4
    x_n, new_r = rng.normal(size=shape), rng.normal(size=new_shape)
    slot_r, start_r, count_r = np.array([3, 1]), np.array([start, 6]), np.array([4, 3])
    expected = x_n.copy()
    for slot, first, count, new in zip(slot_r, start_r, count_r, new_r):
        for i in range(count):
            if 0 <= first + i < 16:
                np.moveaxis(expected[slot], axis, 0)[first + i] = np.moveaxis(new, axis, 0)[i]
    write = slots.write_columns
    if mesh is not None:
        size = int(mesh.rpartition(":")[2])
        write = Shards(parse_mesh(mesh, jax.devices()[:size]), rows=1).write_split_columns
    write = jax.jit(write, static_argnames="axis")
    found = jnp.asarray(x_n)
    for row in range(2):
        new = jnp.asarray(new_r[row : row + 1])
        found = write(found, slot_r[row], start_r[row], count_r[row], new, axis=axis)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    stack = jnp.stack([x_n, 2 * x_n])
    for row in range(2):
        new = jnp.asarray(new_r[row : row + 1])
        stack = write(stack, slot_r[row], start_r[row], count_r[row], jnp.stack([new, 2 * new]), axis=axis)
    np.testing.assert_allclose(stack, np.stack([expected, 2 * expected]), rtol=1e-6)


def test_when_runs_once_or_not_at_all():
    program = jax.jit(lambda condition, x: when(condition, lambda x: x + 1, x))
    assert program(True, 1) == 2 and program(False, 1) == 1
