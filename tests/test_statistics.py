"""Statistics against scipy's."""

import math

import numpy as np
import pytest
import scipy.stats

from cord_jax import statistics


def test_mean_and_standard_error():
    values = np.random.default_rng(0).random(40)
    result = statistics.estimate(values)
    assert result.count == 40
    assert result.mean == pytest.approx(values.mean())
    assert result.standard_error == pytest.approx(scipy.stats.sem(values))
    assert math.isnan(statistics.estimate([]).mean) and math.isnan(statistics.estimate([1.0]).standard_error)


def test_pass_at_1_is_over_problems_whatever_their_numbers_of_samples():
    result = statistics.pass_at_1({"a": [True] * 16, "b": [True, False], "c": [False] * 4})
    assert result.mean == pytest.approx(0.5)
    assert result.standard_error == pytest.approx(scipy.stats.sem([1.0, 0.5, 0.0]))


@pytest.mark.parametrize("count", [3, 10, 16, 60])
def test_paired_difference(count):
    generator = np.random.default_rng(count)
    first, second = generator.random(count).round(2) + 0.1, generator.random(count).round(2)
    result = statistics.paired_difference(first, second)
    expected = scipy.stats.permutation_test(
        (first, second),
        lambda a, b, axis: np.mean(a - b, axis=axis),
        permutation_type="samples",
        n_resamples=100_000,
        vectorized=True,
        rng=generator,
    )
    assert result.difference == pytest.approx(np.mean(first - second))
    assert result.standard_error == pytest.approx(scipy.stats.sem(first - second))
    assert result.p_value == pytest.approx(expected.pvalue, abs=1e-9 if count <= 10 else 0.006)


def test_paired_difference_at_the_edges():
    assert statistics.paired_difference([1, 0, 1], [1, 0, 1]).p_value == 1.0
    assert statistics.paired_difference([1] * 30, [0] * 30).p_value < 1e-4
    assert statistics.paired_difference([], []).count == 0
    with pytest.raises(ValueError, match="2 values are compared with 1"):
        statistics.paired_difference([1, 2], [1])


def test_positions_split_a_trace_40_40_20():
    names = [statistics.position(i, 10) for i in range(10)]
    assert names == ["first_40"] * 4 + ["middle_40"] * 4 + ["last_20"] * 2
    assert [statistics.position(i, 5) for i in range(5)] == ["first_40"] * 2 + ["middle_40"] * 2 + ["last_20"]
    assert statistics.position(0, 1) == "middle_40"


def test_shares():
    table = statistics.shares([["a", "a", "b", "b", "c"], ["b", "a", "b", "b", "c"]], ["a", "b", "c", "idle"])
    assert table["all"] == {"a": 0.3, "b": 0.5, "c": 0.2, "idle": 0.0}
    assert table["first_40"] == {"a": 0.75, "b": 0.25, "c": 0.0, "idle": 0.0}
    assert table["last_20"] == {"a": 0.0, "b": 0.0, "c": 1.0, "idle": 0.0}
    assert statistics.shares([], ["a"])["all"] == {"a": 0.0}
