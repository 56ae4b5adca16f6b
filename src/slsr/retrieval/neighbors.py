"""The nearest and the furthest images of every image, from one pass over all products of features.

The products are made a tile at a time, those of a pair once: a tile shows the images of its columns to those of its
rows and, by symmetry, those of its rows to those of its columns. Nothing larger is kept beside N short lists.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slsr.retrieval.distances import ROUNDING, Features, Floats, dot, squared_lengths
from slsr.retrieval.workers import Workers, compiled

SPARE_NEIGHBORS = 3
TILE_ROWS, TILE_COLUMNS = 1024, 4096
CHUNK = 128
LANES = 64

Indices = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class NeighborTable:
    """What re-ranking needs to know of all squared Euclidean distances.

    Attributes
    ----------
    nearest
        [N, L]: the nearest images of each, itself first, then by distance, equally near ones by index.
    distances
        [N, L]: to those.
    furthest
        [N]: to the furthest image; 0 where rounding could have made it.
    """

    nearest: Indices
    distances: Floats
    furthest: NDArray[np.float64]


class Images:
    """Queries and gallery as one list of N = Q + G images, their features left where they are."""

    def __init__(self, query: Features, gallery: Features) -> None:
        self.query, self.gallery = query, gallery
        self.queries = len(query.values)
        self.count = self.queries + len(gallery.values)
        self.dtype = query.values.dtype
        self.scale = np.concatenate([query.scale, gallery.scale])
        self.terms = np.concatenate([query.terms, gallery.terms])
        self.constants = np.concatenate([query.constants, gallery.constants])

    def neighbors(self, cuts: Sequence[int], kept: Floats, workers: Workers) -> NeighborTable:
        """The nearest images of each, as many as the last cut and a few more.

        Those before each cut are told from those behind it as float64 tells them apart. On the way the products of the
        first queries with the gallery are put into `kept` [as many queries as it has rows, G].
        """
        length = min(max(cuts) + SPARE_NEIGHBORS, self.count)
        nearest = np.full((self.count, length), -1, np.int32)
        keys = np.full((self.count, length), -np.inf, self.dtype)
        nearest[:, 0], keys[:, 0] = np.arange(self.count), np.inf
        lowest, floor = np.full(self.count, np.inf, self.dtype), np.full(self.count, -np.inf, self.dtype)
        scale, terms = self.scale.astype(self.dtype), self.terms.astype(self.dtype)
        for row, column, tile in self._tiles():
            if row == column and length <= LANES // 2:
                workers.run(_raise_floor, len(tile), tile, row, scale, terms, length, floor)
            arguments = (tile, row, column, scale, terms, floor, nearest, keys, lowest)
            workers.run(_scan_rows, len(tile), *arguments)
            if row != column:
                workers.run(_scan_columns, -(-tile.shape[1] // CHUNK), *arguments)
            if row < len(kept) and column >= self.queries:
                left = column - self.queries
                kept[row : row + len(tile), left : left + tile.shape[1]] = tile[: len(kept) - row]
        doubt = self._doubt()
        for cut in cuts:
            workers.run(_settle, self.count, cut, doubt, nearest, keys, *self._exact())
        keys[:, 0] = (self.constants / 2 / self.scale).astype(self.dtype)
        distances, furthest = (self._squared(key) for key in (keys, lowest[:, None]))
        furthest = np.where(furthest[:, 0] > 2 * self.scale * doubt, furthest[:, 0], 0)
        return NeighborTable(nearest, distances.astype(self.dtype), furthest)

    def pair_distances(self, first: Indices, second: Indices) -> NDArray[np.float64]:
        """Squared distances of pairs of images, in float64."""
        keys = np.empty(len(first))
        with Workers() as workers:
            workers.run(_pair_keys, len(first), first, second, keys, *self._exact())
        return np.asarray(self.constants[first] - 2 * self.scale[first] * keys)

    def _exact(self) -> tuple[Any, ...]:
        return self.query.values, self.gallery.values, self.scale, self.terms

    def _squared(self, keys: Floats) -> NDArray[np.float64]:
        return np.asarray(np.maximum(self.constants[:, None] - 2 * self.scale[:, None] * keys, 0))

    def _doubt(self) -> NDArray[np.float64]:
        """[N]: how far keys that were rounded may be from what they should be."""
        lengths = np.sqrt(squared_lengths(self.query.values)), np.sqrt(squared_lengths(self.gallery.values))
        length = np.concatenate(lengths)
        largest = length * (length * self.scale).max() + np.abs(self.terms).max()
        return np.asarray(ROUNDING * np.finfo(self.dtype).eps * largest)

    def _tiles(self) -> Iterator[tuple[int, int, Floats]]:
        """The products of all pairs of images, each pair once: first row, first column, products.

        Squares on the diagonal come first: they show every image as many others, and where images are sorted by
        identity its own, so that few of those seen later are among its nearest.
        """
        buffer = np.empty(TILE_ROWS * TILE_COLUMNS, self.dtype)
        for (top, bottom), (left, right) in self._layout():
            tile = buffer[: (bottom - top) * (right - left)].reshape(bottom - top, right - left)
            yield top, left, np.matmul(self._values(top, bottom), self._values(left, right).T, out=tile)

    def _layout(self) -> list[tuple[tuple[int, int], tuple[int, int]]]:
        """Rows and columns of the tiles; none of them holds both queries and gallery on one side."""
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
    """`start:stop` in as few even parts as are no longer than `size`."""
    parts = -(-(stop - start) // size)
    return [
        (start + (stop - start) * part // parts, start + (stop - start) * (part + 1) // parts) for part in range(parts)
    ]


def _insert_image(key: Any, image: int, nearest: Indices, keys: Floats) -> None:
    """Put an image whose key is at least the last one where it belongs in a list of the nearest; the last falls out."""
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


def _any_in_row(products: Floats, scale: Floats, terms: Floats, nearest: Any, furthest: Any) -> np.int32:
    """Whether a key is at least `nearest` or less than `furthest`."""
    found = np.int32(0)
    for column in range(len(products)):
        key = products[column] * scale[column] + terms[column]
        found |= np.int32(key >= nearest) | np.int32(key < furthest)
    return found


def _any_in_columns(products: Floats, scale: Any, term: Any, nearest: Floats, furthest: Floats) -> np.int32:
    """Whether a column's key is at least its `nearest` or less than its `furthest`."""
    found = np.int32(0)
    for column in range(len(products)):
        key = products[column] * scale + term
        found |= np.int32(key >= nearest[column]) | np.int32(key < furthest[column])
    return found


