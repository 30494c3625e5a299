"""Monte Carlo tree search, and selectors that need no answer, equal a brute-force search over transformers' torch models."""

import pytest

from tests.reference.search import reference_search
from tests.reference.tiny import PROBLEMS
from tests.search.inputs import LIMITS
from tests.search.test_reference_equality import assert_same, engine_rows


@pytest.mark.parametrize(
    "exploration, slots", [(0.2, 8), pytest.param(1.0, 1, marks=pytest.mark.slow)], ids=["narrow", "wide"]
)
def test_mcts_equals_brute_force(pools, exploration, slots):
    directory, pool = pools("prompt", 1)
    settings = dict(decoding="mcts", beam_width=2, exploration=exploration, max_expansions=6)
    found = engine_rows(directory, f"mcts-{exploration}", slots=slots, **settings, **LIMITS)
    for trace, tree in reference_search(pool, PROBLEMS, **settings, **LIMITS):
        assert_same(found[trace["id"]], (trace, tree))
