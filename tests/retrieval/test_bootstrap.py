"""Intervals and paired tests over people: against a loop, another library, theory, and simulated truth."""

import json

import numpy as np
import pytest
from naive import clustered
from scipy import stats

from slsr.errors import InputError
from slsr.retrieval import (
    Evaluation,
    Labels,
    QueryValues,
    SingleGalleryShot,
    compare,
    evaluate,
    evaluate_distances,
    evaluate_reranked,
    headline,
    intervals,
    paired_differences,
)
from slsr.retrieval.bootstrap import resampled_means
from slsr.retrieval.workers import Workers


def of(values, people=None, directions=None):
    """Values [Q, M] with short names."""
    values = np.asarray(values, float)
    optional = (None if one is None else np.asarray(one) for one in (people, directions))
    return QueryValues(values, tuple("abcdefg"[: values.shape[1]]), *optional)


def expanded_tail(people):
    return stats.norm.cdf(-np.sqrt(people / (people - 1)) * stats.t.ppf(0.975, people - 1))


def test_two_people_say_nothing():
    """With 100 equal queries each: however many queries there are, another person may be found always or never."""
    two = of(np.repeat([0.0, 1.0], 100)[:, None], np.repeat([5, 9], 100))
    assert intervals(two).tolist() == [[0, 1]]
    (found,) = paired_differences(of(np.zeros((200, 1)), two.people), two).values()
    assert found.ci95 == (0, 1)
    assert found.p > 0.5


def test_means_are_those_of_drawn_people_with_all_their_queries():
    random = np.random.default_rng(1)
    people = random.permutation(np.repeat([40, 2, 17, 5, 8], [1, 9, 4, 2, 5]))
    values = random.random((21, 2))
    found = resampled_means(of(values, people), resamples=50, seed=9)
    drawn = np.random.default_rng(9).integers(0, 5, (50, 5), dtype=np.int32)
    for mean, persons in zip(found, np.unique(people)[drawn], strict=True):
        queries = [row for person in persons for row in range(21) if people[row] == person]
        np.testing.assert_allclose(mean, values[queries].mean(axis=0))


def test_both_directions_of_a_person_are_drawn_together():
    """The mean is that of two means; here every person is found in one direction alone, and so the mean is certain."""
    random = np.random.default_rng(2)
    people = np.concatenate([np.arange(12), np.arange(12), [3, 3, 4]])
    directions = np.repeat([0, 1], [12, 15])
    values = random.random((27, 1))
    found = resampled_means(of(values, people, directions), resamples=20, seed=3)
    drawn = np.random.default_rng(3).integers(0, 12, (20, 12), dtype=np.int32)
    for mean, persons in zip(found, drawn, strict=True):
        rows = [[q for p in persons for q in range(27) if people[q] == p and directions[q] == d] for d in (0, 1)]
        np.testing.assert_allclose(mean, np.mean([values[one].mean() for one in rows]))
    mirrored = np.concatenate([values[:12], 1 - values[:12]])
    certain = intervals(of(mirrored, people[:24], directions[:24]))
    np.testing.assert_allclose(certain, [[0.5, 0.5]])
    assert np.ptp(intervals(of(mirrored, people[:24] + 50 * directions[:24], directions[:24]))) > 0.1


def test_one_query_per_person_is_the_bootstrap_over_queries_up_to_the_expansion():
    values = np.random.default_rng(2).gamma(2.0, size=(30, 3))
    means = values[np.random.default_rng(5).integers(0, 30, (4000, 30), dtype=np.int32)].mean(axis=1)
    expected = np.quantile(means, [expanded_tail(30), 1 - expanded_tail(30)], axis=0).T
    for people in (None, np.arange(30)):
        np.testing.assert_allclose(intervals(of(values, people), resamples=4000, seed=5), expected)
    plain = np.quantile(means, [0.025, 0.975], axis=0).T
    assert (expected[:, 0] < plain[:, 0]).all()
    assert (expected[:, 1] > plain[:, 1]).all()


