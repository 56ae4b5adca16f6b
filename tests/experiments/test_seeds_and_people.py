"""Intervals over seeds and people: known special cases, naive loops, and how often they hold the truth."""

import numpy as np
import pytest
from scipy import stats

from slsr.errors import InputError
from slsr.experiments.seeds_and_people import crossed_mean


def table(seeds, queries, of_seed, of_query, of_rest, generator, mean=0.0):
    parts = generator.normal(0, of_seed, (seeds, 1)), generator.normal(0, of_query, (1, queries))
    return mean + parts[0] + parts[1] + generator.normal(0, of_rest, (seeds, queries))


def test_where_queries_do_not_matter_it_is_the_t_test_of_the_seeds():
    of_seed = np.array([0.1, 0.3, -0.2, 0.25, 0.15])
    found = crossed_mean(np.repeat(of_seed[:, None], 40, axis=1))
    expected = stats.ttest_1samp(of_seed, 0)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.ci95 == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_where_seeds_do_not_matter_it_is_the_normal_interval_of_the_queries():
    of_query = np.random.default_rng(0).normal(0.1, 1, 60)
    found = crossed_mean(np.repeat(of_query[None, :], 4, axis=0))
    reach = stats.norm.ppf(0.975) * of_query.std(ddof=1) / np.sqrt(60)
    assert found.ci95 == pytest.approx((of_query.mean() - reach, of_query.mean() + reach))


def test_mean_squares_are_those_of_loops():
    values = table(4, 9, 0.3, 0.5, 0.4, np.random.default_rng(1), mean=0.2)
    mean = values.mean()
    seeds = sum(9 * (values[s].mean() - mean) ** 2 for s in range(4)) / 3
    queries = sum(4 * (values[:, q].mean() - mean) ** 2 for q in range(9)) / 8
    rest = 0.0
    for s in range(4):
        for q in range(9):
            rest += (values[s, q] - values[s].mean() - values[:, q].mean() + mean) ** 2 / 24
    total = seeds + max(queries - rest, 0)
    reach = stats.t.ppf(0.975, total**2 / (seeds**2 / 3)) * np.sqrt(total / 36)
    assert crossed_mean(values).ci95 == pytest.approx((mean - reach, mean + reach))


@pytest.mark.parametrize(("of_seed", "of_query", "of_rest"), [(1, 0.1, 1), (0.1, 2, 1), (0.3, 1, 3), (0, 0, 1)])
def test_it_holds_the_truth_as_often_as_it_says(of_seed, of_query, of_rest):
    generator = np.random.default_rng(2)
    held = 0
    for _ in range(600):
        low, high = crossed_mean(table(5, 60, of_seed, of_query, of_rest, generator, mean=0.7)).ci95
        held += low <= 0.7 <= high
    assert held / 600 >= 0.925


def test_equal_runs_differ_in_nothing():
    found = crossed_mean(np.zeros((3, 10)))
    assert (found.mean, found.ci95, found.p) == (0, (0, 0), 1)


@pytest.mark.parametrize("shape", [(1, 10), (5, 1)])
def test_one_seed_or_one_query_is_refused(shape):
    with pytest.raises(InputError, match="at least two of each"):
        crossed_mean(np.ones(shape))


def test_an_interval_ends_where_the_mean_cannot_be():
    values = np.repeat(np.array([[0.1], [0.9]]), 4, axis=1)
    assert crossed_mean(values, (0, 1)).ci95 == (0, 1)
    assert crossed_mean(values).ci95[1] > 1
