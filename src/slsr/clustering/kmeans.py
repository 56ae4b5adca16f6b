"""K-means with all restarts at once, in matrix products alone.

Each of Lloyd's iterations reads the features once for every restart that still moves. The products are float32 and run
on all cores; a sum never depends on which thread was first, so that on one machine the same bits come out each time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

ROWS_A_BLOCK = 2048
TOLERANCE = 1e-4  # of the features' mean variance: a restart ends when its centroids' squared shifts sum to less
BATCH = 4096
FINISHING_ITERATIONS = 10


@dataclass(frozen=True)
class Partition:
    """K clusters of N features: int64 [N], float32 [k, D], sum of squared distances to the assigned centroids."""

    assignments: Integers
    centroids: Floats
    inertia: float


def k_means(
    features: Floats,
    k: int,
    *,
    seed: int,
    initialization: Literal["k-means++", "random"],
    restarts: int,
    max_iterations: int,
) -> Partition:
    """Lloyd's algorithm (Eq. 1 and 2) from several seeded starts, the best of them.

    A cluster that loses all its members starts again from the feature farthest from its centroid. Fewer than k
    different features leave clusters empty.

    Parameters
    ----------
    features : [N, D], N >= k; best centered, since products of large numbers leave few digits for small distances
    initialization : greedy k-means++ (Arthur and Vassilvitskii, 2007), or k features drawn without replacement
    """
    generators = [np.random.default_rng((seed, restart)) for restart in range(restarts)]
    squares = _squares(features)
    if initialization == "k-means++":
        chosen = _draw_plus_plus(features, squares, k, generators, tries=2 + int(np.log(k)))
    else:
        chosen = np.stack([generator.choice(len(features), k, replace=False) for generator in generators])
    return _best(*_lloyd(features, squares, features[chosen], max_iterations))


def mini_batch_k_means(
    features: Floats,
    k: int,
    *,
    seed: int,
    initialization: Literal["k-means++", "random"],
    restarts: int,
    max_iterations: int,
) -> Partition:
    """Mini-batch k-means (Sculley, 2010) for many features, finished by a few of Lloyd's iterations over all of them.

    The restarts are tried on a part of the features, and the best one goes on. Parameters as of `k_means`.
    """
    rough = MiniBatchKMeans(
        k, init=initialization, n_init=restarts, max_iter=max_iterations, batch_size=BATCH, random_state=seed
    ).fit(features)
    centroids = rough.cluster_centers_.astype(np.float32)[None]
    return _best(*_lloyd(features, _squares(features), centroids, min(FINISHING_ITERATIONS, max_iterations)))


def _best(assignments: Integers, centroids: Floats, inertia: NDArray[np.float64]) -> Partition:
    best = int(inertia.argmin())
    return Partition(assignments[best], centroids[best], float(inertia[best]))


def _lloyd(
    features: Floats, squares: Floats, centroids: Floats, max_iterations: int
) -> tuple[Integers, Floats, NDArray[np.float64]]:
    """Move centroids [R, k, D] to the means of their members until they rest.

    Returns
    -------
    assignments : [R, N], to the centroids that are returned
    centroids : [R, k, D]
    inertia : float64 [R]
    """
    tolerance = TOLERANCE * float(features.var(axis=0).mean())
    centroids = centroids.copy()
    moving = np.arange(len(centroids))
    for _ in range(max_iterations):
        moved = _means(features, squares, centroids[moving])
        shifts = np.square(moved - centroids[moving]).sum(axis=(1, 2), dtype=np.float64)
        centroids[moving] = moved
        moving = moving[shifts > tolerance]
        if not len(moving):
            break
    blocks = [_nearest(features[rows], squares[rows], centroids) for rows in _blocks(len(features))]
    assignments = np.concatenate([block[0] for block in blocks], axis=1)
    inertia = np.concatenate([block[1] for block in blocks], axis=1).sum(axis=1, dtype=np.float64)
    return assignments, centroids, inertia


def _means(features: Floats, squares: Floats, centroids: Floats) -> Floats:
    """The means [R, k, D] of the features nearest to each centroid."""
    runs, k, width = centroids.shape
    sums, counts = np.zeros((runs * k, width)), np.zeros((runs, k), np.int64)
    distances = np.empty((runs, len(features)), np.float32)
    for rows in _blocks(len(features)):
        block = features[rows]
        assignments, distances[:, rows] = _nearest(block, squares[rows], centroids)
        members = assignments[:, None] == np.arange(k)[:, None]
        sums += members.reshape(runs * k, -1).astype(np.float32) @ block
        counts += members.sum(axis=2)
    means: Floats = (sums.reshape(runs, k, width) / np.maximum(counts, 1)[..., None]).astype(np.float32)
    for run, empty in zip(*np.nonzero(counts == 0), strict=True):
        farthest = int(distances[run].argmax())
        distances[run, farthest] = -1
        means[run, empty] = features[farthest]
    return means


def _nearest(features: Floats, squares: Floats, centroids: Floats) -> tuple[Integers, Floats]:
    """The centroid [R, n] nearest to each feature, the first of equals, and the squared distance [R, n] to it."""
    runs, k, width = centroids.shape
    flat = centroids.reshape(runs * k, width)
    distances = flat @ features.T
    distances *= -2
    distances += _squares(flat)[:, None]
    distances = distances.reshape(runs, k, -1)
    assignments = distances.argmin(axis=1)
    nearest = np.take_along_axis(distances, assignments[:, None], axis=1)[:, 0]
    return assignments, np.maximum(nearest + squares, 0)


def _draw_plus_plus(
    features: Floats, squares: Floats, k: int, generators: list[np.random.Generator], tries: int
) -> NDArray[np.int64]:
    """Rows [R, k] of features to start from: each the best of `tries` drawn in proportion to squared distance."""
    runs = len(generators)
    chosen = np.empty((runs, k), np.int64)
    chosen[:, 0] = [generator.integers(len(features)) for generator in generators]
    closest = _distances_to(features, squares, chosen[:, 0])
    for number in range(1, k):
        cumulative = closest.cumsum(axis=1, dtype=np.float64)
        drawn = np.stack(
            [
                np.searchsorted(sums, generator.random(tries) * sums[-1], side="right")
                for generator, sums in zip(generators, cumulative, strict=True)
            ]
        ).clip(max=len(features) - 1)
        candidates = _distances_to(features, squares, drawn.ravel()).reshape(runs, tries, -1)
        np.minimum(candidates, closest[:, None], out=candidates)
        best = candidates.sum(axis=2, dtype=np.float64).argmin(axis=1)
        chosen[:, number] = drawn[np.arange(runs), best]
        closest = candidates[np.arange(runs), best]
    return chosen


def _distances_to(features: Floats, squares: Floats, rows: Integers) -> Floats:
    """Squared distances [n, N] of some features to all; 0 to themselves."""
    distances = features[rows] @ features.T
    distances *= -2
    distances += squares
    distances += squares[rows, None]
    distances[np.arange(len(rows)), rows] = 0
    positive: Floats = np.maximum(distances, 0, out=distances)
    return positive


def _squares(features: Floats) -> Floats:
    squares: Floats = np.einsum("nd,nd->n", features, features)
    return squares


def _blocks(count: int) -> list[slice]:
    return [slice(first, first + ROWS_A_BLOCK) for first in range(0, count, ROWS_A_BLOCK)]
