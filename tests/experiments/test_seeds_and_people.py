"""Intervals over seeds and people: known special cases, naive loops, and how often they hold the truth."""

import numpy as np
import pytest
from scipy import stats

from slsr.errors import InputError
from slsr.experiments.seeds_and_people import crossed_mean
from slsr.retrieval import QueryValues


def table(seeds, people, of_seed, of_person, of_rest, generator, mean=0.0):
    parts = generator.normal(0, of_seed, (seeds, 1)), generator.normal(0, of_person, (1, people))
    return mean + parts[0] + parts[1] + generator.normal(0, of_rest, (seeds, people))


def test_where_people_do_not_matter_it_is_the_t_test_of_the_seeds():
    of_seed = np.array([0.1, 0.3, -0.2, 0.25, 0.15])
    found = crossed_mean(np.repeat(of_seed[:, None], 40, axis=1))
    expected = stats.ttest_1samp(of_seed, 0)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.ci95 == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_where_seeds_do_not_matter_it_is_the_t_test_of_the_people():
    of_person = np.random.default_rng(0).normal(0.1, 1, 12)
    found = crossed_mean(np.repeat(of_person[None, :], 4, axis=0))
    expected = stats.ttest_1samp(of_person, 0)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.ci95 == pytest.approx(tuple(expected.confidence_interval(0.95)))


@pytest.mark.parametrize("of_person", [1.0, 0.0])
def test_mean_squares_are_those_of_loops(of_person):
    values = table(4, 9, 0.3, of_person, 0.4, np.random.default_rng(1), mean=0.2)
    mean = values.mean()
    seeds = sum(9 * (values[s].mean() - mean) ** 2 for s in range(4)) / 3
    people = sum(4 * (values[:, p].mean() - mean) ** 2 for p in range(9)) / 8
    rest = 0.0
    for s in range(4):
        for p in range(9):
            rest += (values[s, p] - values[s].mean() - values[:, p].mean() + mean) ** 2 / 24
    assert seeds > rest
    assert (people > rest) == (of_person > 0)
    total = seeds + people - rest if people > rest else seeds
    freedom = total**2 / (seeds**2 / 3 + people**2 / 8 + rest**2 / 24) if people > rest else 3
    reach = stats.t.ppf(0.975, freedom) * np.sqrt(total / 36)
    assert crossed_mean(values).ci95 == pytest.approx((mean - reach, mean + reach))


@pytest.mark.parametrize(("of_seed", "of_person", "of_rest"), [(1, 0.1, 1), (0.1, 2, 1), (0.3, 1, 3), (0, 0, 1)])
def test_it_holds_the_truth_as_often_as_it_says(of_seed, of_person, of_rest):
    generator = np.random.default_rng(2)
    held = 0
    for _ in range(600):
        low, high = crossed_mean(table(5, 32, of_seed, of_person, of_rest, generator, mean=0.7)).ci95
        held += low <= 0.7 <= high
    assert held / 600 >= 0.925


def of_networks(random, people, seeds=5, of_seed=0.03):
    """The pseudovalues of five networks on 125 queries of 32 people, as on the sample: correlated by 0.45 in a person.

    Means of networks differ with deviation 0.03, and each network finds some people and some queries harder.
    """
    whose = np.repeat(np.arange(32), np.repeat([2, 3, 5, 6], [8, 9, 8, 7]))[:125]
    shared = 0.2 * random.standard_normal(32)[whose] + 0.2 * random.standard_normal(len(whose))
    own = 0.08 * random.standard_normal((seeds, 32))[:, whose] + 0.1 * random.standard_normal((seeds, len(whose)))
    values = of_seed * random.standard_normal((seeds, 1)) + shared + own + 0.6
    own_people = whose if people else None
    return np.stack([QueryValues(row[:, None], ("map",), own_people).pseudovalues()[:, 0] for row in values])


@pytest.mark.parametrize("of_seed", [0.03, 0.0])
def test_it_holds_the_truth_for_other_people_with_as_many_queries_as_the_sample(of_seed):
    def coverage(people):
        random = np.random.default_rng(8)
        found = [crossed_mean(of_networks(random, people, of_seed=of_seed)).ci95 for _ in range(400)]
        return np.mean([low <= 0.6 <= high for low, high in found])

    assert 0.92 <= coverage(people=True) <= 0.97
    assert coverage(people=False) < 0.90, "queries as the case: too narrow"


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_seeds_that_agree_by_chance_are_no_proof(seeds):
    """Differences of rank-1 are -1, 0 or 1, so that seeds often have equal means: noise must not look certain."""
    generator = np.random.default_rng(4)
    found = [crossed_mean(generator.choice([-1, 0, 1], (seeds, 32), p=[0.05, 0.9, 0.05]), (-1, 1)) for _ in range(2000)]
    assert np.mean([one.p < 0.001 for one in found]) <= 0.003
    assert np.mean([one.p < 0.05 for one in found]) <= 0.06
    assert all(one.ci95[0] < one.mean < one.ci95[1] for one in found if one.mean)


def test_two_seeds_say_almost_nothing():
    held = 0
    generator = np.random.default_rng(5)
    for _ in range(1000):
        low, high = crossed_mean(table(2, 32, 0.3, 0, 1, generator, mean=0.7)).ci95
        held += low <= 0.7 <= high
    assert held / 1000 >= 0.93


def test_equal_runs_differ_in_nothing():
    found = crossed_mean(np.zeros((3, 10)))
    assert (found.mean, found.ci95, found.p) == (0, (0, 0), 1)


@pytest.mark.parametrize("shape", [(1, 10), (5, 1)])
def test_one_seed_or_one_person_is_refused(shape):
    with pytest.raises(InputError, match="at least two of each"):
        crossed_mean(np.ones(shape))


def test_an_interval_ends_where_the_mean_cannot_be():
    values = np.repeat(np.array([[0.1], [0.9]]), 4, axis=1)
    assert crossed_mean(values, (0, 1)).ci95 == (0, 1)
    assert crossed_mean(values).ci95[1] > 1
