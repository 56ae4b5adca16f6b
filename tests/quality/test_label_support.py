"""The nearest training images of an image, and how much of a prediction is on the support of a label."""

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from slsr.labels.distributions import lsro, one_hot, slsr, slsr_nearest
from slsr.quality import label_support
from slsr.quality.features import unit_rows
from slsr.quality.label_support import LabeledPredictions, chance_on_support, measure_label_support, on_support
from slsr.quality.measures import nearest_rows

CLASSES = 7


def points(count, seed, width=16):
    return unit_rows(np.random.default_rng(seed).normal(0, 1, (count, width)).astype(np.float32))


@pytest.mark.parametrize("k", [1, 8, 300])
def test_nearest_rows_are_those_of_scikit_learn(k):
    fake, real = points(700, 1), points(300, 2)
    expected = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(real.astype(np.float64))
    np.testing.assert_array_equal(nearest_rows(fake, real, k), expected.kneighbors(fake, return_distance=False))


@pytest.mark.parametrize("k", [1, 8, 299])
def test_nearest_rows_among_themselves_leave_out_the_image_itself(k):
    real = points(300, 2)
    expected = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(real.astype(np.float64))
    np.testing.assert_array_equal(nearest_rows(real, None, k), expected.kneighbors(return_distance=False))


def test_equally_near_images_are_in_the_order_of_their_rows():
    """Each image is there five times, far apart in the table, where a matrix product rounds each copy otherwise."""
    real = np.tile(points(101, 3, width=37), (5, 1))
    fake = points(50, 4, width=37)
    found = nearest_rows(fake, real, 13) % 101
    for row, rows in zip(found, nearest_rows(fake, real, 13), strict=True):
        assert row.tolist() == [row[0]] * 5 + [row[5]] * 5 + [row[10]] * 3
        for copies in (rows[:5], rows[5:10], rows[10:]):
            assert copies.tolist() == [copies[0] + 101 * number for number in range(len(copies))]
            assert copies[0] < 101


def test_the_order_of_nearly_equal_distances_is_not_that_of_rounding():
    """Differences of squared distances of 1e-9 are lost in float32 products."""
    width = 64
    base = points(1, 5, width=width)[0].astype(np.float64)
    step = np.zeros(width)
    step[0], step[1] = base[1], -base[0]
    real = np.array([base + (1 + 1e-4 * number) * 1e-3 * step for number in range(40)]).astype(np.float32)
    fake = base.astype(np.float32)[None]
    exact = np.square(real.astype(np.float64) - fake).sum(axis=1)
    order = np.random.default_rng(6).permutation(40)
    found = nearest_rows(fake, real[order], 20)[0]
    assert exact[order][found].tolist() == sorted(exact)[:20]


labels = st.one_of(
    st.lists(st.integers(0, CLASSES - 1), min_size=1, unique=True).map(slsr),
    st.lists(st.integers(0, CLASSES - 1), min_size=1, max_size=8).map(slsr_nearest),
    st.integers(0, CLASSES - 1).map(one_hot),
    st.just(lsro(CLASSES)),
)


@given(st.lists(labels, max_size=9), st.integers(0, 1000))
def test_support_is_a_sum_over_the_identities_with_a_weight(chosen, seed):
    probabilities = np.random.default_rng(seed).dirichlet(np.ones(CLASSES), len(chosen))
    found, chance = on_support(probabilities, chosen), chance_on_support(chosen, CLASSES)
    assert len(found) == len(chance) == len(chosen)
    for row, label, value, share in zip(probabilities, chosen, found, chance, strict=True):
        weights = dict(zip(label[0].tolist(), label[1].tolist(), strict=True))
        expected = sum(row[identity] for identity in range(CLASSES) if weights.get(identity, 0) > 0)
        assert value == pytest.approx(expected)
        assert share == pytest.approx(len(weights) / CLASSES)


def test_an_identity_without_weight_is_not_on_the_support():
    label = (np.array([0, 1, 2], np.int32), np.array([0.5, 0.0, 0.5], np.float32))
    assert on_support(np.array([[0.1, 0.6, 0.3]]), [label]) == pytest.approx([0.4])
    assert chance_on_support([label], 4) == pytest.approx([0.5])


def test_support_of_all_images_and_of_each_cluster_beside_chance_and_real_ones():
    stream = np.random.default_rng(2)
    of_clusters = [slsr([0, 1, 2]), slsr([2, 3, 4, 5, 6]), slsr([6])]

    def images(clusters):
        labels = {
            "slsr": [of_clusters[cluster] for cluster in clusters],
            "slsr-nearest": [slsr_nearest(stream.integers(0, CLASSES, 3)) for _ in clusters],
        }
        return LabeledPredictions(stream.dirichlet(np.ones(CLASSES), len(clusters)), np.array(clusters), labels)

    generated, real = images([0, 0, 0, 1]), images([1, 0, 2, 1, 0])
    for cluster in (None, 0, 1, 2):
        found = measure_label_support(generated, real, cluster)
        for kind in ("slsr", "slsr-nearest"):
            values, chances, references = [], [], []
            for images_, sums in ((generated, values), (real, references)):
                for row, (own, label) in enumerate(zip(images_.clusters, images_.labels[kind], strict=True)):
                    if cluster in (None, own):
                        sums.append(sum(images_.probabilities[row, identity] for identity in label[0]))
                        if images_ is generated:
                            chances.append(len(label[0]) / CLASSES)
            assert found[kind]["reference"] == pytest.approx(np.mean(references), abs=1e-6)
            if cluster == 2:
                assert (found[kind]["value"], found[kind]["chance"]) == (None, None)
            else:
                assert found[kind]["value"] == pytest.approx(np.mean(values), abs=1e-6)
                assert found[kind]["chance"] == pytest.approx(np.mean(chances), abs=1e-6)


def test_an_even_prediction_has_the_support_of_chance_and_a_sure_one_all_of_it():
    clusters, of_images = np.zeros(4, int), {"slsr": [slsr([1, 5]), slsr([0]), slsr([5, 6, 1]), lsro(CLASSES)]}
    even = LabeledPredictions(np.full((4, CLASSES), 1 / CLASSES), clusters, of_images)
    sure = LabeledPredictions(np.eye(CLASSES)[[5, 0, 1, 3]], clusters, of_images)
    found = measure_label_support(even, sure)["slsr"]
    assert found["value"] == pytest.approx(found["chance"], abs=2e-6)
    assert found["reference"] == 1


def test_the_examples_in_the_documentation_hold():
    assert doctest.testmod(label_support).failed == 0
    assert doctest.testmod(label_support).attempted >= 1
