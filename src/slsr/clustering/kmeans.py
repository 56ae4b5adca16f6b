"""K-means with all restarts at once, as matrix products.

Each of Lloyd's iterations reads the features once for all restarts that still move. The products are float32 and run on
all cores; a sum never depends on which thread was first, so that one machine gives the same bits each time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans

Features = NDArray[np.float32]
Integers = NDArray[np.int64]
Initialization = Literal["k-means++", "random"]

BLOCK_ROWS = 2048
TOLERANCE = 1e-4  # a restart ends when its centroids' squared shifts sum to less than this share of the mean variance
BATCH = 4096
FINISHING_ITERATIONS = 10


@dataclass(frozen=True)
class Partition:
    """K clusters of N features: int64 [N], float32 [k, D], and the sum of squared distances to their centroids."""

    assignments: Integers
    centroids: Features
    inertia: float


def k_means(
    features: Features,
    k: int,
    *,
    seed: int,
    initialization: Initialization,
    restarts: int,
    max_iterations: int,
) -> Partition:
    """Run Lloyd's algorithm (Eq. 1 and 2) from several seeded starts, and return the best result.

    A cluster that loses all its members starts again from the feature farthest from its centroid. If there are fewer
    than k different features, clusters stay empty.

    Parameters
    ----------
    features : [N, D], N >= k; center them first, since products of large numbers leave few digits for small distances
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
    features: Features,
    k: int,
    *,
    seed: int,
    initialization: Initialization,
    restarts: int,
    max_iterations: int,
) -> Partition:
    """Run mini-batch k-means (Sculley, 2010) for many features, and finish with a few iterations over all of them.

    The restarts are tried on a part of the features, and the best one goes on. The parameters are those of `k_means`.
    """
    rough = MiniBatchKMeans(
        k, init=initialization, n_init=restarts, max_iter=max_iterations, batch_size=BATCH, random_state=seed
    ).fit(features)
    centroids = rough.cluster_centers_.astype(np.float32)[None]
    return _best(*_lloyd(features, _squares(features), centroids, min(FINISHING_ITERATIONS, max_iterations)))


def _best(assignments: Integers, centroids: Features, inertia: NDArray[np.float64]) -> Partition:
    best = int(inertia.argmin())
    return Partition(assignments[best], centroids[best], float(inertia[best]))


def _lloyd(
    features: Features, squares: Features, centroids: Features, max_iterations: int
) -> tuple[Integers, Features, NDArray[np.float64]]:
    """Move centroids [R, k, D] to the means of their members until they no longer move.

    Returns
    -------
    assignments : [R, N], to the returned centroids
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


def _means(features: Features, squares: Features, centroids: Features) -> Features:
    """Compute the means [R, k, D] of the features nearest to each centroid."""
    runs, k, width = centroids.shape
    sums, counts = np.zeros((runs * k, width)), np.zeros((runs, k), np.int64)
    distances = np.empty((runs, len(features)), np.float32)
    for rows in _blocks(len(features)):
        block = features[rows]
        assignments, distances[:, rows] = _nearest(block, squares[rows], centroids)
        members = assignments[:, None] == np.arange(k)[:, None]
        sums += members.reshape(runs * k, -1).astype(np.float32) @ block
        counts += members.sum(axis=2)
    means: Features = (sums.reshape(runs, k, width) / np.maximum(counts, 1)[..., None]).astype(np.float32)
    for run, empty in zip(*np.nonzero(counts == 0), strict=True):
        farthest = int(distances[run].argmax())
        distances[run, farthest] = -1
        means[run, empty] = features[farthest]
    return means


def _nearest(features: Features, squares: Features, centroids: Features) -> tuple[Integers, Features]:
    """Find the centroid [R, n] nearest to each feature, the first of equals, and the squared distance [R, n] to it."""
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
    features: Features, squares: Features, k: int, generators: list[np.random.Generator], tries: int
) -> NDArray[np.int64]:
    """Choose rows [R, k] to start from, each the best of `tries` that are drawn in proportion to squared distance."""
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


def _distances_to(features: Features, squares: Features, rows: Integers) -> Features:
    """Compute the squared distances [n, N] of some features to all; 0 to themselves."""
    distances = features[rows] @ features.T
    distances *= -2
    distances += squares
    distances += squares[rows, None]
    distances[np.arange(len(rows)), rows] = 0
    positive: Features = np.maximum(distances, 0, out=distances)
    return positive


def _squares(features: Features) -> Features:
    squares: Features = np.einsum("nd,nd->n", features, features)
    return squares


def _blocks(count: int) -> list[slice]:
    return [slice(first, first + BLOCK_ROWS) for first in range(0, count, BLOCK_ROWS)]
