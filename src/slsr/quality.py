"""How good generated images are, measured without any downloaded network.

Two feature spaces serve: a fixed handcrafted one (colour stripes and oriented gradients, `handcrafted`), and whatever
features the caller has, such as the encoder's. Every measure takes plain arrays, and `assess` puts beside each value
its floor: the same measure between two disjoint halves of the real images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray

from slsr.images.colour import hsv_stripes
from slsr.images.decoding import Pixels

Features = NDArray[np.float32]

NEIGHBOURS = 5
TWINS = 1e-2  # of the largest distance to a nearest image: nearer is the same image, but for rounding
SUBSETS = 10
SUBSET_SIZE = 1000
FRECHET_LEAST = 2000
ROWS_AT_ONCE = 256
HANDCRAFTED_SIZE = (128, 64)
HOG_CELL, HOG_BINS, HOG_CLIP = 8, 9, 0.2
# Added to a block's squared length before the root: cells with differences below 4 grey levels, grain, count little.
HOG_FLAT = (4 * HOG_CELL**2) ** 2


def handcrafted(pixels: Pixels) -> Features:
    """The fixed feature space: HSV stripes and HOG of images resized to 128x64, each half of unit length, over sqrt 2.

    Parameters
    ----------
    pixels : uint8 [N, H, W, 3], RGB

    Returns
    -------
    float32 [N, 4804], rows of unit length: colours (1,024) and gradients (3,780) weigh the same.
    """
    blocks = [_handcrafted(pixels[start : start + ROWS_AT_ONCE]) for start in range(0, len(pixels), ROWS_AT_ONCE)]
    return np.concatenate(blocks) if blocks else np.empty((0, 4804), np.float32)


def _handcrafted(pixels: Pixels) -> Features:
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    if images.shape[2:] != HANDCRAFTED_SIZE:
        images = torch.nn.functional.interpolate(images.float(), HANDCRAFTED_SIZE, mode="bilinear", antialias=True)
        images = images.round().clamp(0, 255).to(torch.uint8)
    resized = images.permute(0, 2, 3, 1).contiguous().numpy()
    both: Features = np.concatenate([hsv_stripes(resized), hog(resized)], axis=1)
    return both / np.float32(np.sqrt(2))


def hog(pixels: Pixels) -> Features:
    """Histograms of oriented gradients (Dalal and Triggs, CVPR 2005), of the colour channel with the strongest one.

    Centred differences, 9 unsigned orientations with linear interpolation between neighbouring ones, cells of 8x8
    pixels, overlapping blocks of 2x2 cells, each normalised (but not what is flat) and clipped at 0.2.

    Parameters
    ----------
    pixels : uint8 [N, H, W, 3]; H and W at least 16, what exceeds a multiple of 8 is left out

    Returns
    -------
    float32 [N, (H//8 - 1) * (W//8 - 1) * 36], 3,780 values for 128x64, rows of unit length.
    """
    height, width = (size // HOG_CELL * HOG_CELL for size in pixels.shape[1:3])
    down, right = _strongest_gradient(pixels)
    cells = _cell_histograms(down[:, :height, :width], right[:, :height, :width])
    rows, columns = cells.shape[1] - 1, cells.shape[2] - 1
    corners = [cells[:, y : y + rows, x : x + columns] for y in (0, 1) for x in (0, 1)]
    blocks = np.concatenate(corners, axis=3)
    normed = blocks / np.sqrt(np.square(blocks).sum(axis=3, keepdims=True) + HOG_FLAT)
    return unit_rows(np.minimum(normed, HOG_CLIP).reshape(len(pixels), -1))


def _strongest_gradient(pixels: Pixels) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Centred differences down and to the right, of the channel in which they are largest, [N, H, W] each."""
    padded = np.pad(pixels, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge").astype(np.int16)
    down = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
    right = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
    strongest = (down.astype(np.int32) ** 2 + right.astype(np.int32) ** 2).argmax(axis=3)[..., None]
    gradients = (np.take_along_axis(part, strongest, axis=3)[..., 0].astype(np.float32) for part in (down, right))
    return next(gradients), next(gradients)


def _cell_histograms(down: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float32]:
    """Orientation histograms of cells, [N, H/8, W/8, 9], from gradients [N, H, W]."""
    count, height, width = down.shape
    rows, columns = height // HOG_CELL, width // HOG_CELL
    position = np.arctan2(down, right) % np.pi / np.pi * HOG_BINS - 0.5
    below = np.floor(position).astype(np.int64)
    magnitude, share = np.hypot(down, right), position - below
    row, column = np.arange(height)[:, None] // HOG_CELL, np.arange(width) // HOG_CELL
    cell = (np.arange(count)[:, None, None] * rows + row) * columns + column
    size = count * rows * columns * HOG_BINS
    histogram = np.bincount((cell * HOG_BINS + below % HOG_BINS).ravel(), (magnitude * (1 - share)).ravel(), size)
    histogram += np.bincount((cell * HOG_BINS + (below + 1) % HOG_BINS).ravel(), (magnitude * share).ravel(), size)
    return histogram.reshape(count, rows, columns, HOG_BINS).astype(np.float32)


def unit_rows(features: Features) -> Features:
    """Last axis scaled to unit Euclidean length; zeros stay."""
    length = np.linalg.norm(features, axis=-1, keepdims=True)
    return (features / np.where(length > 0, length, 1)).astype(np.float32)


def nearest_distances(points: Features, others: Features | None = None, k: int = 1) -> NDArray[np.float32]:
    """Euclidean distance of each point to its k-th nearest among `others`, or among the other points.

    Parameters
    ----------
    points : float [N, D]
    others : float [M, D]; None: the points themselves, each without itself
    k : 1 for the nearest

    Returns
    -------
    float32 [N]; infinite where there are fewer than k others.
    """
    return _distances_by_rank(points, others, [k])[0]


def _distances_by_rank(
    points: Features, others: Features | None, ranks: Sequence[int]
) -> tuple[NDArray[np.float32], ...]:
    """`nearest_distances` for several k, from one pass over the distances."""
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


def _squared_distance_blocks(points: Features, others: Features) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Squared Euclidean distances of `ROWS_AT_ONCE` points at a time, with the number of the first, never negative."""
    lengths = np.square(others).sum(axis=1)
    for start in range(0, len(points), ROWS_AT_ONCE):
        block = points[start : start + ROWS_AT_ONCE]
        squared = np.square(block).sum(axis=1)[:, None] + lengths - 2 * (block @ others.T)
        yield start, np.maximum(squared, 0)


def kernel_distance(real: Features, fake: Features) -> float:
    """Unbiased squared maximum mean discrepancy with the kernel (x.y / D + 1)^3: KID (Binkowski et al., ICLR 2018).

    It is 0 on average where both come from one distribution, and may be negative.

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


class Neighbourhoods:
    """Who is near whom in two sets of points: what the measures share, each pass over distances made once.

    Parameters
    ----------
    real, fake : float [N, D] and [M, D]
    k : neighbourhoods reach to the k-th nearest of the own set
    among_real : `real_distances` of other neighbourhoods of the same real points
    """

    def __init__(
        self,
        real: Features,
        fake: Features,
        k: int = NEIGHBOURS,
        among_real: tuple[NDArray[np.float32], ...] | None = None,
    ) -> None:
        self.real, self.fake, self.k = real, fake, k
        self._among_real = among_real

    @cached_property
    def real_distances(self) -> tuple[NDArray[np.float32], ...]:
        """Of each real point to the nearest and to the k-th nearest other one, [N] each."""
        return self._among_real or _distances_by_rank(self.real, None, [1, self.k])

    @cached_property
    def fake_distances(self) -> tuple[NDArray[np.float32], ...]:
        """Of each generated point to the nearest and to the k-th nearest other one, [M] each."""
        return _distances_by_rank(self.fake, None, [1, self.k])

    @cached_property
    def between(self) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
        """Distance of each real point to the nearest generated one; how many neighbourhoods each real and fake is in.

        float32 [N], int64 [N], int64 [M].
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
        """As the function `coverage`."""
        return float(np.mean(self.between[0] <= self.real_distances[1]))

    def recall(self) -> float:
        """As the function `recall`."""
        return float(np.mean(self.between[1] > 0))

    def precision(self) -> float:
        """As the function `precision`."""
        return float(np.mean(self.between[2] > 0))

    def density(self) -> float:
        """As the function `density`."""
        return float(np.mean(self.between[2]) / self.k)

    def duplicates(self) -> float:
        """As `duplicate_fraction`, below the `same_picture_distance` of the real points."""
        return float(np.mean(self.fake_distances[0] < _same_picture(self.real_distances[0])))


def coverage(real: Features, fake: Features, k: int = NEIGHBOURS) -> float:
    """Share of real images with a generated one nearer than their k-th nearest real one (Naeem et al., ICML 2020)."""
    return Neighbourhoods(real, fake, k).coverage()


def recall(real: Features, fake: Features, k: int = NEIGHBOURS) -> float:
    """Share of real images within some generated one's distance to its k-th nearest (Kynkaanniemi et al., 2019)."""
    return Neighbourhoods(real, fake, k).recall()


def precision(real: Features, fake: Features, k: int = NEIGHBOURS) -> float:
    """Share of generated images within some real one's distance to its k-th nearest (Kynkaanniemi et al., 2019)."""
    return Neighbourhoods(real, fake, k).precision()


def density(real: Features, fake: Features, k: int = NEIGHBOURS) -> float:
    """How many real neighbourhoods a generated image lies in, over k; 1 on average for real ones (Naeem et al.)."""
    return Neighbourhoods(real, fake, k).density()


def frechet_distance(real: Features, fake: Features) -> float:
    """Frechet distance of the Gaussians fitted to two sets of features (Heusel et al., NeurIPS 2017).

    It depends on the feature space, so name it after that, and it is biased in small samples: ask for at least 2,000
    images. The trace of the root of the product of covariances is the sum of the singular values of the product of
    the centred features, which needs no matrix root.
    """
    means = [each.mean(axis=0, dtype=np.float64) for each in (real, fake)]
    centred = [(each - mean) / np.sqrt(len(each) - 1) for each, mean in zip((real, fake), means, strict=True)]
    product = centred[0] @ centred[1].T if len(real) <= real.shape[1] else _small_product(*centred)
    cross = np.linalg.svd(product, compute_uv=False).sum()
    variances = sum(float(np.square(each).sum()) for each in centred)
    return float(np.square(means[0] - means[1]).sum() + variances - 2 * cross)


def _small_product(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """A [D, D] matrix with the singular values of left @ right.T, from the triangles of both."""
    triangles = [scipy.linalg.qr(each, mode="r")[0][: each.shape[1]] for each in (left, right)]
    product: NDArray[np.float64] = triangles[0] @ triangles[1].T
    return product


def same_picture_distance(real: Features) -> float:
    """Below this distance two images count as the same picture.

    It is half the median distance of a real image to the nearest other, or, where real images have close kin (frames
    of one walk), what 99 % of them keep. Exact twins among the real images are left out of both.
    """
    return _same_picture(nearest_distances(real))


def _same_picture(nearest: NDArray[np.float32]) -> float:
    """Among images that have no exact twin: twins are at 0, but for rounding, and nothing is nearer than that."""
    apart = nearest[nearest > TWINS * nearest.max()]
    return float(min(np.median(apart) / 2, np.quantile(apart, 0.01))) if len(apart) else 0.0


def duplicate_fraction(fake: Features, distance: float) -> float:
    """Share of generated images with another one nearer than `distance`: close to 1 where a generator collapsed."""
    return float(np.mean(nearest_distances(fake) < distance))


def copy_fraction(real: Features, fake: Features, distance: float) -> float:
    """Share of generated images with a training image nearer than `distance`: memorised ones."""
    return float(np.mean(nearest_distances(fake, real) < distance))


def cluster_consistency(features: Features, clusters: NDArray[np.integer[Any]], centroids: Features) -> float:
    """Share of images whose nearest centroid is their own cluster's.

    Parameters
    ----------
    features : float [N, D], in the space of the centroids
    clusters : int [N], rows of `centroids`
    centroids : float [K, D]
    """
    nearest = [squared.argmin(axis=1) for _, squared in _squared_distance_blocks(features, centroids)]
    return float(np.mean(np.concatenate(nearest) == clusters))


@dataclass(frozen=True)
class Measured:
    """A measure of generated images, and its floor: the same measure of real images taken for generated ones.

    Deviations are over random subsets; None where the value comes from all images at once, or there are too few.
    """

    value: float | None
    deviation: float | None
    floor: float | None
    floor_deviation: float | None


SUBSET_MEASURES: Mapping[str, Callable[[Neighbourhoods], float]] = {
    "kernel": lambda pair: kernel_distance(_cosine_scaled(pair.real), _cosine_scaled(pair.fake)),
    "coverage": Neighbourhoods.coverage,
    "recall": Neighbourhoods.recall,
    "precision": Neighbourhoods.precision,
    "density": Neighbourhoods.density,
    "duplicates": Neighbourhoods.duplicates,
}


def assess(
    real: Features, fake: Features, names: Sequence[str], seed: int, subsets: int = SUBSETS, size: int = SUBSET_SIZE
) -> dict[str, Measured]:
    """Measure generated images against real ones in one feature space, each value with its floor.

    Most measures depend on the numbers of images, so all are means over random subsets in which the reference, the
    generated images, and the other real images that give the floor are equally many: at most half of the real ones.
    Rows are scaled to unit length first. Copies are looked for among all real images. The Frechet distance is that of
    one draw of as many as there are, and None below 2,000: fewer than that say more about their number.

    Parameters
    ----------
    real, fake : float32 [N, D] and [M, D]
    names : of SUBSET_MEASURES, `copies` and `frechet`
    seed : draws the subsets
    subsets, size : how many, and how large at most

    Returns
    -------
    By name; values are None where a subset would have fewer than `NEIGHBOURS` + 1 images.
    """
    real, fake = unit_rows(real), unit_rows(fake)
    count = min(len(real) // 2, len(fake), size)
    if count <= NEIGHBOURS:
        return {name: Measured(None, None, None, None) for name in names}
    draws = list(_subsets(real, fake, count, subsets, seed))
    generated = [Neighbourhoods(draw[0], draw[1]) for draw in draws]
    held_out = [
        Neighbourhoods(draw[0], draw[2], among_real=one.real_distances)
        for draw, one in zip(draws, generated, strict=True)
    ]
    found: dict[str, Measured] = {}
    for name in names:
        if name == "copies":
            found[name] = _copies(real, fake, draws)
        elif name == "frechet":
            found[name] = _frechet(real, fake, seed)
        else:
            found[name] = _measured(name, generated, held_out)
    return found


def _cosine_scaled(features: Features) -> Features:
    """Unit rows times the root of D, so that the kernel's x.y / D is the cosine."""
    return features * np.float32(np.sqrt(features.shape[1]))


Draw = tuple[Features, Features, Features]


def _subsets(real: Features, fake: Features, count: int, subsets: int, seed: int) -> Iterator[Draw]:
    """Reference, generated and held-out real images, `count` of each."""
    stream = np.random.default_rng(seed)
    for _ in range(subsets):
        order = stream.permutation(len(real))
        yield real[order[:count]], fake[stream.permutation(len(fake))[:count]], real[order[count : 2 * count]]


def _measured(name: str, generated: Sequence[Neighbourhoods], held_out: Sequence[Neighbourhoods]) -> Measured:
    values, floors = ([SUBSET_MEASURES[name](pair) for pair in pairs] for pairs in (generated, held_out))
    return Measured(*_mean_and_deviation(values), *_mean_and_deviation(floors))


def _copies(real: Features, fake: Features, draws: Sequence[Draw]) -> Measured:
    value = copy_fraction(real, fake, same_picture_distance(real))
    floors = [copy_fraction(reference, held_out, same_picture_distance(reference)) for reference, _, held_out in draws]
    return Measured(value, None, *_mean_and_deviation(floors))


def _frechet(real: Features, fake: Features, seed: int) -> Measured:
    count = min(len(real) // 2, len(fake))
    if count < FRECHET_LEAST:
        return Measured(None, None, None, None)
    ((reference, generated, held_out),) = _subsets(real, fake, count, 1, seed)
    return Measured(frechet_distance(reference, generated), None, frechet_distance(reference, held_out), None)


def _mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


AlarmName = Literal["collapse", "memorisation", "unlike", "narrow"]
# Which alarm a measure sounds, and on which side of its limit: -1 below, 1 above.
ALARMS: Mapping[str, tuple[AlarmName, int]] = {
    "coverage": ("collapse", -1),
    "duplicates": ("collapse", 1),
    "copies": ("memorisation", 1),
    "precision": ("unlike", -1),
    "recall": ("narrow", -1),
}
FLOOR_DEVIATIONS = 2.0
LARGEST_LIMIT, SMALLEST_LIMIT = 0.9, 0.05  # what floors may make of a limit: beyond, every set is sound


@dataclass(frozen=True)
class Alarm:
    """A measure on the wrong side of its limit."""

    alarm: AlarmName
    measure: str
    value: float
    limit: float


def find_alarms(measured: Mapping[str, Measured], limits: Mapping[str, float]) -> list[Alarm]:
    """What is wrong with a set of generated images.

    Collapse below the limit of coverage or above that of duplicates, memorisation above that of copies, unlike the
    real images below that of precision, narrow below that of recall. What was not measured, or has no limit, sounds
    nothing. Where real images taken for generated ones come near a limit themselves, as copies and duplicates do where
    few images of few people lie close together, the limit is their floor and two of its deviations. A set that is
    unlike covers nothing and is reached by nothing, so that collapse and narrow sound as well: unlike is the cause.

    Parameters
    ----------
    measured, limits : by name of the measure
    """
    found: list[Alarm] = []
    for name, (kind, side) in ALARMS.items():
        one = measured.get(name)
        if one is not None and one.value is not None and name in limits:
            limit = _beyond_floor(one, limits[name], side)
            if (one.value - limit) * side > 0:
                found.append(Alarm(kind, name, one.value, limit))
    return found


def _beyond_floor(measured: Measured, limit: float, side: int) -> float:
    if measured.floor is None:
        return limit
    farthest = measured.floor + side * FLOOR_DEVIATIONS * (measured.floor_deviation or 0.0)
    if side > 0:
        return round(max(limit, min(farthest, LARGEST_LIMIT)), 6)
    return round(min(limit, max(farthest, SMALLEST_LIMIT)), 6)
