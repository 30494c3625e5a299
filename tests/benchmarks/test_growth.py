"""What is measured of a search's growth is a search of the size that was asked for, compiled beforehand."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import growth
from cord_jax.errors import UserError

FLAGS = growth.FLAGS


@pytest.mark.slow
def test_beams_share_their_past(flags, tmp_path):
    """`measure` refuses a search of other than the 3 steps that were asked for."""
    flags(steps="", beams="1,4", proposers="", slots="1", at_steps=3, at_beams=1, at_proposers=1)
    flags(at_slots=1, limit=3, repetitions=1)
    result = growth.measure(growth.FLAGS, tmp_path)
    one, four = result["sweeps"]["beams"]
    assert result["sweeps"]["slots"] == [one]
    assert (four["steps"], four["beams"], four["compilations"]) == (3, 4, 0)
    assert four["bytes"]["pools"] < 3 * one["bytes"]["pools"]
    assert four["bytes"]["rings"] == 4 * one["bytes"]["rings"]
    assert "compiled" in growth.table(result)


def test_compilations_are_counted():
    def double(x):
        return 2 * x

    program, x = jax.jit(double), jnp.ones(5)
    with growth.compilations() as compiled:
        program(x)
        program(x)
    jax.jit(lambda x: 3 * x)(x)
    assert len(compiled) == 1


def test_list_of_something_else(flags, tmp_path):
    flags(beams="1,two")
    with pytest.raises(UserError, match="--beams=1,two"):
        growth.measure(growth.FLAGS, tmp_path)
