"""The nearest images and the furthest distance of every image, from one pass over all products of features.

The products are computed one tile at a time, once for each pair of images. A stripe is a few consecutive rows; its
first tile is a square on the diagonal, and the others are to the right of it. With 2 queries and 6 gallery images:

              q q   g g g g g g
        q   [ A A | b b b b b b ]      A, C, D   squares on the diagonal: each image meets the others of its stripe
        q   [ A A | b b b b b b ]      b, e      tiles beside them
        g         [ C C C e e e ]      below the diagonal nothing is computed: the products are symmetric
        g         [ C C C e e e ]
        g         [ C C C e e e ]
        g               [ D D D ]
        g               [ D D D ]
        g               [ D D D ]
        g               [ D D D ]

A tile beside the diagonal is used twice: `_scan_rows` shows the images of its columns to the images of its rows, and
`_scan_columns` shows the images of its rows to the images of its columns. Each image keeps a short list of its nearest
images, so that nothing larger than a tile and N short lists is in memory.

Images are compared by keys, see `MeasuredFeatures`: the nearer two images are, the larger is their key.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from slsr.retrieval.distances import Floats, MeasuredFeatures, dot, measured, rounding_doubt, squared_lengths
from slsr.retrieval.workers import Workers, compiled

SPARE_NEIGHBORS = 3
TILE_ROWS, TILE_COLUMNS = 1024, 4096
CHUNK = 128
LANES = 64
FEW_IMAGES = 2048  # so few are compared in float64: it is cheap, and a swapped pair shows in a mean over few queries
SAMPLED_IMAGES = 64
SHARP = 625  # the least distance to the last neighbor, in units of the rounding error: relative errors below 1/1000

Indices = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class NeighborTable:
    """What re-ranking needs to know of all squared Euclidean distances.

    Attributes
    ----------
    nearest
        [N, L]: the nearest images of each image, first itself, then by distance; equally near ones by index.
    distances
        [N, L]: the squared distances to them.
    furthest
        [N]: the squared distance to the furthest image; 0 if it is within rounding error.
    """

    nearest: Indices
    distances: Floats
    furthest: NDArray[np.float64]


class Tile(NamedTuple):
    """Products of the images `row, row + 1, ...` (its rows) and the images `column, column + 1, ...` (its columns)."""

    products: Floats
    row: int
    column: int


class NeighborLists(NamedTuple):
    """What every image knows of the images that it has been shown.

    `scale` and `terms` [N] turn a product into a key. `nearest` [N, L] are the nearest images so far and `keys` [N, L]
    their keys, largest first. `enough` [N] is a key that at least L images are known to reach, so that a smaller one
    cannot be among the nearest. `lowest` [N] is the key of the furthest image.
    """

    scale: Floats
    terms: Floats
    nearest: Indices
    keys: Floats
    enough: Floats
    lowest: Floats

    @classmethod
    def start(cls, scale: Floats, terms: Floats, length: int) -> NeighborLists:
        """Make lists of this length in which every image knows itself alone."""
        count, dtype = len(scale), scale.dtype
        nearest, keys = np.full((count, length), -1, np.int32), np.full((count, length), -np.inf, dtype)
        nearest[:, 0], keys[:, 0] = np.arange(count), np.inf
        return cls(scale, terms, nearest, keys, np.full(count, -np.inf, dtype), np.full(count, np.inf, dtype))


class ExactKeys(NamedTuple):
    """What is needed to compute the key of any two images in float64: features of both sides, scale and terms [N]."""

    query: Floats
    gallery: Floats
    scale: NDArray[np.float64]
    terms: NDArray[np.float64]


class QueryAndGallery:
    """Queries and gallery as one list of N = Q + G images; their features are not copied."""

    def __init__(self, query: MeasuredFeatures, gallery: MeasuredFeatures) -> None:
        self.query, self.gallery = query, gallery
        self.queries = len(query.values)
        self.count = self.queries + len(gallery.values)
        self.dtype = query.values.dtype
        self.scale = np.concatenate([query.scale, gallery.scale])
        self.terms = np.concatenate([query.terms, gallery.terms])
        self.constants = np.concatenate([query.constants, gallery.constants])
        self._exact = ExactKeys(query.values, gallery.values, self.scale, self.terms)

    def sharpened(self, neighbors: int) -> QueryAndGallery:
        """Return these images, or in float64 if rounding in their own type could decide which ones are near.

        Distances follow from products, so with a common offset, or with features that differ little from each other,
        few digits of a distance are right. Then the mean is subtracted in float64, which changes no distance.

        Parameters
        ----------
        neighbors : how many nearest images must be told apart, the image itself among them
        """
        few = self.dtype == np.float32 and self.count <= FEW_IMAGES
        return self.centered() if few or not self.is_sharp(neighbors) else self

    def is_sharp(self, neighbors: int) -> bool:
        """Say for a sample of images if rounding errors are small beside the distance to the last of its nearest."""
        rows = np.unique(np.linspace(0, self.count - 1, SAMPLED_IMAGES).astype(np.int64))
        features = np.concatenate([self._values(row, row + 1) for row in rows])
        products = np.concatenate([features @ side.values.T for side in (self.query, self.gallery)], axis=1)
        keys = products * self.scale.astype(self.dtype) + self.terms.astype(self.dtype)
        last = min(neighbors, self.count) - 1
        nearest = np.partition(keys, self.count - 1 - last, axis=1)[:, self.count - 1 - last]
        squared = self.constants[rows] - 2 * self.scale[rows] * nearest
        return bool((squared > SHARP * 2 * self.scale[rows] * self._doubt()[rows]).all())

    def centered(self) -> QueryAndGallery:
        """Subtract the mean of all images in float64; the distances are as before."""
        sides = [side.values * side.scale[:, None] for side in (self.query, self.gallery)]
        mean = sum(side.sum(axis=0) for side in sides) / self.count
        names = ("query_features", "gallery_features")
        query, gallery = (
            measured(name, side - mean, np.dtype(np.float64), normalize=False)
            for name, side in zip(names, sides, strict=True)
        )
        return QueryAndGallery(query, gallery)

    def neighbors(self, cuts: Sequence[int], kept: Floats, workers: Workers) -> NeighborTable:
        """Find the nearest images of each image: as many as the last cut, and a few more.

        Whether an image is before or behind a cut is decided in float64. On the way, the products of the first queries
        with the gallery are copied to `kept` [any number of queries, G].
        """
        length = min(max(cuts) + SPARE_NEIGHBORS, self.count)
        lists = NeighborLists.start(self.scale.astype(self.dtype), self.terms.astype(self.dtype), length)
        for tile in self.tiles():
            self._scan(tile, lists, workers)
            self._keep(tile, kept)
        doubt = self._doubt()
        for cut in cuts:
            workers.run(_settle_cut, self.count, cut, doubt, lists.nearest, lists.keys, self._exact)
        return self._table(lists, doubt)

    def pair_distances(self, first: Indices, second: Indices) -> NDArray[np.float64]:
        """Compute the squared distances of pairs of images in float64."""
        keys = np.empty(len(first))
        with Workers() as workers:
            workers.run(_pair_keys, len(first), first, second, keys, self._exact)
        return np.asarray(self.constants[first] - 2 * self.scale[first] * keys)

    def tiles(self) -> Iterator[Tile]:
        """Multiply all pairs of images, each pair once.

        Squares on the diagonal come first: they show every image many others, and in a table that is sorted by identity
        the images of its own identity, so that few of the images that it sees later are among its nearest.
        """
        buffer = np.empty(TILE_ROWS * TILE_COLUMNS, self.dtype)
        for (top, bottom), (left, right) in self._layout():
            products = buffer[: (bottom - top) * (right - left)].reshape(bottom - top, right - left)
            np.matmul(self._values(top, bottom), self._values(left, right).T, out=products)
            yield Tile(products, top, left)

    def _scan(self, tile: Tile, lists: NeighborLists, workers: Workers) -> None:
        rows, columns = tile.products.shape
        on_diagonal = tile.row == tile.column
        if on_diagonal and lists.keys.shape[1] <= LANES // 2:
            workers.run(_raise_enough, rows, tile, lists)
        workers.run(_scan_rows, rows, tile, lists)
        if not on_diagonal:
            workers.run(_scan_columns, -(-columns // CHUNK), tile, lists)

    def _keep(self, tile: Tile, kept: Floats) -> None:
        """Copy the products of the first queries with the gallery."""
        if tile.row < len(kept) and tile.column >= self.queries:
            rows, columns = tile.products.shape
            left = tile.column - self.queries
            kept[tile.row : tile.row + rows, left : left + columns] = tile.products[: len(kept) - tile.row]

    def _table(self, lists: NeighborLists, doubt: NDArray[np.float64]) -> NeighborTable:
        lists.keys[:, 0] = (self.constants / 2 / self.scale).astype(self.dtype)
        distances, furthest = (self._squared(keys) for keys in (lists.keys, lists.lowest[:, None]))
        furthest = np.where(furthest[:, 0] > 2 * self.scale * doubt, furthest[:, 0], 0)
        return NeighborTable(lists.nearest, distances.astype(self.dtype), furthest)

    def _squared(self, keys: Floats) -> NDArray[np.float64]:
        return np.asarray(np.maximum(self.constants[:, None] - 2 * self.scale[:, None] * keys, 0))

    def _doubt(self) -> NDArray[np.float64]:
        """Say for each image how far apart two rounded keys must be before their order is sure, [N]."""
        lengths = [np.sqrt(squared_lengths(side.values)) for side in (self.query, self.gallery)]
        length = np.concatenate(lengths)
        return rounding_doubt(length, length * self.scale, self.terms, self.dtype)

    def _layout(self) -> list[tuple[tuple[int, int], tuple[int, int]]]:
        """List rows and columns of the tiles; on one side of a tile are either queries or gallery images."""
        stripes = [*edges(0, self.queries, TILE_ROWS), *edges(self.queries, self.count, TILE_ROWS)]
        beside = []
        for stripe in stripes:
            border = self.queries if stripe[1] <= self.queries else self.count
            beside += [(stripe, columns) for columns in edges(stripe[1], border, TILE_COLUMNS)]
            if border < self.count:
                beside += [(stripe, columns) for columns in edges(self.queries, self.count, TILE_COLUMNS)]
        return [(stripe, stripe) for stripe in stripes] + beside

    def _values(self, start: int, stop: int) -> Floats:
        if stop <= self.queries:
            return self.query.values[start:stop]
        return self.gallery.values[start - self.queries : stop - self.queries]


def edges(start: int, stop: int, size: int) -> list[tuple[int, int]]:
    """Divide `start:stop` into as few even parts as possible that are no longer than `size`."""
    parts = -(-(stop - start) // size)
    return [
        (start + (stop - start) * part // parts, start + (stop - start) * (part + 1) // parts) for part in range(parts)
    ]


@compiled
def _insert(key: Any, image: int, nearest: Indices, keys: Floats) -> None:
    """Insert an image whose key is at least the last one into a list of the nearest; the last image falls out."""
    last = len(keys) - 1
    if key == keys[last] and image > nearest[last]:
        return
    place = last
    while place > 0 and key > keys[place - 1]:
        place -= 1
    while place > 0 and key == keys[place - 1] and image < nearest[place - 1]:
        place -= 1
    for behind in range(last, place, -1):
        keys[behind] = keys[behind - 1]
    for behind in range(last, place, -1):
        nearest[behind] = nearest[behind - 1]
    keys[place], nearest[place] = key, image


@compiled
def _row_matters(products: Floats, scale: Floats, terms: Floats, nearest: Any, furthest: Any) -> np.int32:
    """Say whether a key is at least `nearest` or less than `furthest`."""
    found = np.int32(0)
    for column in range(len(products)):
        key = products[column] * scale[column] + terms[column]
        found |= np.int32(key >= nearest) | np.int32(key < furthest)
    return found


@compiled
def _columns_matter(products: Floats, scale: Any, term: Any, nearest: Floats, furthest: Floats) -> np.int32:
    """Say whether a column's key is at least its `nearest` or less than its `furthest`."""
    found = np.int32(0)
    for column in range(len(products)):
        key = products[column] * scale + term
        found |= np.int32(key >= nearest[column]) | np.int32(key < furthest[column])
    return found


