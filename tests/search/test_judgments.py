"""Selectors that have the meta-prover state answers equal a brute-force search over transformers' torch models."""

import pytest

from cord_jax import synthesis
from cord_jax.grading import TextGrader
from tests.reference.search import reference_search
from tests.reference.tiny import PROBLEMS
from tests.search.inputs import LIMITS
from tests.search.test_reference_equality import assert_same, engine_rows, interrupted_rows


def even(stated: str, problem=None) -> bool:
    """Random networks never state the right answer, so the tests call some of what they say right."""
    return bool(stated) and len(stated) % 2 == 0


class Even(TextGrader):
    """Grades by `even`."""

    def grade(self, pairs):
        return [even(predicted or "") for predicted, _ in pairs]


class EvenOutside(Even):
    """As one that needs the devices, and so grades between calls of the search."""

    needs_devices = True


@pytest.fixture
def graded_by(monkeypatch):
    def patch(grader):
        monkeypatch.setattr(synthesis, "open_grader", lambda *_, **__: grader())

    return patch


JUDGED = dict(selector="binary_judgment", max_judgment_tokens=6, beam_width=2)


def expected_rows(pool, **settings):
    settings = {name: value for name, value in settings.items() if name not in ("judgments", "slots")}
    return reference_search(pool, PROBLEMS, right=even, **settings)


def scores(rows) -> set[float]:
    return {row["score"] for _, tree in rows for row in tree}


@pytest.mark.parametrize("grader, slots", [(Even, 8), pytest.param(EvenOutside, 1, marks=pytest.mark.slow)])
def test_binary_judgment_equals_brute_force(pools, graded_by, grader, slots):
    graded_by(grader)
    directory, pool = pools("prompt", 1)
    settings = JUDGED | LIMITS
    found = engine_rows(directory, grader.__name__, slots=slots, judgments=2, **settings)
    expected = expected_rows(pool, **settings)
    assert scores(expected) >= {0.0, 1.0}
    for trace, tree in expected:
        assert_same(found[trace["id"]], (trace, tree))


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(dict(beam_width=2), marks=pytest.mark.slow),
        pytest.param(dict(beam_width=2, decoding="mcts", max_expansions=6), marks=pytest.mark.slow),
        pytest.param(dict(beam_width=2, segmentation="prefix"), marks=pytest.mark.slow),
    ],
    ids=["beam", "mcts", "prefix"],
)
def test_confidence_equals_brute_force(pools, settings):
    directory, pool = pools(settings.get("segmentation", "prompt"), 1)
    settings = dict(selector="confidence", max_judgment_tokens=6) | settings | LIMITS
    found = engine_rows(directory, "confidence-" + str(settings.get("decoding")), slots=3, **settings)
    expected = expected_rows(pool, **settings)
    assert len(scores(expected)) > 8
    for trace, tree in expected:
        assert_same(found[trace["id"]], (trace, tree))


@pytest.mark.slow
def test_judged_whole_traces_equal_brute_force(pools, graded_by):
    graded_by(Even)
    directory, pool = pools("prompt", 1)
    limits = {name: LIMITS[name] for name in ("max_thinking_tokens", "max_answer_tokens")}
    settings = JUDGED | limits | dict(method="curation")
    found = engine_rows(directory, "judged-curation", slots=8, judgments=2, **settings)
    for trace, tree in expected_rows(pool, **settings):
        assert_same(found[trace["id"]], (trace, tree))


@pytest.mark.slow
def test_an_interrupted_run_goes_on_alike(pools, graded_by, monkeypatch):
    graded_by(Even)
    directory, pool = pools("prompt", 1)
    settings = JUDGED | LIMITS
    found, settled = interrupted_rows(
        directory, monkeypatch, "judged-interrupted", slots=3, judgments=2, **settings
    )
    assert settled
    for trace, tree in expected_rows(pool, **settings):
        assert_same(found[trace["id"]], (trace, tree))
