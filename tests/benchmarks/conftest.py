"""Benchmarks are called with flags that are put back afterwards."""

import pytest


@pytest.fixture
def flags(request):
    """Sets flags of the benchmark whose `FLAGS` the test's module names: `flags(limit=4, slots=2)`."""
    found = request.module.FLAGS
    saved = found.flag_values_dict()
    yield lambda **values: found(["test", *(f"--{name}={value}" for name, value in values.items())])
    for name, value in saved.items():
        found[name].value = value
