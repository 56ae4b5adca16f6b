"""How good generated images are, measured without a network connection.

Images are compared in a feature space: that of a packaged ImageNet network (`imagenet`), the handcrafted one (color
stripes and oriented gradients, `handcrafted`), or any other one, such as the encoder's. Every measure takes plain
arrays. `assess` gives each value with its reference, the same measure of real images in the place of generated ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from slsr.quality.features import ROWS_AT_ONCE, Features

NEIGHBORS = 5
ROUNDING = 2e-5  # squared float32 distances of unit rows that differ by less may be in the wrong order
TWINS = 1e-2  # images nearer than this share of the largest distance to a nearest image are equal, but for rounding


def nearest_distances(points: Features, others: Features | None = None, k: int = 1) -> NDArray[np.float32]:
    """Compute the Euclidean distance of each point to its k-th nearest among `others`, or among the other points.

    Parameters
    ----------
    points : float [N, D]
    others : float [M, D]; None to compare the points with each other
    k : 1 for the nearest

    Returns
    -------
    float32 [N]; infinite if there are fewer than k others.
    """
    return _distances_by_rank(points, others, [k])[0]


def _distances_by_rank(
    points: Features, others: Features | None, ranks: Sequence[int]
) -> tuple[NDArray[np.float32], ...]:
    """Compute `nearest_distances` for several k in one pass over the distances."""
    places = [rank - 1 if others is not None else rank for rank in ranks]
    found: list[list[NDArray[np.float32]]] = [[np.empty(0, np.float32)] for _ in ranks]
    for start, squared in _squared_distance_blocks(points, points if others is None else others):
        if others is None:
            rows = np.arange(len(squared))
            squared[rows, start + rows] = -1
        within = [place for place in places if place < squared.shape[1]]
        ordered = np.partition(squared, within, axis=1) if within else squared
        for blocks, place in zip(found, places, strict=True):
            kth = ordered[:, place] if place in within else np.full(len(squared), np.inf)
            blocks.append(np.sqrt(kth).astype(np.float32))
    return tuple(np.concatenate(blocks) for blocks in found)


def nearest_rows(points: Features, others: Features | None, k: int) -> NDArray[np.int64]:
    """Find the k nearest of `others` for each point, the nearest first, equally near ones by row.

    Distances are Euclidean. Those that rounding in float32 could order wrongly are computed again in float64.

    Parameters
    ----------
    points : float32 [N, D], rows of unit length (or shorter)
    others : float32 [M, D], the same; None to compare the points with each other, each without itself
    k : at least 1, at most M (N - 1 if the points are compared with each other)

    Returns
    -------
    int64 [N, k], rows of `others`
    """
    found = np.empty((len(points), k), np.int64)
    gallery = points if others is None else others
    for start, squared in _squared_distance_blocks(points, gallery):
        if others is None:
            rows = np.arange(len(squared))
            squared[rows, start + rows] = np.inf
        limits = np.partition(squared, k - 1, axis=1)[:, k - 1] + ROUNDING
        for row, limit in enumerate(limits, start):
            candidates = np.flatnonzero(squared[row - start] <= limit)
            exact = np.square(gallery[candidates].astype(np.float64) - points[row]).sum(axis=1)
            found[row] = candidates[np.argsort(exact, kind="stable")[:k]]
    return found


def _squared_distance_blocks(points: Features, others: Features) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Compute squared distances, never negative, of `ROWS_AT_ONCE` points at a time, with the number of the first."""
    lengths = np.square(others).sum(axis=1)
    for start in range(0, len(points), ROWS_AT_ONCE):
        block = points[start : start + ROWS_AT_ONCE]
        squared = np.square(block).sum(axis=1)[:, None] + lengths - 2 * (block @ others.T)
        yield start, np.maximum(squared, 0)


def kernel_distance(real: Features, fake: Features) -> float:
    """Compute the unbiased squared maximum mean discrepancy with the kernel (x.y / D + 1)^3.

    This is KID (Binkowski et al., ICLR 2018). It is 0 on average if both come from one distribution, and it may be
    negative.

    Parameters
    ----------
    real, fake : float [N, D] and [M, D], N and M at least 2
    """
    within = [_kernel_sum(each, each) - float(_kernel_diagonal(each).sum()) for each in (real, fake)]
    between = _kernel_sum(real, fake) / (len(real) * len(fake))
    pairs = [len(each) * (len(each) - 1) for each in (real, fake)]
    return within[0] / pairs[0] + within[1] / pairs[1] - 2 * between


def _kernel_sum(left: Features, right: Features) -> float:
    total = 0.0
    for start in range(0, len(left), ROWS_AT_ONCE):
        kernel = left[start : start + ROWS_AT_ONCE] @ right.T / left.shape[1] + 1
        total += float(np.sum(kernel.astype(np.float64) ** 3))
    return total


def _kernel_diagonal(features: Features) -> NDArray[np.float64]:
    kernel: NDArray[np.float64] = (np.square(features).sum(axis=1).astype(np.float64) / features.shape[1] + 1) ** 3
    return kernel


