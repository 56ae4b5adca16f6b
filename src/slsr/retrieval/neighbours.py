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

from slsr.retrieval.distances import Features, Floats, squared_lengths
from slsr.retrieval.workers import Workers, compiled

SPARE_NEIGHBOURS = 3
TILE_ROWS, TILE_COLUMNS = 1024, 4096
CHUNK = 64
ROUNDING = 16

Indices = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class NeighbourTable:
    """What re-ranking needs to know of all squared Euclidean distances.

    Attributes
    ----------
    nearest
        [N, L]: the nearest images of each, itself first, then by distance, equally near ones by index.
    distances
        [N, L]: to those.
    furthest
        [N]: to the furthest image.
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

    def neighbours(self, cuts: Sequence[int], workers: Workers) -> NeighbourTable:
        """The nearest images of each, as many as the last cut and a few more.

        Those before each cut are told from those behind it as float64 tells them apart.
        """
        length = min(max(cuts) + SPARE_NEIGHBOURS, self.count)
        nearest = np.full((self.count, length), -1, np.int32)
        keys = np.full((self.count, length), -np.inf, self.dtype)
        nearest[:, 0], keys[:, 0] = np.arange(self.count), np.inf
        lowest = np.full(self.count, np.inf, self.dtype)
        scale, terms = self.scale.astype(self.dtype), self.terms.astype(self.dtype)
        for row, column, tile in self._tiles():
            arguments = (tile, row, column, scale, terms, nearest, keys, lowest)
            workers.run(_scan_rows, tile.shape[0], *arguments)
            if row != column:
                workers.run(_scan_columns, -(-tile.shape[1] // CHUNK), *arguments)
        doubt = self._doubt()
        for cut in cuts:
            workers.run(_settle, self.count, cut, doubt, nearest, keys, *self._exact())
        keys[:, 0] = (self.constants / 2 / self.scale).astype(self.dtype)
        distances, furthest = (self._squared(key) for key in (keys, lowest[:, None]))
        return NeighbourTable(nearest, distances.astype(self.dtype), furthest[:, 0])

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
        """The products of all pairs of images, each pair once: first row, first column, products."""
        borders = [*edges(0, self.queries, TILE_ROWS), *edges(self.queries, self.count, TILE_ROWS)]
        buffer = np.empty(TILE_ROWS * TILE_COLUMNS, self.dtype)
        for top, bottom in borders:
            border = self.queries if bottom <= self.queries else self.count
            columns = [(top, bottom), *edges(bottom, border, TILE_COLUMNS)]
            if border < self.count:
                columns += edges(self.queries, self.count, TILE_COLUMNS)
            for left, right in columns:
                tile = buffer[: (bottom - top) * (right - left)].reshape(bottom - top, right - left)
                yield top, left, np.matmul(self._values(top, bottom), self._values(left, right).T, out=tile)

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
    """Put an image where it belongs in a list of the nearest, whose last falls out."""
    place = len(keys)
    while place > 0 and (key > keys[place - 1] or (key == keys[place - 1] and image < nearest[place - 1])):
        place -= 1
        if place + 1 < len(keys):
            keys[place + 1], nearest[place + 1] = keys[place], nearest[place]
    if place < len(keys):
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


def _scan_tile_rows(
    start: int,
    stop: int,
    tile: Floats,
    first_row: int,
    first_column: int,
    scale: Floats,
    terms: Floats,
    nearest: Indices,
    keys: Floats,
    lowest: Floats,
) -> None:
    """Show the images of the tile's columns to those of its rows `start:stop`."""
    for row in range(start, stop):
        image = first_row + row
        for left in range(0, tile.shape[1], CHUNK):
            products = tile[row, left : left + CHUNK]
            others = first_column + left
            scales, added = scale[others : others + len(products)], terms[others : others + len(products)]
            if not _row_matters(products, scales, added, keys[image, -1], lowest[image]):
                continue
            for column in range(len(products)):
                key = products[column] * scales[column] + added[column]
                if others + column != image:
                    lowest[image] = min(lowest[image], key)
                    if key >= keys[image, -1]:
                        _insert(key, others + column, nearest[image], keys[image])


def _scan_tile_columns(
    start: int,
    stop: int,
    tile: Floats,
    first_row: int,
    first_column: int,
    scale: Floats,
    terms: Floats,
    nearest: Indices,
    keys: Floats,
    lowest: Floats,
) -> None:
    """Show the images of the tile's rows to those of its columns, `CHUNK` columns at a time."""
    for part in range(start, stop):
        left = first_column + part * CHUNK
        width = min(CHUNK, first_column + tile.shape[1] - left)
        worst = keys[left : left + width, -1].copy()
        furthest = lowest[left : left + width]
        for row in range(tile.shape[0]):
            products = tile[row, part * CHUNK : part * CHUNK + width]
            other = first_row + row
            if not _columns_matter(products, scale[other], terms[other], worst, furthest):
                continue
            for column in range(width):
                key = products[column] * scale[other] + terms[other]
                furthest[column] = min(furthest[column], key)
                if key >= worst[column]:
                    _insert(key, other, nearest[left + column], keys[left + column])
                    worst[column] = keys[left + column, -1]


_scan_rows = compiled(_scan_tile_rows)
_scan_columns = compiled(_scan_tile_columns)


def _dot_product(first: Floats, second: Floats) -> float:
    total = 0.0
    for column in range(len(first)):
        total += np.float64(first[column]) * np.float64(second[column])
    return total


_dot = compiled(_dot_product, fastmath={"reassoc", "contract"})


def _pair_key(
    first: int, second: int, query: Floats, gallery: Floats, scale: NDArray[np.float64], terms: NDArray[np.float64]
) -> float:
    one = query[first] if first < len(query) else gallery[first - len(query)]
    other = query[second] if second < len(query) else gallery[second - len(query)]
    return float(_dot(one, other) * scale[second] + terms[second])


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
