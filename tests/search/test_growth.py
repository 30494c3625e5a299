"""A run goes on with more problems, and with nothing else."""

import json

import pytest

from cord_jax.errors import UserError
from cord_jax.growth import identity_in, identity_of
from cord_jax.problems import Problem
from cord_jax.run_directory import open_run
from tests.reference.tiny import PROBLEMS
from tests.search.inputs import LIMITS, write_inputs
from tests.search.test_reference_equality import assert_same, engine_rows

MANY = [Problem(str(i), f"What is {i} + 1?", str(i + 1)) for i in range(5)]


def test_problems_may_come_behind(tmp_path):
    open_run(tmp_path, job="x", settings={}, inputs={"problems": identity_of(MANY[:3])}).close()
    assert identity_in(tmp_path, MANY, may_grow=True) == identity_of(MANY[:3])
    assert identity_in(tmp_path, MANY[:3], may_grow=True) == identity_of(MANY[:3])
    for other in (MANY[1:], [MANY[1], MANY[0], *MANY[2:]], MANY[:2]):
        assert identity_in(tmp_path, other, may_grow=True) == identity_of(other)
    assert identity_in(tmp_path, MANY, may_grow=False) == identity_of(MANY)
    assert identity_in(tmp_path / "none", MANY, may_grow=True) == identity_of(MANY)


@pytest.mark.slow
def test_a_run_grows_with_its_limit_and_its_file(pools, tmp_path):
    directory, pool = pools("prompt", 1)
    settings = dict(beam_width=2, slots=8, **LIMITS)
    write_inputs(tmp_path, pool, PROBLEMS[:2])
    first = engine_rows(tmp_path, "run", limit=1, **settings)
    again = engine_rows(tmp_path, "run", **settings)
    write_inputs(tmp_path, pool, PROBLEMS)
    found = engine_rows(tmp_path, "run", **settings)
    assert [len(rows) for rows in (first, again, found)] == [1, 2, len(PROBLEMS)]
    for rows in (first, again):
        assert all(found[name] == row for name, row in rows.items())
    whole = engine_rows(directory, "whole", **settings)
    for name, row in whole.items():
        assert_same(found[name], ({k: v for k, v in row[0].items() if k not in ("seconds", "run")}, row[1]))
    assert json.loads((tmp_path / "run" / "config.json").read_text())["inputs"]["problems"]["count"] == 3
    with pytest.raises(UserError, match="problems.count|count 3"):
        engine_rows(tmp_path, "run", limit=2, **settings)
    write_inputs(tmp_path, pool, PROBLEMS[::-1])
    with pytest.raises(UserError, match="sha256"):
        engine_rows(tmp_path, "run", **settings)
