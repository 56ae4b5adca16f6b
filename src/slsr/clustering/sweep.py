"""K-means for several k with silhouettes, the choice of k, and a projection to draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from slsr.clustering.kmeans import Features, Initialization, Partition, k_means, mini_batch_k_means
from slsr.clustering.silhouettes import mean_silhouettes
from slsr.errors import InputError

Assignments = NDArray[np.int32]


@dataclass(frozen=True)
class Clustering:
    """K clusters of N features.

    Attributes
    ----------
    assignments : int32 [N], 0..K-1, cluster 0 the largest
    centroids : float32 [K, D]
    inertia : sum of squared distances to the assigned centroids
    silhouette : mean silhouette coefficient in the clustered space, -1..1; None if it is not defined (K = 1 or N)
    """

    assignments: Assignments
    centroids: Features
    inertia: float
    silhouette: float | None


def sweep_clusters(
    features: Features,
    ks: Sequence[int],
    *,
    seed: int,
    initialization: Initialization = "k-means++",
    restarts: int = 10,
    max_iterations: int = 300,
    minibatch_above: int | None = None,
) -> dict[int, Clustering]:
    """Partition features by k-means (Eq. 1 and 2) for each of several k; the silhouettes share one pass over distances.

    Clusters are numbered from the largest to the smallest, equally large ones by their first member, so that equal
    partitions have equal numbers.

    Parameters
    ----------
    features : [N, D]
    minibatch_above : use mini-batch k-means for more features than this, and the silhouettes of a sample of this size

    Raises
    ------
    InputError
        A k exceeds the number of features, a feature is not finite, or a cluster would be empty.
    """
    _check(features, max(ks))
    many = minibatch_above is not None and len(features) > minibatch_above
    partition = partial(
        mini_batch_k_means if many else k_means,
        seed=seed,
        initialization=initialization,
        restarts=restarts,
        max_iterations=max_iterations,
    )
    center = features.mean(axis=0, dtype=np.float64).astype(np.float32)
    centered = features - center
    found = {k: _numbered(partition(centered, k), k, center) for k in ks}
    sample = _sample(len(features), minibatch_above if many else None, seed)
    silhouettes = _silhouettes(centered[sample], {k: one.assignments[sample] for k, one in found.items()})
    return {k: replace(one, silhouette=silhouettes.get(k)) for k, one in found.items()}


def _numbered(found: Partition, k: int, center: Features) -> Clustering:
    present = len(np.unique(found.assignments))
    if present < k:
        raise InputError(f"cluster.k: only {present} of {k} clusters have members; choose a smaller k")
    order, assignments = number_by_size(found.assignments, k)
    return Clustering(assignments, found.centroids[order] + center, found.inertia, None)


def _sample(count: int, limit: int | None, seed: int) -> NDArray[np.int64]:
    """Draw `limit` rows without replacement, ascending; all rows without a limit."""
    if limit is None:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, limit, replace=False))


def _silhouettes(features: Features, partitions: Mapping[int, Assignments]) -> dict[int, float]:
    """Compute the silhouette of each k for which it is defined."""
    defined = {k: numbers for k, numbers in partitions.items() if 1 < len(np.unique(numbers)) < len(features)}
    return dict(zip(defined, mean_silhouettes(features, list(defined.values())), strict=True))


def _check(features: Features, k: int) -> None:
    if k > len(features):
        raise InputError(
            f"cluster.k: {k} clusters are more than the {len(features)} training images; choose at most {len(features)}"
        )
    if not np.isfinite(features).all():
        rows = np.flatnonzero(~np.isfinite(features).all(axis=1))[:5].tolist()
        raise InputError(f"features: rows {rows} are not finite; train the encoder again with a lower learning rate")


def number_by_size(numbers: NDArray[np.integer], k: int) -> tuple[NDArray[np.int64], Assignments]:
    """Number clusters again, from the largest to the smallest, equally large ones by their first member.

    Returns
    -------
    order : int64 [k], the old number of each new one
    assignments : int32 [N], the new numbers
    """
    sizes = np.bincount(numbers, minlength=k)
    first = np.full(k, len(numbers))
    np.minimum.at(first, numbers, np.arange(len(numbers)))
    order = np.lexsort((first, -sizes))
    renumber = np.empty(k, np.int32)
    renumber[order] = np.arange(k, dtype=np.int32)
    return order.astype(np.int64), renumber[numbers]


def project(features: Features) -> Features:
    """Project features on their first two principal components, float32 [N, 2], as in the paper's Table 1 and Figure 4.

    The sign of each component makes its largest loading positive.
    """
    centered = features - features.mean(axis=0, dtype=np.float64).astype(np.float32)
    width = centered.shape[1]
    axes = eigh(centered.T @ centered, subset_by_index=[width - 2, width - 1])[1][:, ::-1]
    axes *= np.sign(axes[np.abs(axes).argmax(axis=0), [0, 1]])
    projected: Features = (centered @ axes).astype(np.float32)
    return projected


def choose_k(silhouettes: dict[int, float | None]) -> int:
    """Choose the k with the highest silhouette, the smaller of two equally good ones.

    Raises
    ------
    InputError
        No k has a silhouette.
    """
    candidates = {k: value for k, value in silhouettes.items() if value is not None}
    if not candidates:
        tried = ", ".join(map(str, silhouettes))
        raise InputError(
            f"cluster.k: auto: no k of cluster.sweep ({tried}) has a silhouette, which needs at least 2 clusters and "
            "fewer clusters than images; put a smaller k into cluster.sweep"
        )
    return min(candidates, key=lambda k: (-candidates[k], k))
