"""The identities of each cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slsr.clustering.sweep import Assignments
from slsr.errors import InputError


@dataclass(frozen=True)
class ClusterIdentities:
    """The identities of one cluster: their labels, ascending, and how many images each has in it."""

    cluster: int
    images: int
    labels: list[int]
    counts: list[int]


def identities_of_clusters(
    assignments: Assignments, labels: NDArray[np.integer], k: int, minimum_images: int = 1
) -> list[ClusterIdentities]:
    """Find the identities with at least `minimum_images` images in each cluster.

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
                f"{minimum_images} images; lower cluster.minimum_images, or choose a smaller cluster.k"
            )
        result.append(ClusterIdentities(cluster, len(members), found[kept].tolist(), counts[kept].tolist()))
    return result


def make_up(
    clusters: Sequence[ClusterIdentities],
    assignments: Assignments,
    labels: NDArray[np.integer],
    cameras: NDArray[np.integer],
) -> dict[str, object]:
    """Count images, identities and cameras of the clusters, as metrics.

    `straddling_identities` have images in more than one cluster; `purity` is the share of images in the cluster that
    holds most images of their identity.
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
