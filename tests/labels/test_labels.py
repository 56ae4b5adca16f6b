"""Label distributions: what they sum to, what they are spread over, and what is refused."""

import doctest

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import slsr.labels
from slsr.errors import InputError
from slsr.labels.distributions import likeliest, lsr, lsro, multi_pseudo_label, one_hot, slsr_nearest, slsr_weighted
from slsr.labels.distributions import slsr as sparse
from slsr.labels.targets import Targets, make_targets, real_targets, with_generated


def dense(distribution, classes):
    """By hand, without `make_targets`."""
    index, weight = distribution
    vector = np.zeros(classes)
    for label, share in zip(index.tolist(), weight.tolist(), strict=True):
        vector[label] += share
    return vector


@st.composite
def clusters(draw):
    classes = draw(st.integers(1, 800))
    return classes, draw(st.lists(st.integers(0, classes - 1), min_size=1, max_size=60, unique=True))


@given(clusters())
def test_a_sparse_label_sums_to_one_over_its_cluster_and_nothing_else(case):
    classes, cluster = case
    index, weight = sparse(cluster)
    assert (index.dtype, weight.dtype) == (np.int32, np.float32)
    assert index.tolist() == sorted(cluster)
    vector = dense((index, weight), classes)
    assert abs(vector.sum() - 1) < 1e-5
    assert set(np.flatnonzero(vector)) == set(cluster)
    np.testing.assert_allclose(vector[cluster], 1 / len(cluster), rtol=1e-6)


@given(clusters(), st.randoms())
def test_the_order_of_a_cluster_does_not_matter(case, shuffler):
    _, cluster = case
    shuffled = list(cluster)
    shuffler.shuffle(shuffled)
    for one, two in zip(sparse(cluster), sparse(shuffled), strict=True):
        np.testing.assert_array_equal(one, two)


@given(st.integers(1, 1500))
def test_a_cluster_of_everybody_is_lsro(classes):
    for one, two in zip(sparse(list(range(classes))), lsro(classes), strict=True):
        assert one.dtype == two.dtype
        np.testing.assert_array_equal(one, two)
    np.testing.assert_allclose(dense(lsro(classes), classes), np.full(classes, 1 / classes), rtol=1e-6)


@given(st.integers(0, 1500))
def test_a_cluster_of_one_is_one_hot(label):
    for one, two in zip(sparse([label]), one_hot(label), strict=True):
        assert one.dtype == two.dtype
        np.testing.assert_array_equal(one, two)
    assert dense(one_hot(label), label + 3).tolist() == [0.0] * label + [1.0, 0.0, 0.0]


@given(st.integers(1, 900).flatmap(lambda c: st.tuples(st.just(c), st.integers(0, c - 1))), st.floats(0, 0.999))
def test_label_smoothing_is_its_formula(case, epsilon):
    classes, label = case
    expected = np.full(classes, epsilon / classes)
    expected[label] = 1 - epsilon + epsilon / classes
    vector = dense(lsr(label, classes, epsilon), classes)
    np.testing.assert_allclose(vector, expected, rtol=1e-5, atol=1e-9)
    assert abs(vector.sum() - 1) < 1e-4


