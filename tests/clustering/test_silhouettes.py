"""Silhouettes against a loop over images, and against scikit-learn's."""

import numpy as np
import pytest
from sklearn.metrics import silhouette_score

from slsr.clustering import silhouettes
from slsr.clustering.silhouettes import mean_silhouettes


def grouped(count, width, groups, seed=0, spread=3.0):
    generator = np.random.default_rng(seed)
    centers = spread * generator.normal(size=(groups, width))
    return (centers[generator.integers(groups, size=count)] + generator.normal(size=(count, width)) + 5).astype("f4")


def naive(features, labels):
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
        values.append((outside - inside) / max(inside, outside) if max(inside, outside) else 0.0)
    return float(np.mean(values))


@pytest.mark.parametrize("block", [1, 7, 16, 1000])
def test_several_partitions_at_once_equal_a_loop_over_images(block, monkeypatch):
    monkeypatch.setattr(silhouettes, "BLOCK_ROWS", block)
    features = grouped(45, 6, 4)
    generator = np.random.default_rng(1)
    partitions = [generator.integers(0, k, 45).astype(np.int32) for k in (2, 3, 7, 20)]
    partitions.append(np.where(np.arange(45) == 11, 9, 4).astype(np.int32))
    found = mean_silhouettes(features, partitions)
    np.testing.assert_allclose(found, [naive(features, labels) for labels in partitions], atol=2e-6)


def test_a_partition_alone_has_the_same_silhouette():
    features = grouped(60, 5, 3)
    partitions = [np.random.default_rng(k).integers(0, k, 60).astype(np.int32) for k in (2, 5)]
    together = mean_silhouettes(features, partitions)
    np.testing.assert_allclose(together, [mean_silhouettes(features, [one])[0] for one in partitions], atol=1e-7)
    assert together == mean_silhouettes(features, partitions), "the same bits each time"


@pytest.mark.parametrize(("width", "offset"), [(2, 0.0), (64, 0.0), (64, 1000.0), (512, 1.0)])
def test_scikit_learns(width, offset):
    """Also far from the origin, where products of float32 alone would keep no digit of the distances."""
    features = grouped(300, width, 4) + np.float32(offset)
    labels = np.random.default_rng(2).integers(0, 5, 300).astype(np.int32)
    labels[:100] = (features[:100, 0] > features[:, 0].mean()).astype(np.int32)
    assert mean_silhouettes(features, [labels])[0] == pytest.approx(
        silhouette_score(features.astype(np.float64), labels), abs=2e-6
    )


def test_equal_images_have_the_best_silhouette_and_no_distance():
    features = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
    labels = np.repeat(np.arange(3, dtype=np.int32), 4)
    split = labels.copy()
    split[0] = 3  # one of four equal images apart from the others
    best, zero = mean_silhouettes(features, [labels, split])
    assert best == pytest.approx(1, abs=1e-3)
    assert zero == pytest.approx(8 / 12, abs=1e-3)
    assert mean_silhouettes(np.zeros((4, 2), np.float32), [np.array([0, 0, 1, 1], np.int32)]) == [0.0]


@pytest.mark.parametrize("labels", [[1, 1, 1], [0, 1, 2]])
def test_one_cluster_or_one_image_each_has_none(labels):
    with pytest.raises(ValueError, match="2 to 2 clusters"):
        mean_silhouettes(np.eye(3, dtype=np.float32), [np.array(labels, np.int32)])


def test_no_partitions_have_no_silhouettes():
    assert mean_silhouettes(np.eye(3, dtype=np.float32), []) == []
