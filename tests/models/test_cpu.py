"""Functions of the first rows, against the same functions of all rows; the greatest number, against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import cpu
from models.cpu.leading import Leading, program_sizes


@pytest.mark.parametrize("total, least", [(1, 1), (5, 1), (24, 1), (24, 8), (20, 8)])
def test_the_first_rows_are_computed_and_others_may_be_zero(total, least):
    x_1xd = jax.random.normal(jax.random.key(0), (1, total, 3))
    kernel = jnp.arange(6.0).reshape(3, 2)

    def function(x_1xd, place_1x):
        return x_1xd @ kernel + 1, 2 * place_1x

    @jax.jit
    def found(count):
        return Leading(count, least)(function, x_1xd, jnp.arange(total)[None])

    expected = function(x_1xd, jnp.arange(total)[None])
    for count in range(total + 1):
        for all_rows, some_rows in zip(expected, found(count), strict=True):
            np.testing.assert_allclose(some_rows[:, :count], all_rows[:, :count], rtol=1e-6)
            rest = np.asarray(some_rows[:, count:])
            assert np.all((rest == 0) | np.isclose(rest, all_rows[:, count:], rtol=1e-6))


@given(total=st.integers(1, 300), least=st.integers(1, 64), data=st.data())
def test_few_rows_are_computed_in_vain(total, least, data):
    sizes = program_sizes(total, least)
    assert sizes == sorted(set(sizes)) and sizes[-1] == total
    count = data.draw(st.integers(1, total))
    program = next(size for size in sizes if size >= count)
    assert program < 1.5 * count + 2 * least


@given(st.lists(st.integers(-3, 3), min_size=12, max_size=12))
def test_the_first_of_the_greatest(numbers):
    rows = np.array([numbers, numbers[::-1]], np.float32)
    assert cpu.argmax(jnp.asarray(rows)).tolist() == np.argmax(rows, axis=1).tolist()
