"""Every program of a search and of a student is compiled and timed."""

import importlib.util

import pytest

from benchmarks import compile as benchmark
from cord_jax.errors import UserError


@pytest.fixture
def flags():
    saved = benchmark.FLAGS.flag_values_dict()
    yield lambda **values: benchmark.FLAGS(["c", *(f"--{name}={value}" for name, value in values.items())])
    for name, value in saved.items():
        benchmark.FLAGS[name].value = value


@pytest.mark.slow
def test_round_takes_longer_than_its_parts(flags, tmp_path):
    flags(model_shape="tiny", layers=1, beam_width=2, slots=2, max_length=64)
    result = benchmark.measure(benchmark.FLAGS, tmp_path)
    (found,) = result["seconds"].values()
    compiled = {name: times["compile"] for name, times in found.items()}
    assert max(compiled, key=compiled.get) == "round"
    assert min(min(times.values()) for times in found.values()) > 0
    lines = benchmark.table(result).splitlines()
    assert lines[1] == "for cpu"
    assert len(lines) == 2 + len(found)


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="libtpu is installed")
def test_topology_without_its_compiler(flags, tmp_path):
    flags(topology="v5e:2x2")
    with pytest.raises(UserError, match="libtpu"):
        benchmark.measure(benchmark.FLAGS, tmp_path)
