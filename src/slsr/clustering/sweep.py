"""K-means over features, silhouettes, and which identities a cluster holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from slsr.clustering.kmeans import Partition, k_means, mini_batch_k_means
from slsr.clustering.silhouettes import mean_silhouettes
from slsr.errors import InputError

Features = NDArray[np.float32]


Labels = NDArray[np.int32]


Initialization = Literal["k-means++", "random"]


@dataclass(frozen=True)
class Clustering:
    """K clusters of N features.

    Attributes
    ----------
    assignments : int32 [N], 0..K-1, cluster 0 the largest
    centroids : float32 [K, D]
    inertia : sum of squared distances to the assigned centroid
    silhouette : mean silhouette coefficient in the clustered space, -1..1; None where it has no meaning (K = 1 or N)
    """

    assignments: Labels
    centroids: Features
    inertia: float
    silhouette: float | None


def cluster_features(
    features: Features,
    k: int,
    *,
    seed: int,
    initialization: Initialization = "k-means++",
    restarts: int = 10,
    max_iterations: int = 300,
) -> Clustering:
    """Partition features by k-means (Eq. 1 and 2), the best of several seeded restarts; errors as `sweep_clusters`."""
    return sweep_clusters(
        features, [k], seed=seed, initialization=initialization, restarts=restarts, max_iterations=max_iterations
    )[k]


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
    """Partition features by k-means for each of several k, with silhouettes that share one pass over all distances.

    Clusters are numbered by falling size, ties by the first member, so that equal partitions have equal numbers.

    Parameters
    ----------
    features : [N, D]
    minibatch_above : with more features than this, mini-batch k-means, and silhouettes of a random sample of so many

    Raises
    ------
    InputError
        A k exceeds the number of features, a feature is not finite, or a cluster would be empty.
    """
    _check(features, max(ks))
    many = minibatch_above is not None and len(features) > minibatch_above
    partition = mini_batch_k_means if many else k_means
    center = features.mean(axis=0, dtype=np.float64).astype(np.float32)
    centered = features - center
    found = {
        k: _numbered(
            partition(
                centered,
                k,
                seed=seed,
                initialization=initialization,
                restarts=restarts,
                max_iterations=max_iterations,
            ),
            k,
            center,
        )
        for k in ks
    }
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
    """All rows, or so many of them, ascending, drawn without replacement."""
    if limit is None:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, limit, replace=False))


def _silhouettes(features: Features, partitions: Mapping[int, Labels]) -> dict[int, float]:
    """Of each k for which a silhouette has a meaning."""
    meaningful = {k: labels for k, labels in partitions.items() if 1 < len(np.unique(labels)) < len(features)}
    return dict(zip(meaningful, mean_silhouettes(features, list(meaningful.values())), strict=True))


def _check(features: Features, k: int) -> None:
    if k > len(features):
        raise InputError(f"cluster.k: {k} clusters of {len(features)} training images; choose at most {len(features)}")
    if not np.isfinite(features).all():
        rows = np.flatnonzero(~np.isfinite(features).all(axis=1))[:5].tolist()
        raise InputError(f"features: rows {rows} are not finite; train the encoder anew with a lower learning rate")


def number_by_size(labels: NDArray[np.integer], k: int) -> tuple[NDArray[np.int64], Labels]:
    """Renumber clusters by falling size, ties by the first member.

    Returns
    -------
    order : int64 [k], the old number of each new one
    assignments : int32 [N], the new numbers
    """
    sizes = np.bincount(labels, minlength=k)
    first = np.full(k, len(labels))
    np.minimum.at(first, labels, np.arange(len(labels)))
    order = np.lexsort((first, -sizes))
    renumber = np.empty(k, np.int32)
    renumber[order] = np.arange(k, dtype=np.int32)
    return order.astype(np.int64), renumber[labels]


def project(features: Features) -> Features:
    """The first two principal components, float32 [N, 2], in which the paper's Table 1 and Figure 4 are drawn.

    The sign of each is the one that makes its largest loading positive.
    """
    centered = features - features.mean(axis=0, dtype=np.float64).astype(np.float32)
    width = centered.shape[1]
    axes = eigh(centered.T @ centered, subset_by_index=[width - 2, width - 1])[1][:, ::-1]
    axes *= np.sign(axes[np.abs(axes).argmax(axis=0), [0, 1]])
    projected: Features = (centered @ axes).astype(np.float32)
    return projected


def choose_k(silhouettes: dict[int, float | None]) -> int:
    """The k >= 2 with the highest silhouette; the smaller one of equals.

    Raises
    ------
    InputError
        No k has one.
    """
    candidates = {k: value for k, value in silhouettes.items() if value is not None}
    if not candidates:
        tried = ", ".join(map(str, silhouettes))
        raise InputError(
            f"cluster.k: auto: no k of cluster.sweep ({tried}) has a silhouette, which needs from 2 clusters to one "
            "less than there are images; put a smaller one into cluster.sweep"
        )
    return min(candidates, key=lambda k: (-candidates[k], k))
