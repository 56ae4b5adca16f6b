"""Intervals and paired tests, against another library, a loop and theory."""

import numpy as np
import pytest
from naive import clustered
from scipy import stats

from slsr.errors import InputError
from slsr.retrieval import Labels, compare, evaluate, evaluate_distances, headline, intervals, paired_differences
from slsr.retrieval.bootstrap import resampled_means


def test_means_are_those_of_drawn_queries():
    values = np.random.default_rng(1).random((30, 2))
    found = resampled_means(values, resamples=5, seed=9)
    drawn = np.random.default_rng(9).integers(0, 30, (5, 30), dtype=np.int32)
    np.testing.assert_allclose(found, [values[rows].mean(axis=0) for rows in drawn])


def test_intervals_are_those_of_scipy():
    values = np.random.default_rng(2).gamma(2.0, size=(200, 3))
    found = intervals(values, resamples=20_000, seed=0)
    for column, (low, high) in zip(values.T, found, strict=True):
        theirs = stats.bootstrap((column,), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
        assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_same_seed_same_interval():
    values = np.random.default_rng(0).random((50, 1))
    np.testing.assert_array_equal(intervals(values, seed=3), intervals(values, seed=3))
    assert (intervals(values, seed=3) != intervals(values, seed=4)).any()


def test_a_long_bootstrap_is_drawn_in_parts(monkeypatch):
    values = np.random.default_rng(0).random((40, 2))
    whole = resampled_means(values, resamples=100, seed=1)
    monkeypatch.setattr("slsr.retrieval.bootstrap.DRAWS_AT_ONCE", 300)
    np.testing.assert_array_equal(resampled_means(values, resamples=100, seed=1), whole)


def test_paired_p_is_near_that_of_a_t_test():
    random = np.random.default_rng(4)
    first = random.random((300, 3))
    second = first + 0.1 * random.standard_normal((300, 3)) + [0.0, 0.012, 0.05]
    found = paired_differences(first, second)
    for column, one in enumerate(found):
        expected = stats.ttest_rel(second[:, column], first[:, column])
        assert one.p == pytest.approx(expected.pvalue, abs=0.02)
        assert one.difference == pytest.approx((second - first)[:, column].mean())
        np.testing.assert_allclose(one.ci95, expected.confidence_interval(), atol=2e-3)
    assert found[2].p == pytest.approx(2 / 10_001), "never zero: the observed difference is one of them"


def test_pairing_beats_two_intervals():
    """Runs that share their hard queries differ significantly although their intervals overlap."""
    random = np.random.default_rng(0)
    first = random.random((400, 1))
    second = first + 0.01 + 0.02 * random.standard_normal((400, 1))
    (one, other), (low, high) = intervals(first)[0], intervals(second)[0]
    assert one < high
    assert low < other
    assert paired_differences(first, second)[0].p < 0.001


def test_equal_runs_do_not_differ():
    query, gallery, labels = clustered(30, 200, 6, noise=2.0)
    result = evaluate(query, gallery, labels)
    for difference in compare(result, result).values():
        assert (difference.difference, difference.ci95, difference.p) == (0.0, (0.0, 0.0), 1.0)


def test_compare_has_every_headline_number():
    query, gallery, labels = clustered(30, 200, 6, noise=2.0)
    first, second = evaluate(query, gallery, labels), evaluate(query, gallery, labels, normalize=False)
    found = compare(first, second)
    assert list(found) == list(first.means())
    for key, difference in found.items():
        assert difference.difference == pytest.approx(second.means()[key] - first.means()[key])


def test_runs_over_other_queries_are_refused():
    values = np.zeros((2, 3))
    one = evaluate_distances(values, Labels([1, 2], [1, 1, 1], [0, 0], [1, 1, 1]))
    other = evaluate_distances(values, Labels([2, 1], [1, 1, 1], [0, 0], [1, 1, 1]))
    with pytest.raises(InputError, match="the same queries"):
        compare(one, other)
    with pytest.raises(InputError, match="the same queries"):
        paired_differences(np.zeros((3, 1)), np.zeros((4, 1)))


def test_headline_keys_and_bounds():
    query, gallery, labels = clustered(30, 200, 6, noise=2.0)
    result = evaluate(query, gallery, labels)
    found = headline(result, resamples=500, seed=1)
    keys = ["rank1", "rank5", "rank10", "rank20", "map_trapezoid", "map_standard", "minp"]
    assert list(found) == [name for key in keys for name in (key, f"{key}_ci95")] + ["queries", "gallery"]
    for key in keys:
        low, high = found[f"{key}_ci95"]
        assert low - 1e-9 <= found[key] <= high + 1e-9
        assert found[key] == result.means()[key]
    assert (found["queries"], found["gallery"]) == (result.queries, 200)


def test_nothing_to_resample():
    for values in (np.zeros((0, 1)), np.zeros(3), np.array([[np.nan]])):
        with pytest.raises(InputError, match="to resample"):
            intervals(values)
    with pytest.raises(InputError, match="0 resamples"):
        intervals(np.zeros((3, 1)), resamples=0)