def test_no_smoothing_is_one_hot():
    for one, two in zip(lsr(4, 9, 0.0), one_hot(4), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("identities", [[], [1, 1], [3, 2, 3]])
def test_a_cluster_names_each_identity_once(identities):
    with pytest.raises(ValueError, match="distinct identities, at least one"):
        sparse(identities)


@given(
    clusters().flatmap(lambda case: st.tuples(st.just(case), st.lists(st.integers(1, 40), min_size=60, max_size=60)))
)
def test_weights_are_shares_of_the_images_of_a_cluster(case):
    (classes, cluster), many = case
    counts = many[: len(cluster)]
    distribution = slsr_weighted(cluster, counts)
    assert (distribution[0].dtype, distribution[1].dtype) == (np.int32, np.float32)
    images = [label for label, count in zip(cluster, counts, strict=True) for _ in range(count)]
    expected = np.zeros(classes)
    for label in images:
        expected[label] += 1 / len(images)
    np.testing.assert_allclose(dense(distribution, classes), expected, rtol=1e-5)


@given(clusters(), st.integers(1, 30))
def test_equal_counts_are_slsr(case, count):
    _, cluster = case
    for one, two in zip(slsr_weighted(cluster, [count] * len(cluster)), sparse(cluster), strict=True):
        assert one.dtype == two.dtype
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(("identities", "counts"), [([], []), ([1], []), ([1, 2], [3]), ([1, 2], [3, 0]), ([1], [-1])])
def test_every_identity_has_a_count(identities, counts):
    with pytest.raises(ValueError, match="a count of at least 1 for each identity"):
        slsr_weighted(identities, counts)
    with pytest.raises(ValueError, match="distinct"):
        slsr_weighted([1, 1], [2, 2])


@given(clusters(), st.lists(st.integers(0, 59), min_size=1, max_size=40))
def test_each_of_the_nearest_images_gives_its_share_to_its_identity(case, picks):
    classes, people = case
    neighbors = [people[pick % len(people)] for pick in picks]
    distribution = slsr_nearest(neighbors)
    assert (distribution[0].dtype, distribution[1].dtype) == (np.int32, np.float32)
    assert distribution[0].tolist() == sorted(set(neighbors)), "stored sparse"
    expected = np.zeros(classes)
    for label in neighbors:
        expected[label] += 1 / len(neighbors)
    np.testing.assert_allclose(dense(distribution, classes), expected, rtol=1e-6)
    assert abs(distribution[1].sum(dtype=np.float64) - 1) < 1e-5
    for one, two in zip(slsr_nearest(neighbors), slsr_nearest(neighbors[::-1]), strict=True):
        np.testing.assert_array_equal(one, two)


@given(clusters())
def test_nearest_images_of_different_people_are_slsr_and_one_is_one_hot(case):
    _, people = case
    for label, expected in ((slsr_nearest(people), sparse(people)), (slsr_nearest(people[:1]), one_hot(people[0]))):
        for one, two in zip(label, expected, strict=True):
            assert one.dtype == two.dtype
            np.testing.assert_array_equal(one, two)


def test_a_label_without_nearest_images_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        slsr_nearest([])


def random_logits(rows, classes, seed, ties=False):
    logits = 3 * torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed))
    return logits.round() if ties else logits


@given(st.integers(1, 5), st.integers(1, 60), st.integers(0, 500), st.booleans())
def test_a_pseudo_label_is_one_hot_of_the_likeliest(rows, classes, seed, ties):
    logits = random_logits(rows, classes, seed, ties)
    found = likeliest(logits)
    assert found.dtype == torch.float32
    for row, label in zip(logits.tolist(), found.tolist(), strict=True):
        best = max(range(classes), key=lambda k: (row[k], -k))
        assert label == dense(one_hot(best), classes).tolist()


@given(st.integers(1, 5), st.integers(1, 60), st.integers(0, 500), st.booleans())
def test_a_multi_pseudo_label_weighs_by_rank(rows, classes, seed, ties):
    logits = random_logits(rows, classes, seed, ties)
    found = multi_pseudo_label(logits)
    assert found.dtype == torch.float32
    for row, label in zip(logits.softmax(dim=1).tolist() if not ties else logits.tolist(), found.tolist(), strict=True):
        ranks = [sum((other, j) <= (value, k) for j, other in enumerate(row)) for k, value in enumerate(row)]
        assert sorted(ranks) == list(range(1, classes + 1))
        np.testing.assert_allclose(label, [2 * rank / (classes * (classes + 1)) for rank in ranks], rtol=1e-5)
        assert abs(sum(label) - 1) < 1e-4


def test_a_multi_pseudo_label_by_hand():
    found = multi_pseudo_label(torch.tensor([[0.1, 4.0, -2.0, 1.0]]))
    torch.testing.assert_close(found, torch.tensor([[2.0, 4.0, 1.0, 3.0]]) / 10)


@pytest.mark.parametrize("classes", [751, 1501])
def test_multi_pseudo_labels_of_a_published_size_sum_to_one(classes):
    found = multi_pseudo_label(random_logits(4, classes, 0).bfloat16())
    torch.testing.assert_close(found.double().sum(dim=1), torch.ones(4, dtype=torch.float64), atol=1e-5, rtol=0)
    assert float(found.max()) == pytest.approx(2 / (classes + 1), rel=1e-5)