@compiled
def _raise_to_largest(products: Floats, scale: Floats, terms: Floats, largest: Floats) -> None:
    for column in range(len(products)):
        key = products[column] * scale[column] + terms[column]
        largest[column] = key if key > largest[column] else largest[column]


@compiled
def _raise_enough(start: int, stop: int, tile: Tile, lists: NeighborLists) -> None:
    """Find for the rows of a square tile a key that as many images as a list holds, itself among them, reach.

    The columns are dealt to `LANES` groups; it is the L-th of the largest keys of the groups.
    """
    products, scale, terms, length = tile.products, lists.scale, lists.terms, lists.keys.shape[1]
    largest, top = np.empty(LANES, products.dtype), np.empty(length, products.dtype)
    for row in range(start, stop):
        largest[:] = -np.inf
        for left in range(0, products.shape[1], LANES):
            part = products[row, left : left + LANES]
            others = slice(tile.row + left, tile.row + left + len(part))
            _raise_to_largest(part, scale[others], terms[others], largest)
        top[:] = -np.inf
        for key in largest:
            if key > top[-1]:
                place = length - 1
                while place > 0 and key > top[place - 1]:
                    top[place] = top[place - 1]
                    place -= 1
                top[place] = key
        lists.enough[tile.row + row] = top[-1]