_insert = compiled(_insert_image)
_row_matters = compiled(_any_in_row)
_columns_matter = compiled(_any_in_columns)


def _raise_to_largest(products: Floats, scale: Floats, terms: Floats, largest: Floats) -> None:
    for column in range(len(products)):
        key = products[column] * scale[column] + terms[column]
        largest[column] = key if key > largest[column] else largest[column]


_raise = compiled(_raise_to_largest)


def _raise_floors(
    start: int, stop: int, tile: Floats, first: int, scale: Floats, terms: Floats, length: int, floor: Floats
) -> None:
    """For the rows of a square tile, a key that `length` images, the row's own among them, are sure to reach.

    It is the `length`-th of the largest keys of as many groups of columns as there are lanes.
    """
    largest, top = np.empty(LANES, tile.dtype), np.empty(length, tile.dtype)
    for row in range(start, stop):
        largest[:] = -np.inf
        for left in range(0, tile.shape[1], LANES):
            products = tile[row, left : left + LANES]
            others = slice(first + left, first + left + len(products))
            _raise(products, scale[others], terms[others], largest)
        top[:] = -np.inf
        for key in largest:
            if key > top[-1]:
                place = length - 1
                while place > 0 and key > top[place - 1]:
                    top[place] = top[place - 1]
                    place -= 1
                top[place] = key
        floor[first + row] = top[-1]