def test_with_many_people_intervals_are_those_of_scipy():
    values = np.random.default_rng(2).gamma(2.0, size=(1000, 3))
    found = intervals(of(values), resamples=20_000, seed=0)
    for column, (low, high) in zip(values.T, found, strict=True):
        theirs = stats.bootstrap((column,), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
        assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.01)


@pytest.mark.parametrize("people", [4, 12])
def test_with_few_people_intervals_are_near_those_of_a_t_test(people):
    values = np.random.default_rng(3).normal(size=(people, 1))
    theirs = stats.ttest_1samp(values[:, 0], 0).confidence_interval(0.95)
    ((low, high),) = intervals(of(values), resamples=50_000)
    plain = np.quantile(resampled_means(of(values), resamples=50_000), [0.025, 0.975])
    assert high - low > 1.1 * np.ptp(plain)
    assert high - low == pytest.approx(theirs.high - theirs.low, rel=0.35 if people == 4 else 0.1)


def test_same_seed_same_interval_whatever_the_threads(monkeypatch):
    values = of(np.random.default_rng(0).random((50, 1)), np.arange(50) // 3)
    np.testing.assert_array_equal(intervals(values, seed=3), intervals(values, seed=3))
    assert (intervals(values, seed=3) != intervals(values, seed=4)).any()
    expected = resampled_means(values, seed=3)
    for threads in (1, 7):
        monkeypatch.setattr("slsr.retrieval.bootstrap.Workers", lambda threads=threads: Workers(threads))
        np.testing.assert_array_equal(resampled_means(values, seed=3), expected)


def test_a_long_bootstrap_is_drawn_in_parts(monkeypatch):
    values = of(np.random.default_rng(0).random((40, 2)))
    whole = resampled_means(values, resamples=100, seed=1)
    monkeypatch.setattr("slsr.retrieval.bootstrap.DRAWS_AT_ONCE", 300)
    np.testing.assert_array_equal(resampled_means(values, resamples=100, seed=1), whole)


def test_paired_p_is_near_that_of_a_t_test():
    random = np.random.default_rng(4)
    first = random.random((300, 3))
    second = first + 0.1 * random.standard_normal((300, 3)) + [0.0, 0.012, 0.05]
    found = paired_differences(of(first), of(second))
    for column, one in enumerate(found.values()):
        expected = stats.ttest_rel(second[:, column], first[:, column])
        assert one.p == pytest.approx(expected.pvalue, abs=0.02)
        assert one.difference == pytest.approx((second - first)[:, column].mean())
        np.testing.assert_allclose(one.ci95, expected.confidence_interval(), atol=2e-3)
    assert 1e-5 < found["c"].p < 3e-4, "never zero: the observed difference is one of them"


def test_p_is_below_5_percent_where_the_interval_does_not_contain_zero():
    random = np.random.default_rng(6)
    people = np.arange(60) // 5
    sides = []
    for shift in np.linspace(-2, 2, 41):
        values = random.normal(shift, 1, (60, 1)) / 4 + random.normal(0, 0.3, (12, 1))[people]
        (found,) = paired_differences(of(0 * values, people), of(values, people), resamples=2000).values()
        outside = found.ci95[0] > 0 or found.ci95[1] < 0
        sides.append(outside)
        assert outside == (found.p < 0.05) or abs(found.p - 0.05) < 0.002
    assert 5 < sum(sides) < 36


def test_pairing_beats_two_intervals():
    """Runs that share their hard queries differ significantly although their intervals overlap."""
    random = np.random.default_rng(0)
    first = random.random((400, 1))
    second = first + 0.01 + 0.02 * random.standard_normal((400, 1))
    (one, other), (low, high) = intervals(of(first))[0], intervals(of(second))[0]
    assert one < high
    assert low < other
    assert paired_differences(of(first), of(second))["a"].p < 0.001


SIZES = np.repeat([2, 3, 4, 5, 6], [6, 7, 6, 6, 7])  # the numbers of queries of 32 people
SIZES[-1] -= SIZES.sum() - 125
WHOSE = np.repeat(np.arange(32), SIZES)


def precisions(random, mean=0.0):
    """Average precisions of new people: correlated by 0.45 within a person, uniform over [0, 1] if the mean is 0."""
    latent = np.sqrt(0.47) * random.standard_normal(32)[WHOSE] + np.sqrt(0.53) * random.standard_normal(125)
    return stats.norm.cdf(latent + mean)[:, None]


def differences(random):
    """Paired differences of two networks, correlated by 0.4 within a person, with mean 0.02 and deviation 0.15."""
    return 0.02 + 0.15 * (np.sqrt(0.4) * random.standard_normal(32)[WHOSE] + np.sqrt(0.6) * random.standard_normal(125))


def coverage(truth, interval):
    held = 0
    for repeat in range(200):
        low, high = interval(repeat)
        held += low <= truth <= high
    return held / 200


def test_the_sample_is_as_simulated():
    assert (SIZES.sum(), len(SIZES), SIZES.min()) == (125, 32, 2)
    random = np.random.default_rng(0)
    pairs = np.array([precisions(random)[:2, 0] for _ in range(4000)])
    assert 0.4 < np.corrcoef(pairs.T)[0, 1] < 0.5


def test_the_interval_of_one_run_holds_for_other_people():
    def interval(people):
        random = np.random.default_rng(11)
        return lambda repeat: intervals(of(precisions(random), people), resamples=1000, seed=repeat)[0]

    assert 0.92 <= coverage(0.5, interval(WHOSE)) <= 0.97
    assert coverage(0.5, interval(None)) < 0.90, "queries as the unit: too narrow"


def test_the_interval_of_a_paired_difference_holds_for_other_people():
    def interval(people):
        random = np.random.default_rng(5)

        def one(repeat):
            first = precisions(random)
            second = first + differences(random)[:, None]
            return paired_differences(of(first, people), of(second, people), resamples=1000, seed=repeat)["a"].ci95

        return one

    assert 0.92 <= coverage(0.02, interval(WHOSE)) <= 0.97
    assert coverage(0.02, interval(None)) < 0.90, "queries as the unit: too narrow"


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


def test_runs_over_other_queries_or_people_are_refused():
    values = np.zeros((2, 3))
    one = evaluate_distances(values, Labels([1, 2], [1, 1, 1], [0, 0], [1, 1, 1]))
    other = evaluate_distances(values, Labels([2, 1], [1, 1, 1], [0, 0], [1, 1, 1]))
    with pytest.raises(InputError, match="the same queries"):
        compare(one, other)
    ranks = np.array([1, 2, 3], np.int32)
    first, second, unknown = (
        Evaluation(np.arange(4), ranks, 9, None if people is None else np.array(people))
        for people in ([1, 1, 2], [1, 2, 2], None)
    )
    with pytest.raises(InputError, match="differ in people: query 1 has 1 and 2"):
        compare(first, second)
    with pytest.raises(InputError, match="only one of the two runs knows the people"):
        compare(first, unknown)
    with pytest.raises(InputError, match="3 and 4 queries"):
        paired_differences(of(np.zeros((3, 1))), of(np.zeros((4, 1))))
    with pytest.raises(InputError, match="different measures: a and a, b"):
        paired_differences(of(np.zeros((3, 1))), of(np.zeros((3, 2))))
    with pytest.raises(InputError, match="differ in directions"):
        paired_differences(of(np.zeros((2, 1)), [1, 2], [0, 1]), of(np.zeros((2, 1)), [1, 2], [1, 0]))


def test_headline_keys_and_bounds():
    query, gallery, labels = clustered(30, 200, 6, noise=2.0)
    result = evaluate(query, gallery, labels)
    found = headline(result, resamples=500, seed=1)
    keys = ["rank1", "rank5", "rank10", "rank20", "map_trapezoid", "map_standard", "minp"]
    assert list(found) == [name for key in keys for name in (key, f"{key}_ci95")] + ["queries", "people", "gallery"]
    for key in keys:
        low, high = found[f"{key}_ci95"]
        assert low - 1e-9 <= found[key] <= high + 1e-9
        assert found[key] == result.means()[key]
    assert (found["queries"], found["gallery"]) == (result.queries, 200)
    assert found["people"] == len(set(labels.query_identities[result.valid].tolist())) < 30


def test_every_evaluation_of_labels_knows_its_people():
    query, gallery, labels = clustered(30, 200, 6, noise=2.0)
    junk = Labels(
        labels.query_identities,
        np.where(np.arange(200) % 7, labels.gallery_identities, -1),
        labels.query_cameras,
        labels.gallery_cameras,
    )
    for found in (
        evaluate(query, gallery, junk),
        evaluate_distances(np.zeros((30, 200)), labels),
        evaluate_reranked(query, gallery, junk, junk=False),
    ):
        assert found.identities.tolist() == labels.query_identities.tolist()
        assert found.gallery == 200


def test_without_identities_every_query_is_a_person_and_the_result_says_so():
    ranks = np.arange(1, 21, dtype=np.int32)
    unknown = headline(Evaluation(np.arange(21), ranks, 99), resamples=500)
    single = headline(Evaluation(np.arange(21), ranks, 99, np.arange(20)), resamples=500)
    assert unknown["people"] is None
    assert unknown == single | {"people": None}


def test_one_person_has_no_interval():
    one = Evaluation(np.arange(4), np.array([1, 2, 3], np.int32), 9, np.array([5, 5, 5]))
    other = Evaluation(np.arange(4), np.array([1, 1, 1], np.int32), 9, np.array([5, 5, 5]))
    assert intervals(one.query_values()) is None
    found = json.loads(json.dumps(headline(one), allow_nan=False))
    assert (found["rank1"], found["rank1_ci95"], found["people"]) == (pytest.approx(1 / 3), None, 1)
    difference = compare(one, other)["rank1"]
    assert (difference.difference, difference.ci95, difference.p) == (pytest.approx(2 / 3), None, None)


def test_the_interval_of_single_gallery_shot_is_that_of_its_mean():
    """One direction finds half of the people and the other all of them: the number is 0.75, within its interval."""
    matched = np.concatenate([np.repeat([[0.0], [1.0]], 8, axis=0), np.ones((16, 1))])
    people = np.tile(np.arange(16), 2)
    result = SingleGalleryShot(matched, np.repeat([0, 1], 16), np.arange(32), people, 32)
    found = headline(result)
    assert found["rank1"] == 0.75
    assert found["rank1_ci95"][0] < 0.75 < found["rank1_ci95"][1]
    assert (found["queries"], found["people"], found["gallery"]) == (32, 16, 32)
    certain = compare(result, result)["rank1"]
    assert (certain.ci95, certain.p) == ((0, 0), 1)
    first, second = intervals(of(matched[:16], people[:16]))[0]
    half = (np.array([first, second]) + 1) / 2
    np.testing.assert_allclose(found["rank1_ci95"], half)


def test_pseudovalues_have_the_mean_over_queries():
    random = np.random.default_rng(0)
    for directions in (None, random.integers(0, 2, 40)):
        found = of(random.random((40, 3)), random.integers(0, 9, 40), directions)
        np.testing.assert_allclose(found.pseudovalues().mean(axis=0), list(found.means().values()))


def test_values_that_do_not_fit_are_refused():
    for values in (np.zeros((0, 1)), np.array([[np.nan]])):
        with pytest.raises(InputError, match="finite, not empty"):
            of(values)
    with pytest.raises(InputError, match="have shape"):
        QueryValues(np.zeros(3), ("a",))
    with pytest.raises(InputError, match="3 queries have 2 people"):
        of(np.zeros((3, 1)), [1, 2])
    with pytest.raises(InputError, match="0 resamples"):
        intervals(of(np.zeros((3, 1))), resamples=0)