@compiled
def _scan_rows(start: int, stop: int, tile: Tile, lists: NeighborLists) -> None:
    """Show the images of the tile's columns to the images of its rows `start:stop`."""
    scale, terms, nearest, keys, enough, lowest = lists
    for row in range(start, stop):
        image = tile.row + row
        worst, furthest = max(keys[image, -1], enough[image]), lowest[image]
        for left in range(0, tile.products.shape[1], CHUNK):
            products = tile.products[row, left : left + CHUNK]
            first = tile.column + left
            scales, added = scale[first : first + len(products)], terms[first : first + len(products)]
            if not _row_matters(products, scales, added, worst, furthest):
                continue
            for column in range(len(products)):
                key = products[column] * scales[column] + added[column]
                if (key >= worst or key < furthest) and first + column != image:
                    furthest = min(furthest, key)
                    if key >= worst:
                        _insert(key, first + column, nearest[image], keys[image])
                        worst = max(keys[image, -1], worst)
        lowest[image] = furthest


@compiled
def _scan_columns(start: int, stop: int, tile: Tile, lists: NeighborLists) -> None:
    """Show the images of the tile's rows to the images of its columns, `CHUNK` columns at a time."""
    scale, terms, nearest, keys, enough, lowest = lists
    for part in range(start, stop):
        left, right = part * CHUNK, min(part * CHUNK + CHUNK, tile.products.shape[1])
        first, last = tile.column + left, tile.column + right
        worst = np.maximum(keys[first:last, -1], enough[first:last])
        furthest = lowest[first:last].copy()
        for row in range(tile.products.shape[0]):
            products = tile.products[row, left:right]
            other = tile.row + row
            if not _columns_matter(products, scale[other], terms[other], worst, furthest):
                continue
            for column in range(len(products)):
                key = products[column] * scale[other] + terms[other]
                if key >= worst[column] or key < furthest[column]:
                    furthest[column] = min(furthest[column], key)
                    if key >= worst[column]:
                        _insert(key, other, nearest[first + column], keys[first + column])
                        worst[column] = max(keys[first + column, -1], worst[column])
        lowest[first:last] = furthest


