"""Label distributions: what they sum to, what they are spread over, and what is refused."""

import doctest

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import slsr.labels
from slsr.errors import InputError
from slsr.labels import Targets, lsr, lsro, make_targets, one_hot
from slsr.labels import slsr as sparse


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


@given(clusters(), st.lists(st.integers(0, 3), min_size=1, max_size=30))
def test_targets_are_the_distributions_of_their_images(case, kinds):
    classes, cluster = case
    choices = [sparse(cluster), lsro(classes), one_hot(classes - 1), lsr(0, classes, 0.3)]
    distributions = [choices[kind] for kind in kinds]
    targets = make_targets(distributions, classes)
    assert targets.table.dtype == torch.float32
    assert targets.table.shape[0] <= len(set(kinds)), "equal distributions are kept once"
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
        ([5], [1.0], r"\[5\] of 0\.\.4"),
        ([0, 5], [0.5, 0.5], r"of 0\.\.4"),
        ([-1], [1.0], r"\[-1\] of 0\.\.4"),
        ([], [], r"of 0\.\.4"),
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
    assert doctest.testmod(slsr.labels).failed == 0
    assert doctest.testmod(slsr.labels).attempted >= 3
