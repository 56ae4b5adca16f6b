"""K-means over features, silhouettes, and which identities a cluster holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score

from slsr.errors import InputError

Features = NDArray[np.float32]
Labels = NDArray[np.int32]


@dataclass(frozen=True)
class Clustering:
    """K clusters of N features.

    Attributes
    ----------
    assignments : int32 [N], 0..K-1, cluster 0 the largest
    centroids : float32 [K, D]
    inertia : sum of squared distances to the assigned centroid
    silhouette : mean silhouette coefficient in the clustered space, -1..1; None where it has no meaning (K = 1)
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
    initialization: Literal["k-means++", "random"] = "k-means++",
    restarts: int = 10,
    max_iterations: int = 300,
) -> Clustering:
    """Partition features by k-means (Eq. 1 and 2), the best of several seeded restarts.

    Clusters are numbered by falling size, ties by the first member, so that equal partitions have equal numbers.

    Raises
    ------
    InputError
        k exceeds the number of features, a feature is not finite, or a cluster would be empty.
    """
    _check(features, k)
    fitted = KMeans(k, init=initialization, n_init=restarts, max_iter=max_iterations, random_state=seed).fit(features)
    found = len(np.unique(fitted.labels_))
    if found < k:
        raise InputError(f"cluster.k: only {found} of {k} clusters have members; choose a smaller k")
    order, assignments = number_by_size(fitted.labels_, k)
    meaningful = 1 < k < len(features)
    return Clustering(
        assignments=assignments,
        centroids=fitted.cluster_centers_[order].astype(np.float32),
        inertia=float(fitted.inertia_),
        silhouette=float(silhouette_score(features, assignments)) if meaningful else None,
    )


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


def project(features: Features, seed: int) -> Features:
    """The first two principal components, float32 [N, 2], in which the paper's Table 1 and Figure 4 are drawn."""
    projected: Features = PCA(2, svd_solver="full", random_state=seed).fit_transform(features).astype(np.float32)
    return projected


def choose_k(silhouettes: dict[int, float | None]) -> int:
    """The k >= 2 with the highest silhouette; the smaller one of equals."""
    candidates = {k: value for k, value in silhouettes.items() if value is not None}
    return min(candidates, key=lambda k: (-candidates[k], k))


@dataclass(frozen=True)
class ClusterIdentities:
    """The identities of one cluster: labels ascending, and how many images each has in it."""

    cluster: int
    images: int
    labels: list[int]
    counts: list[int]


def identities_of_clusters(
    assignments: Labels, labels: NDArray[np.integer], k: int, minimum_images: int = 1
) -> list[ClusterIdentities]:
    """Which identities a cluster holds: those with at least `minimum_images` images in it.

    An identity may be in several clusters.

    Raises
    ------
    InputError
        A cluster holds no identity.
    """
    result = []
    for cluster in range(k):
        members = labels[assignments == cluster]
        found, counts = np.unique(members, return_counts=True)
        kept = counts >= minimum_images
        if not kept.any():
            raise InputError(
                f"cluster {cluster} ({len(members)} images) holds no identity with cluster.minimum_images = "
                f"{minimum_images} images; lower it, or choose a smaller cluster.k"
            )
        result.append(ClusterIdentities(cluster, len(members), found[kept].tolist(), counts[kept].tolist()))
    return result


def make_up(
    clusters: Sequence[ClusterIdentities],
    assignments: Labels,
    labels: NDArray[np.integer],
    cameras: NDArray[np.integer],
) -> dict[str, object]:
    """What the clusters are made of, as metrics.

    `straddling_identities` have images in more than one cluster; `purity` is the share of images that lie in the
    cluster which holds most images of their identity.
    """
    together = np.zeros((int(labels.max()) + 1, len(clusters)), np.int64)
    np.add.at(together, (labels, assignments), 1)
    seen = together.sum(axis=1) > 0
    return {
        "images": [cluster.images for cluster in clusters],
        "identities": [len(cluster.labels) for cluster in clusters],
        "cameras": [
            {
                str(camera): int(count)
                for camera, count in zip(*np.unique(cameras[assignments == c], return_counts=True), strict=True)
            }
            for c in range(len(clusters))
        ],
        "straddling_identities": int(((together > 0).sum(axis=1) > 1).sum()),
        "training_identities": int(seen.sum()),
        "purity": float(together.max(axis=1).sum() / len(labels)),
    }
