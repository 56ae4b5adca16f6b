"""Silhouettes of several partitions of the same features, in one pass over their distances."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

BLOCK_ROWS = 1024


def mean_silhouettes(features: NDArray[np.float32], partitions: Sequence[NDArray[np.int32]]) -> list[float]:
    """Compute the mean silhouette coefficient (Rousseeuw, 1987) of each partition, -1..1.

    `s(i) = (b - a) / max(a, b)`: a is the mean distance of image i to the others of its cluster, b the smallest mean
    distance to the images of another cluster; s is 0 for the only member of a cluster. Distances come from float32
    matrix products, one block at a time. Each pair of images is compared once for all partitions, and N x N numbers are
    never in memory.

    Parameters
    ----------
    features : [N, D]
    partitions : int32 [N] each, with at least two different numbers and fewer than N

    Raises
    ------
    ValueError
        A partition has one cluster, or a cluster for each image.
    """
    numbered = [np.unique(partition, return_inverse=True)[1] for partition in partitions]
    counts = [int(labels.max()) + 1 for labels in numbered]
    if any(not 1 < count < len(features) for count in counts):
        raise ValueError(f"a silhouette needs 2 to {len(features) - 1} clusters, not {counts}")
    first = np.cumsum([0, *counts])
    members = np.zeros((len(features), first[-1]), np.float32)
    for start, labels in zip(first, numbered, strict=False):
        members[np.arange(len(features)), start + labels] = 1
    sums = _summed_distances(features, members)
    return [
        _mean_silhouette(sums[:, start:end], labels)
        for start, end, labels in zip(first, first[1:], numbered, strict=False)
    ]


def _summed_distances(features: NDArray[np.float32], members: NDArray[np.float32]) -> NDArray[np.float64]:
    """Sum each image's distances to the images of each cluster: float64 [N, K] from [N, D] and 0 or 1 [N, K]."""
    centered = features - features.mean(axis=0, dtype=np.float64).astype(np.float32)
    squares = np.einsum("nd,nd->n", centered, centered)
    sums = np.zeros(members.shape)
    blocks = [slice(start, start + BLOCK_ROWS) for start in range(0, len(features), BLOCK_ROWS)]
    for number, rows in enumerate(blocks):
        for columns in blocks[number:]:
            distances = centered[rows] @ centered[columns].T
            distances *= -2
            distances += squares[rows, None]
            distances += squares[columns]
            np.sqrt(np.maximum(distances, 0, out=distances), out=distances)
            if rows == columns:
                np.fill_diagonal(distances, 0)
            else:
                sums[columns] += distances.T @ members[rows]
            sums[rows] += distances @ members[columns]
    return sums


def _mean_silhouette(sums: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    sizes = np.bincount(labels)
    rows = np.arange(len(labels))
    inside = sums[rows, labels] / np.maximum(sizes[labels] - 1, 1)
    means = sums / sizes
    means[rows, labels] = np.inf
    outside = means.min(axis=1)
    larger = np.maximum(inside, outside)
    values = np.divide(outside - inside, larger, out=np.zeros(len(labels)), where=(larger > 0) & (sizes[labels] > 1))
    return float(values.mean())
