"""K-means against Lloyd's algorithm written as a loop, and against scikit-learn's results."""

from itertools import pairwise

import numpy as np
import pytest
from sklearn.cluster import KMeans

from slsr.clustering import kmeans
from slsr.clustering.kmeans import k_means, mini_batch_k_means

SETTINGS = {"seed": 1, "initialization": "k-means++", "restarts": 4, "max_iterations": 300}


def grouped(count, width, groups, seed=0, spread=3.0):
    generator = np.random.default_rng(seed)
    centers = spread * generator.normal(size=(groups, width))
    features = centers[generator.integers(groups, size=count)] + generator.normal(size=(count, width))
    return (features - features.mean(axis=0)).astype(np.float32)


def squared(features, centroids):
    return ((features[:, None].astype(float) - centroids[None].astype(float)) ** 2).sum(axis=2)


def assert_nearest(features, found):
    """Each feature is assigned to a centroid that is as near as any, but for rounding."""
    distances = squared(features, found.centroids)
    assigned = np.take_along_axis(distances, found.assignments[:, None], axis=1)[:, 0]
    np.testing.assert_allclose(assigned, distances.min(axis=1), rtol=1e-5, atol=1e-5)


def naive_lloyd(features, centroids, iterations):
    """Until nothing moves; every cluster keeps a member."""
    centroids = centroids.astype(float)
    for _ in range(iterations):
        labels = squared(features, centroids).argmin(axis=1)
        moved = np.array([features[labels == k].mean(axis=0, dtype=float) for k in range(len(centroids))])
        if np.array_equal(moved, centroids):
            break
        centroids = moved
    distances = squared(features, centroids)
    return distances.argmin(axis=1), centroids, distances.min(axis=1).sum()


@pytest.mark.parametrize("block", [7, 64, 5000])
def test_each_start_ends_where_a_loop_ends(block, monkeypatch):
    monkeypatch.setattr(kmeans, "BLOCK_ROWS", block)
    monkeypatch.setattr(kmeans, "TOLERANCE", 0)
    features = grouped(300, 8, 5, spread=0.7)
    generator = np.random.default_rng(3)
    starts = np.stack([generator.choice(300, 5, replace=False) for _ in range(6)])
    squares = (features**2).sum(axis=1)
    assignments, centroids, inertia = kmeans._lloyd(features, squares, features[starts], 100)
    for run, start in enumerate(starts):
        labels, means, total = naive_lloyd(features, features[start], 100)
        np.testing.assert_array_equal(assignments[run], labels)
        np.testing.assert_allclose(centroids[run], means, atol=1e-4)
        assert inertia[run] == pytest.approx(total, rel=1e-5)
    assert len(set(np.round(inertia, 2))) > 1, "the starts end in different places, or nothing is compared"


@pytest.mark.parametrize("initialization", ["k-means++", "random"])
@pytest.mark.parametrize("k", [1, 2, 5, 9])
def test_as_good_as_scikit_learn(k, initialization):
    features = grouped(400, 6, 5, seed=k)
    settings = SETTINGS | {"initialization": initialization, "restarts": 30}
    found = k_means(features, k, **settings)
    theirs = KMeans(k, init=initialization, n_init=30, random_state=0).fit(features)
    assert found.inertia <= 1.01 * theirs.inertia_
    assert_nearest(features, found)
    assert found.inertia == pytest.approx(squared(features, found.centroids).min(axis=1).sum(), rel=1e-5)


def test_the_best_restart_is_taken_and_restarts_do_not_disturb_each_other():
    features = grouped(200, 5, 8, spread=1.0)
    settings = SETTINGS | {"initialization": "random"}
    inertia = [k_means(features, 8, **settings | {"restarts": n}).inertia for n in range(1, 9)]
    assert all(more <= fewer * (1 + 1e-6) for fewer, more in pairwise(inertia))
    assert inertia[-1] < inertia[0]


def test_greedy_starts_lie_far_apart():
    """Ten tight groups: k-means++ begins with one feature of each, drawing from all of them."""
    generator = np.random.default_rng(0)
    group = np.repeat(np.arange(10), 20)
    features = (100 * generator.normal(size=(10, 4))[group] + generator.normal(size=(200, 4))).astype(np.float32)
    generators = [np.random.default_rng(n) for n in range(50)]
    chosen = kmeans._draw_plus_plus(features, (features**2).sum(axis=1), 10, generators, tries=4)
    assert all(len(set(group[rows])) == 10 for rows in chosen)
    assert len(set(chosen[:, 0])) > 25


def test_a_feature_is_drawn_in_proportion_to_its_squared_distance():
    """The second start is 3 away from the first with probability 9 / (9 + 1)."""
    features = np.array([[0.0], [1.0], [-3.0]], np.float32)
    generators = [np.random.default_rng(n) for n in range(4000)]
    chosen = kmeans._draw_plus_plus(features, (features**2).sum(axis=1), 2, generators, tries=1)
    second = chosen[chosen[:, 0] == 0, 1]
    assert (second == 2).mean() == pytest.approx(0.9, abs=0.03)
    assert not (second == 0).any()


def test_an_emptied_cluster_starts_again_from_the_farthest_feature():
    features = np.array([[0.0], [1.0], [2.0], [50.0]], np.float32)
    centroids = np.array([[[0.9], [1000.0]]], np.float32)
    moved = kmeans._means(features, (features**2).sum(axis=1), centroids)
    np.testing.assert_allclose(moved[0, :, 0], [53 / 4, 50.0])
    assignments, _, _ = kmeans._lloyd(features, (features**2).sum(axis=1), centroids, 100)
    assert assignments[0].tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize("way", [k_means, mini_batch_k_means])
def test_the_same_seed_gives_the_same_bits_and_another_one_another_draw(way):
    features = np.random.default_rng(0).normal(size=(500, 5)).astype(np.float32)
    settings = SETTINGS | {"restarts": 1}
    one, two = (way(features, 12, **settings) for _ in range(2))
    np.testing.assert_array_equal(one.centroids, two.centroids)
    np.testing.assert_array_equal(one.assignments, two.assignments)
    assert one.inertia == two.inertia
    others = [way(features, 12, **settings | {"seed": seed}).inertia for seed in range(2, 6)]
    assert any(other != one.inertia for other in others)


def test_mini_batches_come_close_to_the_whole(monkeypatch):
    monkeypatch.setattr(kmeans, "BATCH", 256)
    features = grouped(3000, 10, 6)
    whole, rough = (way(features, 6, **SETTINGS) for way in (k_means, mini_batch_k_means))
    assert rough.inertia <= 1.02 * whole.inertia
    assert_nearest(features, rough)


@pytest.mark.parametrize("way", [k_means, mini_batch_k_means])
def test_hundreds_of_clusters_all_have_members(way):
    features = np.random.default_rng(4).normal(size=(1500, 8)).astype(np.float32)
    found = way(features, 200, **SETTINGS | {"restarts": 2})
    assert len(np.unique(found.assignments)) == 200
    assert found.centroids.shape == (200, 8)
    assert_nearest(features, found)
