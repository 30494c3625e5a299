"""Statistics against brute force and the formulas of a book."""

import itertools
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
    assert result.standard_error == pytest.approx(
        math.sqrt(sum((v - values.mean()) ** 2 for v in values) / 39 / 40)
    )
    assert math.isnan(statistics.estimate([]).mean) and math.isnan(statistics.estimate([1.0]).standard_error)


def test_pass_at_1_is_over_problems_whatever_their_numbers_of_samples():
    result = statistics.pass_at_1({"a": [True] * 16, "b": [True, False], "c": [False] * 4})
    assert result.mean == pytest.approx(0.5)
    assert result.standard_error == pytest.approx(0.5 / math.sqrt(3))


@pytest.mark.parametrize("count", [2, 3, 10])
def test_the_p_value_of_few_problems_counts_all_signs(count):
    generator = np.random.default_rng(count)
    first, second = generator.integers(0, 17, count) / 16, generator.integers(0, 17, count) / 16
    differences = first - second
    sums = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in itertools.product((-1, 1), repeat=count)
    ]
    result = statistics.paired_difference(first, second)
    assert result.difference == pytest.approx(np.mean(differences))
    assert result.p_value == pytest.approx(np.mean(np.array(sums) >= abs(differences.sum()) - 1e-12))


def test_the_p_value_of_many_problems_is_near_the_t_tests():
    generator = np.random.default_rng(0)
    first, second = generator.random(200) + 0.04, generator.random(200)
    result = statistics.paired_difference(first, second)
    expected = scipy.stats.ttest_rel(first, second).pvalue
    assert 0.02 < expected < 0.5 and result.p_value == pytest.approx(expected, abs=0.01)
    assert result.standard_error == pytest.approx(np.std(first - second, ddof=1) / math.sqrt(200))
    assert result == statistics.paired_difference(first, second)


def test_paired_difference_at_the_edges():
    assert statistics.paired_difference([1, 0, 1], [1, 0, 1]).p_value == 1.0
    assert statistics.paired_difference([1] * 30, [0] * 30).p_value < 1e-4
    assert statistics.paired_difference([], []).count == 0
    assert statistics.paired_difference([1], [0]).p_value == 1.0
    with pytest.raises(ValueError, match="2 values are compared with 1"):
        statistics.paired_difference([1, 2], [1])


def test_holms_correction_rejects_what_his_procedure_does():
    """Step by step: the least p value is compared with level / n, the next with level / (n - 1), until one is greater."""
    generator = np.random.default_rng(0)
    for _ in range(50):
        p_values = generator.random(6) ** 4
        corrected = statistics.holm(p_values)
        for level in (0.01, 0.05, 0.2):
            rejected = set()
            for place, index in enumerate(np.argsort(p_values)):
                if p_values[index] > level / (len(p_values) - place):
                    break
                rejected.add(int(index))
            assert {i for i, p in enumerate(corrected) if p <= level} == rejected
    assert statistics.holm([]) == [] and statistics.holm([0.9, 0.8]) == [1.0, 1.0]


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