def test_hundreds_of_clusters_make_hundreds_of_rows():
    """300 clusters of Market-1501's size: one row a cluster, whatever the number of images."""
    generator = np.random.default_rng(0)
    members = [np.sort(generator.choice(751, 1 + number % 60, replace=False)).tolist() for number in range(300)]
    labels = [sparse(cluster) for cluster in members]
    of_image = generator.integers(0, 300, 12_000)
    real = real_targets(torch.arange(12_936) % 751)
    targets = with_generated(real, of_image, dict(enumerate(labels)))
    assert targets.table.shape[0] == 751 + 300
    some = torch.tensor([0, 12_935, 12_936, 20_000, 24_935])
    expected = [dense(one_hot(0), 751), dense(one_hot(12_935 % 751), 751)]
    expected += [dense(labels[of_image[row - 12_936]], 751) for row in (12_936, 20_000, 24_935)]
    np.testing.assert_allclose(targets.batch(some), expected, rtol=1e-6)


def test_equal_labels_of_images_share_a_row():
    """1,000 images with 50 different labels of 8 neighbors among 751 people; the batch is that of a naive loop."""
    generator = np.random.default_rng(1)
    labels = [slsr_nearest(generator.integers(0, 30, 8) * 25) for _ in range(50)]
    of_image = generator.integers(0, 50, 1000)
    real = real_targets(torch.arange(751))
    targets = with_generated(real, of_image, dict(enumerate(labels)))
    assert targets.table.shape == (751 + 50, 751)
    images = generator.permutation(1000)[:64]
    expected = [dense(labels[of_image[image]], 751) for image in images]
    np.testing.assert_allclose(targets.batch(torch.from_numpy(751 + images)), expected, rtol=1e-6)


@given(clusters(), st.lists(st.integers(0, 3), min_size=1, max_size=30))
def test_targets_are_the_distributions_of_their_images(case, kinds):
    classes, cluster = case
    choices = [sparse(cluster), lsro(classes), one_hot(classes - 1), lsr(0, classes, 0.3)]
    distributions = [choices[kind] for kind in kinds]
    targets = make_targets(choices, classes, torch.tensor(kinds))
    assert targets.table.dtype == torch.float32
    assert targets.row.dtype == torch.int64
    expected = [dense(distribution, classes) for distribution in distributions]
    np.testing.assert_allclose(targets.batch(torch.arange(len(kinds))), expected, rtol=1e-6)
    some = torch.tensor([len(kinds) - 1, 0, 0])
    np.testing.assert_allclose(targets.batch(some), [expected[i] for i in some.tolist()], rtol=1e-6)


def test_targets_of_a_published_size_sum_to_one():
    targets = make_targets([lsro(751), sparse(list(range(0, 751, 3))), one_hot(750)], 751)
    torch.testing.assert_close(targets.table.double().sum(dim=1), torch.ones(3, dtype=torch.float64), atol=1e-5, rtol=0)


def test_targets_move_to_a_device():
    targets = Targets(torch.eye(3), torch.tensor([2, 0])).to(torch.device("meta"))
    assert targets.table.device.type == targets.row.device.type == "meta"


def pair(index, weight):
    return np.array(index, np.int32), np.array(weight, np.float32)


@pytest.mark.parametrize(
    ("index", "weight", "part"),
    [
        ([5], [1.0], r"\[5\], not all in 0\.\.4"),
        ([0, 5], [0.5, 0.5], r"not all in 0\.\.4"),
        ([-1], [1.0], r"\[-1\], not all in 0\.\.4"),
        ([], [], r"not all in 0\.\.4"),
        ([1, 2], [0.5, 0.4], "sum 0.9"),
        ([1, 2], [0.6, 0.5], "sum 1.1"),
        ([1], [0.0], "sum 0.0"),
        ([1, 2], [1.5, -0.5], r"\[1\.5, -0\.5\]"),
        ([1], [np.nan], "nan"),
        ([1, 2], [np.inf, 0.5], "inf"),
        ([1, 1], [0.5, 0.5], "each label once"),
        ([1, 2], [1.0], "one weight for each"),
        ([1], [0.5, 0.5], "one weight for each"),
    ],
)
def test_what_is_no_distribution_over_the_identities_is_refused(index, weight, part):
    with pytest.raises(InputError, match=part):
        make_targets([one_hot(0), pair(index, weight)], 5)


def test_the_examples_in_the_documentation_hold():
    assert doctest.testmod(slsr.labels.distributions).failed == 0
    assert doctest.testmod(slsr.labels.distributions).attempted >= 4