def _scan_tile_rows(
    start: int,
    stop: int,
    tile: Floats,
    first_row: int,
    first_column: int,
    scale: Floats,
    terms: Floats,
    floor: Floats,
    nearest: Indices,
    keys: Floats,
    lowest: Floats,
) -> None:
    """Show the images of the tile's columns to those of its rows `start:stop`."""
    for row in range(start, stop):
        image = first_row + row
        worst, furthest = max(keys[image, -1], floor[image]), lowest[image]
        for left in range(0, tile.shape[1], CHUNK):
            products = tile[row, left : left + CHUNK]
            first = first_column + left
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


def _scan_tile_columns(
    start: int,
    stop: int,
    tile: Floats,
    first_row: int,
    first_column: int,
    scale: Floats,
    terms: Floats,
    floor: Floats,
    nearest: Indices,
    keys: Floats,
    lowest: Floats,
) -> None:
    """Show the images of the tile's rows to those of its columns, `CHUNK` columns at a time."""
    for part in range(start, stop):
        left, right = part * CHUNK, min(part * CHUNK + CHUNK, tile.shape[1])
        first = first_column + left
        worst = np.maximum(keys[first : first_column + right, -1], floor[first : first_column + right])
        furthest = lowest[first : first_column + right].copy()
        for row in range(tile.shape[0]):
            products = tile[row, left:right]
            other = first_row + row
            if not _columns_matter(products, scale[other], terms[other], worst, furthest):
                continue
            for column in range(len(products)):
                key = products[column] * scale[other] + terms[other]
                if key >= worst[column] or key < furthest[column]:
                    furthest[column] = min(furthest[column], key)
                    if key >= worst[column]:
                        _insert(key, other, nearest[first + column], keys[first + column])
                        worst[column] = max(keys[first + column, -1], worst[column])
        lowest[first : first_column + right] = furthest


_raise_floor = compiled(_raise_floors)
_scan_rows = compiled(_scan_tile_rows)
_scan_columns = compiled(_scan_tile_columns)


def _pair_key(
    first: int, second: int, query: Floats, gallery: Floats, scale: NDArray[np.float64], terms: NDArray[np.float64]
) -> float:
    one = query[first] if first < len(query) else gallery[first - len(query)]
    other = query[second] if second < len(query) else gallery[second - len(query)]
    return float(dot(one, other) * scale[second] + terms[second])


_exact_key = compiled(_pair_key)


def _pair_keys_of(
    start: int,
    stop: int,
    first: Indices,
    second: Indices,
    keys: NDArray[np.float64],
    query: Floats,
    gallery: Floats,
    scale: NDArray[np.float64],
    terms: NDArray[np.float64],
) -> None:
    for pair in range(start, stop):
        keys[pair] = _exact_key(first[pair], second[pair], query, gallery, scale, terms)


def _settle_cut(
    start: int,
    stop: int,
    cut: int,
    doubt: NDArray[np.float64],
    nearest: Indices,
    keys: Floats,
    query: Floats,
    gallery: Floats,
    scale: NDArray[np.float64],
    terms: NDArray[np.float64],
) -> None:
    """Sort anew, by keys of float64, the images too close to a cut to be told apart."""
    length = keys.shape[1]
    if cut >= length:
        return
    exact = np.empty(length)
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
        exact[: last - first] = -np.inf
        for other in others:
            key = _exact_key(image, other, query, gallery, scale, terms)
            _insert(key, other, nearest[image, first:last], exact[: last - first])
        keys[image, first:last] = exact[: last - first]


_pair_keys = compiled(_pair_keys_of)
_settle = compiled(_settle_cut)