@compiled
def _exact_key(first: int, second: int, exact: ExactKeys) -> float:
    query, gallery = exact.query, exact.gallery
    one = query[first] if first < len(query) else gallery[first - len(query)]
    other = query[second] if second < len(query) else gallery[second - len(query)]
    return float(dot(one, other) * exact.scale[second] + exact.terms[second])


@compiled
def _pair_keys(
    start: int, stop: int, first: Indices, second: Indices, keys: NDArray[np.float64], exact: ExactKeys
) -> None:
    for pair in range(start, stop):
        keys[pair] = _exact_key(first[pair], second[pair], exact)


@compiled
def _settle_cut(
    start: int, stop: int, cut: int, doubt: NDArray[np.float64], nearest: Indices, keys: Floats, exact: ExactKeys
) -> None:
    """Sort the images around a cut again, by keys in float64, if rounding could decide their order."""
    length = keys.shape[1]
    if cut >= length:
        return
    precise = np.empty(length)
    for image in range(start, stop):
        first = last = cut
        while first > 1 and keys[image, first - 1] - keys[image, cut] < doubt[image]:
            first -= 1
        while last < length and keys[image, cut - 1] - keys[image, last] < doubt[image]:
            last += 1
        if first == cut or last == cut:
            continue
        others = nearest[image, first:last].copy()
        nearest[image, first:last] = np.iinfo(np.int32).max
        precise[: last - first] = -np.inf
        for other in others:
            key = _exact_key(image, other, exact)
            _insert(key, other, nearest[image, first:last], precise[: last - first])
        keys[image, first:last] = precise[: last - first]
