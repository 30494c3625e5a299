"""On the miniature too, the engine's traces equal those of a brute-force search over torch models."""

import json

import pytest

from cord_jax.miniature import ASSETS, HELD_OUT_PROBLEMS, POOL
from cord_jax.pool import read_pool
from tests.reference.search import reference_search
from tests.reference.settings import MetaProver, Pool, Proposer
from tests.search.inputs import write_inputs
from tests.search.test_reference_equality import assert_same, engine_rows

LIMITS = dict(max_steps=14, max_step_tokens=24, max_thinking_tokens=224, max_answer_tokens=48)


@pytest.mark.parametrize(
    "slots, settings",
    [
        pytest.param(8, dict(beam_width=2), marks=pytest.mark.slow),
        pytest.param(1, dict(beam_width=4), marks=pytest.mark.slow),
        pytest.param(8, dict(beam_width=2, selector="binary_judgment", judgments=1), marks=pytest.mark.slow),
        pytest.param(8, dict(beam_width=2, selector="confidence"), marks=pytest.mark.slow),
        pytest.param(1, dict(beam_width=2, decoding="mcts", max_expansions=12), marks=pytest.mark.slow),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else str(value),
)
def test_miniature_equals_brute_force(tmp_path, slots, settings):
    spec = read_pool(POOL)
    proposers = tuple(
        Proposer(p.name, ASSETS / p.name, system_prompt=p.system_prompt) for p in spec.proposers
    )
    pool = Pool(proposers, MetaProver(spec.meta_prover.checkpoint, spec.meta_prover.system_prompt))
    rows = [json.loads(line) for line in HELD_OUT_PROBLEMS.read_text(encoding="utf-8").splitlines()]
    problems = [next(row for row in rows if row["steps"] == steps) for steps in (6, 7, 8)]
    write_inputs(tmp_path, pool, problems)
    found = engine_rows(tmp_path, "run", slots=slots, grader="exact", **settings, **LIMITS)
    settings = {name: value for name, value in settings.items() if name != "judgments"}
    for trace, tree in reference_search(pool, problems, **settings, **LIMITS):
        extra = {name: found[trace["id"]][0].pop(name) for name in ("steps",)}
        assert_same(({**found[trace["id"]][0], **extra}, found[trace["id"]][1]), (trace, tree))
