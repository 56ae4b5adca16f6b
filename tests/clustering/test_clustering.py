"""Clustering: planted clusters are found, numbered by size; silhouettes and identities against naive computation."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.metrics import silhouette_samples

from slsr.clustering import sweep as clustering
from slsr.clustering.identities import identities_of_clusters, make_up
from slsr.clustering.sweep import choose_k, number_by_size, project, sweep_clusters
from slsr.errors import InputError

SIZES = [9, 30, 17, 4]


def planted(seed=0, width=12):
    """Four groups far apart, in shuffled order: features and the group of each."""
    generator = np.random.default_rng(seed)
    centers = 20 * generator.normal(size=(len(SIZES), width))
    group = generator.permutation(np.repeat(np.arange(len(SIZES)), SIZES))
    return (centers[group] + generator.normal(size=(len(group), width))).astype(np.float32), group


def clustering_of(features, k, **settings):
    return sweep_clusters(features, [k], **settings)[k]


def naive_silhouette(features, labels):
    """(b - a) / max(a, b), image by image; 0 for the only member of a cluster."""
    distances = np.linalg.norm(features[:, None].astype(float) - features[None].astype(float), axis=2)
    values = []
    for row, own in enumerate(labels):
        others = (labels == own) & (np.arange(len(labels)) != row)
        if not others.any():
            values.append(0.0)
            continue
        inside = distances[row, others].mean()
        outside = min(distances[row, labels == other].mean() for other in set(labels.tolist()) - {own})
        values.append((outside - inside) / max(inside, outside))
    return float(np.mean(values))


@pytest.mark.parametrize("initialization", ["k-means++", "random"])
def test_planted_clusters_are_found_and_numbered_by_size(initialization):
    features, group = planted()
    found = clustering_of(features, 4, seed=1, initialization=initialization, restarts=20)
    assert np.bincount(found.assignments).tolist() == sorted(SIZES, reverse=True)
    by_size = np.argsort(-np.array(SIZES))
    np.testing.assert_array_equal(by_size[found.assignments], group)
    assert found.assignments.dtype == np.int32
    for number, original in enumerate(by_size):
        np.testing.assert_allclose(
            found.centroids[number], features[group == original].mean(axis=0), rtol=1e-4, atol=1e-3
        )
    inertia = sum(((features[group == g] - features[group == g].mean(axis=0)) ** 2).sum() for g in range(4))
    assert found.inertia == pytest.approx(inertia, rel=1e-3)


@pytest.mark.parametrize("k", [2, 3, 4, 6])
def test_the_silhouette_is_the_mean_over_images(k):
    features, _ = planted(seed=3)
    found = clustering_of(features, k, seed=1)
    assert found.silhouette == pytest.approx(naive_silhouette(features, found.assignments), abs=1e-5)
    assert found.silhouette == pytest.approx(silhouette_samples(features, found.assignments).mean(), abs=1e-6)


def test_the_planted_number_of_clusters_has_the_best_silhouette():
    features, _ = planted(seed=3)
    found = {k: clustering_of(features, k, seed=1).silhouette for k in (1, 2, 3, 4, 5)}
    assert found[1] is None
    assert choose_k(found) == 4


def test_one_cluster_or_one_image_each_has_no_silhouette():
    features, _ = planted()
    found = clustering_of(features, 1, seed=1)
    assert found.silhouette is None
    assert set(found.assignments) == {0}
    few = features[:5]
    found = clustering_of(few, 5, seed=1)
    assert found.silhouette is None
    assert sorted(found.assignments) == [0, 1, 2, 3, 4]
    assert found.assignments.tolist() == [0, 1, 2, 3, 4], "equal sizes are numbered by their first member"


def test_the_same_seed_gives_the_same_clusters():
    features = np.random.default_rng(0).normal(size=(80, 5)).astype(np.float32)
    one, two = (clustering_of(features, 6, seed=7, restarts=1) for _ in range(2))
    np.testing.assert_array_equal(one.assignments, two.assignments)
    np.testing.assert_array_equal(one.centroids, two.centroids)
    others = [clustering_of(features, 6, seed=seed, restarts=1).assignments for seed in range(8, 12)]
    assert any((one.assignments != other).any() for other in others)


def test_more_restarts_are_never_worse():
    features = np.random.default_rng(1).normal(size=(80, 5)).astype(np.float32)
    inertia = [
        clustering_of(features, 6, seed=2, restarts=restarts, initialization="random").inertia
        for restarts in (1, 5, 25)
    ]
    assert all(more <= fewer * (1 + 1e-6) for fewer, more in pairwise(inertia)), "but for rounding"
    assert inertia[2] < 0.999 * inertia[0]


def test_fewer_iterations_stop_earlier():
    features = np.random.default_rng(1).normal(size=(200, 5)).astype(np.float32)
    settings = {"seed": 2, "restarts": 1, "initialization": "random"}
    hasty, patient = (clustering_of(features, 6, max_iterations=n, **settings) for n in (1, 300))
    assert hasty.inertia > patient.inertia


def test_a_sweep_finds_for_each_k_what_it_finds_alone():
    features, _ = planted(seed=3)
    together = sweep_clusters(features, [5, 2, 1, 60], seed=4, restarts=3)
    assert list(together) == [5, 2, 1, 60]
    for k, found in together.items():
        alone = clustering_of(features, k, seed=4, restarts=3)
        np.testing.assert_array_equal(found.assignments, alone.assignments)
        np.testing.assert_array_equal(found.centroids, alone.centroids)
        assert found.inertia == alone.inertia
        assert found.silhouette == (None if alone.silhouette is None else pytest.approx(alone.silhouette, abs=1e-7))
    assert together[1].silhouette is None
    assert together[60].silhouette is None


def test_many_images_are_clustered_in_mini_batches_and_a_sample_gives_the_silhouette(monkeypatch):
    generator = np.random.default_rng(2)
    features = np.concatenate([generator.normal(center, 1, (1500, 6)) for center in (0, 6, 14)]).astype(np.float32)
    calls = []
    for name in ("k_means", "mini_batch_k_means"):
        original = getattr(clustering, name)
        monkeypatch.setattr(
            clustering, name, lambda *a, name=name, original=original, **b: calls.append(name) or original(*a, **b)
        )
    few = sweep_clusters(features, [2, 3], seed=1, minibatch_above=4500)
    many = sweep_clusters(features, [2, 3], seed=1, minibatch_above=500)
    assert calls == ["k_means"] * 2 + ["mini_batch_k_means"] * 2
    for k in (2, 3):
        assert (few[k].assignments == many[k].assignments).mean() > 0.99
        assert many[k].silhouette == pytest.approx(few[k].silhouette, abs=0.03)
        assert many[k].silhouette != few[k].silhouette
        assert many[k].silhouette == sweep_clusters(features, [2, 3], seed=1, minibatch_above=500)[k].silhouette
    assert np.bincount(many[3].assignments).tolist() == [1500] * 3


def test_more_clusters_than_images_are_refused():
    features, _ = planted()
    with pytest.raises(InputError, match=r"61 clusters are more than the 60 training images; choose at most 60"):
        clustering_of(features, 61, seed=1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_features_that_are_no_numbers_are_refused_by_row(value):
    features, _ = planted()
    features[[7, 41], 3] = value
    with pytest.raises(InputError, match=r"rows \[7, 41\] are not finite"):
        clustering_of(features, 2, seed=1)


def test_an_empty_cluster_is_refused():
    features = np.repeat(np.eye(2, dtype=np.float32), 5, axis=0)
    assert clustering_of(features, 2, seed=1).silhouette == pytest.approx(1.0)
    with pytest.raises(InputError, match=r"cluster\.k: only 2 of 3 clusters have members; choose a smaller k"):
        clustering_of(features, 3, seed=1)


@given(arrays.arrays(np.int32, st.integers(1, 40), elements=st.integers(0, 5)))
def test_numbers_follow_size_then_first_member(labels):
    k = 6
    order, renumbered = number_by_size(labels, k)
    assert sorted(order) == list(range(k))
    np.testing.assert_array_equal(order[renumbered], labels)
    sizes = [int((labels == old).sum()) for old in order]
    assert sizes == sorted(sizes, reverse=True)
    members = [labels.tolist().index(old) for old in order if (labels == old).any()]
    for (size, first), (next_size, following) in zip(
        zip(sizes, members, strict=False), zip(sizes[1:], members[1:], strict=False), strict=False
    ):
        assert size > next_size or first < following


def test_the_projection_is_that_of_the_covariance():
    features, _ = planted(seed=5)
    found = project(features)
    centered = features.astype(float) - features.astype(float).mean(axis=0)
    values, vectors = np.linalg.eigh(centered.T @ centered)
    expected = centered @ vectors[:, ::-1][:, :2]
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.abs(found), np.abs(expected), rtol=1e-3, atol=1e-2)
    np.testing.assert_array_equal(project(features), found)
    flipped = project(-features)
    np.testing.assert_allclose(np.abs(flipped), np.abs(found), rtol=1e-3, atol=1e-2)
    np.testing.assert_allclose(flipped, -found, rtol=1e-3, atol=1e-2), "the sign follows the axes, not the solver"
    assert (found**2).sum() == pytest.approx(values[-2:].sum(), rel=1e-3)


@pytest.mark.parametrize(
    ("silhouettes", "k"),
    [
        ({2: 0.5, 3: 0.7, 4: 0.6}, 3),
        ({4: 0.7, 3: 0.7, 5: 0.1}, 3),
        ({1: None, 2: -0.2}, 2),
        ({5: -0.5, 9: -0.1}, 9),
    ],
)
def test_auto_takes_the_best_silhouette_and_the_smaller_of_equals(silhouettes, k):
    assert choose_k(silhouettes) == k


MEMBERSHIP = st.integers(1, 40).flatmap(
    lambda n: st.tuples(
        arrays.arrays(np.int32, n, elements=st.integers(0, 2)),
        arrays.arrays(np.int32, n, elements=st.integers(0, 6)),
        arrays.arrays(np.int16, n, elements=st.integers(1, 4)),
    )
)


@given(MEMBERSHIP, st.integers(1, 3))
def test_identities_are_those_with_enough_images_in_the_cluster(case, minimum):
    assignments, labels, _ = case
    expected = []
    for cluster in range(3):
        counts = {}
        for assignment, label in zip(assignments.tolist(), labels.tolist(), strict=True):
            if assignment == cluster:
                counts[label] = counts.get(label, 0) + 1
        expected.append({label: count for label, count in counts.items() if count >= minimum})
    if not all(expected):
        with pytest.raises(InputError, match="holds no identity"):
            identities_of_clusters(assignments, labels, 3, minimum)
        return
    found = identities_of_clusters(assignments, labels, 3, minimum)
    assert [one.cluster for one in found] == [0, 1, 2]
    assert [one.images for one in found] == [int((assignments == cluster).sum()) for cluster in range(3)]
    for one, wanted in zip(found, expected, strict=True):
        assert one.labels == sorted(wanted)
        assert dict(zip(one.labels, one.counts, strict=True)) == wanted


def test_a_cluster_without_identities_names_the_knob():
    assignments, labels = np.array([0, 0, 0, 1], np.int32), np.array([0, 0, 1, 2], np.int32)
    with pytest.raises(InputError, match=r"cluster 1 \(1 images\).*cluster\.minimum_images = 2"):
        identities_of_clusters(assignments, labels, 2, 2)
    assert identities_of_clusters(assignments, labels, 2, 1)[0].labels == [0, 1]


@given(MEMBERSHIP)
def test_what_clusters_are_made_of_is_counted(case):
    assignments, labels, cameras = case
    used = sorted(set(assignments.tolist()))
    assignments = np.searchsorted(used, assignments).astype(np.int32)
    found = make_up(identities_of_clusters(assignments, labels, len(used)), assignments, labels, cameras)
    rows = list(zip(assignments.tolist(), labels.tolist(), cameras.tolist(), strict=True))
    clusters_of = {label: [c for c, other, _ in rows if other == label] for _, label, _ in rows}
    together = sum(max(places.count(c) for c in places) for places in clusters_of.values())
    assert found["purity"] == pytest.approx(together / len(rows))
    assert 1 / len(used) <= found["purity"] <= 1
    assert found["straddling_identities"] == sum(len(set(places)) > 1 for places in clusters_of.values())
    assert found["training_identities"] == len(clusters_of)
    assert found["images"] == [sum(c == cluster for c, _, _ in rows) for cluster in range(len(used))]
    assert found["identities"] == [len({label for c, label, _ in rows if c == cluster}) for cluster in range(len(used))]
    for cluster, counts in enumerate(found["cameras"]):
        seen = [camera for c, _, camera in rows if c == cluster]
        assert counts == {str(camera): seen.count(camera) for camera in sorted(set(seen))}


def test_no_k_to_choose_says_what_to_try():
    with pytest.raises(InputError, match=r"cluster.sweep \(40\) has a silhouette.*put a smaller k into"):
        choose_k({40: None})
