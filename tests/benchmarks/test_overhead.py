"""Where the time goes: rounds that run in parts find what the engine finds, and the parts add up."""

import pytest

from benchmarks import overhead
from cord_jax.engine.teachers import load_teachers
from cord_jax.mesh import parse_mesh
from cord_jax.methods import search_of
from cord_jax.pool import read_pool
from cord_jax.problems import read_problems
from tests.reference.tiny import PROBLEMS, write_pool
from tests.search.inputs import LIMITS, make_engine, outcomes, write_inputs

FLAGS = overhead.FLAGS


@pytest.mark.slow
def test_parts_of_rounds_find_what_the_engine_finds(tmp_path):
    write_inputs(tmp_path, write_pool(tmp_path, 1), PROBLEMS)
    mesh = parse_mesh("data:1,model:1")
    teachers = load_teachers(read_pool(tmp_path / "pool.toml"), mesh)
    problems = read_problems(tmp_path / "problems.jsonl")
    staged = overhead.StagedEngine(teachers, problems, search_of(**LIMITS | {"slots": 2}), mesh)
    assert outcomes(staged) == outcomes(make_engine(tmp_path, slots=2))
    seconds = staged.seconds.total() + 1
    split = staged.split(seconds)
    assert set(split) == set(overhead.PARTS) and min(split.values()) > 0
    assert sum(split.values()) == pytest.approx(seconds - staged.seconds["score"])


@pytest.mark.slow
def test_the_table(flags, tmp_path):
    flags(lengths="realistic", model_shape="tiny", shrink=32, limit=2, slots=2, beam_width=2, max_steps=3)
    result = overhead.measure(overhead.FLAGS, tmp_path)
    methods = result["methods"]
    assert methods["cord"]["tokens"]["sampled"] > methods["greedy"]["tokens"]["sampled"]
    assert methods["curation"]["steps"] == 1
    assert methods["binary_judgment"]["tokens"]["judged"] > 0 == methods["cord"]["tokens"]["judged"]
    assert "cord / curation" in overhead.table(result)
