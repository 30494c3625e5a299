"""Every program of a search and of a student is compiled and timed."""

import importlib.util

import pytest

from benchmarks import compile as benchmark
from cord_jax.errors import UserError

FLAGS = benchmark.FLAGS


@pytest.mark.slow
def test_every_program_is_compiled(flags, tmp_path):
    flags(model_shape="tiny", layers=1, beam_width=2, slots=2, max_length=64)
    result = benchmark.measure(benchmark.FLAGS, tmp_path)
    (found,) = result["seconds"].values()
    assert {"round", "token loop", "scoring", "commit", "student's step"} <= set(found)
    assert min(min(times.values()) for times in found.values()) > 0
    lines = benchmark.table(result).splitlines()
    assert lines[1] == "for cpu"
    assert len(lines) == 2 + len(found)


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="libtpu is installed")
def test_topology_without_its_compiler(flags, tmp_path):
    flags(topology="v5e:2x2")
    with pytest.raises(UserError, match="libtpu"):
        benchmark.measure(benchmark.FLAGS, tmp_path)