class Neighborhoods:
    """Two sets of points and the distances between them, computed once for all measures.

    The neighborhood of a point reaches to the k-th nearest point of its own set.

    Parameters
    ----------
    real, fake : float [N, D] and [M, D]
    among_real : `real_distances` of other neighborhoods of the same real points, if they are known
    """

    def __init__(
        self,
        real: Features,
        fake: Features,
        k: int = NEIGHBORS,
        among_real: tuple[NDArray[np.float32], ...] | None = None,
    ) -> None:
        self.real, self.fake, self.k = real, fake, k
        self._among_real = among_real

    @cached_property
    def real_distances(self) -> tuple[NDArray[np.float32], ...]:
        """Distances of each real point to the nearest and to the k-th nearest other real one, [N] each."""
        return self._among_real or _distances_by_rank(self.real, None, [1, self.k])

    @cached_property
    def fake_distances(self) -> tuple[NDArray[np.float32], ...]:
        """Distances of each generated point to the nearest and to the k-th nearest other one, [M] each."""
        return _distances_by_rank(self.fake, None, [1, self.k])

    @cached_property
    def between(self) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
        """Distances and neighborhoods between the two sets.

        They are the distance of each real point to the nearest generated one, float32 [N], and the number of
        neighborhoods of the other set that each real and each generated point is in, int64 [N] and [M].
        """
        real_radius, fake_radius = np.square(self.real_distances[1]), np.square(self.fake_distances[1])
        nearest = [np.empty(0, np.float32)]
        around_real = [np.empty(0, np.int64)]
        around_fake = np.zeros(len(self.fake), np.int64)
        for start, squared in _squared_distance_blocks(self.real, self.fake):
            nearest.append(np.sqrt(squared.min(axis=1)))
            around_real.append((squared <= fake_radius).sum(axis=1))
            around_fake += (squared <= real_radius[start : start + len(squared), None]).sum(axis=0)
        return np.concatenate(nearest), np.concatenate(around_real), around_fake

    def coverage(self) -> float:
        """Share of real images with a generated one in their neighborhood (Naeem et al., ICML 2020)."""
        return float(np.mean(self.between[0] <= self.real_distances[1]))

    def recall(self) -> float:
        """Share of real images in the neighborhood of a generated one (Kynkaanniemi et al., 2019)."""
        return float(np.mean(self.between[1] > 0))

    def precision(self) -> float:
        """Share of generated images in the neighborhood of a real one (Kynkaanniemi et al., 2019)."""
        return float(np.mean(self.between[2] > 0))

    def density(self) -> float:
        """How many real neighborhoods a generated image is in, over k; 1 on average for real ones (Naeem et al.)."""
        return float(np.mean(self.between[2]) / self.k)

    def duplicates(self) -> float:
        """Share of generated images with another one nearer than the `same_picture_distance` of the real ones.

        It is close to 1 if a generator collapsed.
        """
        return float(np.mean(self.fake_distances[0] < _same_picture(self.real_distances[0])))


def frechet_distance(real: Features, fake: Features) -> float:
    """Compute the Frechet distance of the Gaussians fitted to two sets of features (Heusel et al., NeurIPS 2017).

    It depends on the feature space, so name it after that space, and it is biased in small samples, so use at least
    2,000 images. The trace of the root of the product of covariances is the sum of the singular values of the product
    of the centered features, which needs no matrix root.
    """
    means = [each.mean(axis=0, dtype=np.float64) for each in (real, fake)]
    centered = [(each - mean) / np.sqrt(len(each) - 1) for each, mean in zip((real, fake), means, strict=True)]
    product = centered[0] @ centered[1].T if len(real) <= real.shape[1] else _small_product(*centered)
    cross = np.linalg.svd(product, compute_uv=False).sum()
    variances = sum(float(np.square(each).sum()) for each in centered)
    return float(np.square(means[0] - means[1]).sum() + variances - 2 * cross)


def _small_product(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute a [D, D] matrix with the singular values of left @ right.T, from the triangles of both."""
    triangles = [scipy.linalg.qr(each, mode="r")[0][: each.shape[1]] for each in (left, right)]
    product: NDArray[np.float64] = triangles[0] @ triangles[1].T
    return product


def same_picture_distance(real: Features) -> float:
    """Compute the distance below which two images count as the same picture.

    It is half the median distance of a real image to the nearest other one. If it is smaller, because some real images
    are frames of one walk, it is the distance that 99 % of them keep. Exact duplicates among the real images are left
    out of both.
    """
    return _same_picture(nearest_distances(real))


def _same_picture(nearest: NDArray[np.float32]) -> float:
    """Compute `same_picture_distance` without exact duplicates, whose distance is 0 but for rounding."""
    apart = nearest[nearest > TWINS * nearest.max()]
    return float(min(np.median(apart) / 2, np.quantile(apart, 0.01))) if len(apart) else 0.0


def copy_fraction(real: Features, fake: Features, distance: float) -> float:
    """Compute the share of memorized images: generated ones with a training image nearer than `distance`."""
    return float(np.mean(nearest_distances(fake, real) < distance))


def cluster_consistency(features: Features, clusters: NDArray[np.integer[Any]], centroids: Features) -> float:
    """Compute the share of images whose nearest centroid is that of their own cluster.

    Parameters
    ----------
    features : float [N, D], in the space of the centroids
    clusters : int [N], rows of `centroids`
    centroids : float [K, D]
    """
    nearest = [squared.argmin(axis=1) for _, squared in _squared_distance_blocks(features, centroids)]
    return float(np.mean(np.concatenate(nearest) == clusters))
