"""k-reciprocal encoding: from lists of nearest images to sparse vectors, and how much two vectors overlap.

See `reranking` for the formulas. With k1 = 3 and five images, the steps of one image are:

    nearest images of image 0          0  3  1  4         itself first, k1 + 1 of them
    reciprocal: have 0 in their list   0  3     4         `_reciprocal_of`
    expanded by those of 3 and 4       0  3     4  2      `_expand`: 2 is among the nearest of 3, and 3's list mostly
                                                          consists of images found already
    weights, which sum to 1           .4 .3    .2 .1      `_weights`: the row of image 0 in the sparse matrix V
    mean over the k2 nearest                              `_average`: rows of images 0, 3, ...

The overlap of a query with all gallery images is a walk through the columns of its row: an inverted index holds, for
each column, the gallery images with a weight in it.

        V of a query         columns 0, 2, 3
        inverted index       column 0: images 7, 9    column 2: image 7    column 3: images 1, 8, 9
        images with overlap  7, 9, 1, 8; all others share nothing with the query
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from slsr.errors import InputError
from slsr.retrieval.distances import Floats
from slsr.retrieval.matching import Integers, offsets_of
from slsr.retrieval.neighbors import Indices, NeighborTable, edges
from slsr.retrieval.workers import Workers, compiled

LIST_BYTES = 2**24

PairDistances = Callable[[Indices, Indices], NDArray[np.float64]]


@dataclass(frozen=True)
class Parameters:
    """k1, k2 and lambda of the publication, checked."""

    k1: int = 20
    k2: int = 6
    lambda_: float = 0.3

    def __post_init__(self) -> None:
        if self.k1 < 1 or self.k2 < 1:
            raise InputError(f"re-ranking with k1 = {self.k1}, k2 = {self.k2}; both must be at least 1")
        if not 0 <= self.lambda_ <= 1:
            raise InputError(f"re-ranking with lambda = {self.lambda_}; it must be between 0 and 1")

    @property
    def neighbors(self) -> int:
        """How many nearest images, the image itself first, are compared for reciprocity."""
        return self.k1 + 1

    @property
    def half(self) -> int:
        """The same number for the expansion by a neighbor: `round((k1 + 1) / 2)`, halves rounded up."""
        return self.k1 // 2 + 1

    @property
    def cuts(self) -> tuple[int, ...]:
        """The lengths to which lists of nearest images are cut."""
        return tuple(sorted({self.k2, self.half, self.neighbors}))


class SparseRows(NamedTuple):
    """A sparse matrix: row i has `weights[s]` in the columns `members[s]`, `s = slice(offsets[i], offsets[i + 1])`."""

    offsets: Integers
    members: Indices
    weights: Floats


class ShortLists(NamedTuple):
    """Lists of images in a table: the list of row i is `images[i, :sizes[i]]`."""

    images: Indices
    sizes: Indices

    @classmethod
    def empty(cls, count: int, longest: int) -> ShortLists:
        """Make space for this many lists."""
        return cls(np.empty((count, longest), np.int32), np.empty(count, np.int32))


class Encoding(NamedTuple):
    """V of the queries by row, [Q, N], and V of the gallery by column (the inverted index), [N, G]."""

    queries: SparseRows
    inverted: SparseRows


def encode(
    table: NeighborTable, parameters: Parameters, queries: int, pair_distances: PairDistances, workers: Workers
) -> Encoding:
    """Describe every image by its reciprocal neighbors; the first `queries` images are the queries.

    `pair_distances` gives the squared distances of pairs of images that are not in the table.
    """
    own = _own_encodings(table, parameters, pair_distances, workers)
    averaged = _averaged(own, table.nearest[:, : parameters.k2], workers)
    split = averaged.offsets[queries]
    by_query = SparseRows(
        averaged.offsets[: queries + 1], averaged.members[:split].copy(), averaged.weights[:split].copy()
    )
    by_gallery = SparseRows(averaged.offsets[queries:] - split, averaged.members[split:], averaged.weights[split:])
    return Encoding(by_query, _inverted(by_gallery, len(table.nearest)))


def _own_encodings(
    table: NeighborTable, parameters: Parameters, pair_distances: PairDistances, workers: Workers
) -> SparseRows:
    """Compute V before the mean over neighbors."""
    count = len(table.nearest)
    near = np.ascontiguousarray(table.nearest[:, : parameters.neighbors])
    half = ShortLists.empty(count, min(parameters.half, count))
    workers.run(_reciprocal, count, near, half)
    longest = min(near.shape[1] * (1 + half.images.shape[1]), count)
    parts = []
    for start, stop in edges(0, count, max(1, LIST_BYTES // (4 * longest))):
        lists = ShortLists.empty(stop - start, longest)
        workers.run(_expand, stop - start, start, near, half, lists)
        owners = np.repeat(np.arange(start, stop, dtype=np.int32), lists.sizes)
        members = lists.images[np.arange(longest) < lists.sizes[:, None]]
        distances = np.empty(len(members))
        workers.run(_look_up, len(members), owners, members, table.nearest, table.distances, distances)
        unknown = np.flatnonzero(np.isnan(distances))
        distances[unknown] = pair_distances(owners[unknown], members[unknown])
        weights = _weights(distances, table.furthest[owners], lists.sizes, table.distances.dtype)
        parts.append((lists.sizes, members, weights))
    return _joined(parts)


def _weights(
    distances: NDArray[np.float64], furthest: NDArray[np.float64], sizes: Indices, dtype: np.dtype[Any]
) -> Floats:
    """Compute exp(-distance / furthest), divided by its sum over each list; 0 / 0 counts as 0."""
    weights = np.exp(-np.divide(distances, furthest, out=np.zeros_like(distances), where=furthest > 0))
    sums = np.add.reduceat(weights, offsets_of(sizes)[:-1])
    return np.asarray(weights / np.repeat(sums, sizes), dtype)


def _averaged(own: SparseRows, nearest: Indices, workers: Workers) -> SparseRows:
    """Replace the row of each image by the mean of the rows of its nearest images."""
    bounds = np.diff(own.offsets)[nearest].sum(axis=1)
    parts = []
    for start, stop in edges(0, len(nearest), max(1, LIST_BYTES // (8 * int(bounds.max())))):
        room = offsets_of(bounds[start:stop])
        means = SparseRows(room, np.empty(room[-1], np.int32), np.empty(room[-1], own.weights.dtype))
        sizes = np.empty(stop - start, np.int32)
        chosen = np.ascontiguousarray(nearest[start:stop])
        workers.run(_average, stop - start, chosen, own, len(nearest), means, sizes)
        used = np.arange(room[-1]) - np.repeat(room[:-1], bounds[start:stop]) < np.repeat(sizes, bounds[start:stop])
        parts.append((sizes, means.members[used], means.weights[used]))
    return _joined(parts)


def _joined(parts: list[tuple[Indices, Indices, Floats]]) -> SparseRows:
    sizes, members, weights = (np.concatenate(part) for part in zip(*parts, strict=True))
    return SparseRows(offsets_of(sizes), members, weights)


def _inverted(rows: SparseRows, columns: int) -> SparseRows:
    """Store the same matrix by column; within a column, rows ascend."""
    offsets = offsets_of(np.bincount(rows.members, minlength=columns))
    inverted = SparseRows(offsets, np.empty_like(rows.members), np.empty_like(rows.weights))
    _invert(rows, offsets[:-1].copy(), inverted)
    return inverted


def subtract_overlap(encoding: Encoding, queries: Integers, weight: float, block: Floats, workers: Workers) -> None:
    """Subtract `weight (1 - J)` of these queries and all gallery images from `block` [len(queries), G]."""
    workers.run(_subtract, len(queries), queries, weight, block, encoding)


@compiled
def _reciprocal_of(image: int, near: Indices, width: int, found: Indices) -> int:
    """List those of the first `width` images near to this one that have it in their list; return how many."""
    size = 0
    for place in range(width):
        other = near[image, place]
        for back in range(width):
            if near[other, back] == image:
                found[size] = other
                size += 1
                break
    return size


@compiled
def _reciprocal(start: int, stop: int, near: Indices, lists: ShortLists) -> None:
    for image in range(start, stop):
        lists.sizes[image] = _reciprocal_of(image, near, lists.images.shape[1], lists.images[image])


@compiled
def _expand(start: int, stop: int, first: int, near: Indices, half: ShortLists, lists: ShortLists) -> None:
    """List R* of the images `first + start : first + stop`."""
    state = np.zeros(len(near), np.int8)
    own = np.empty(near.shape[1], np.int32)
    expansion, expansion_sizes = half
    for row in range(start, stop):
        found = lists.images[row]
        size = count = _reciprocal_of(first + row, near, near.shape[1], own)
        for place in range(count):
            found[place] = own[place]
            state[own[place]] = 1
        for place in range(count):
            other = own[place]
            shared = 0
            for member in range(expansion_sizes[other]):
                shared += state[expansion[other, member]] == 1
            if 3 * shared > 2 * expansion_sizes[other]:
                for member in range(expansion_sizes[other]):
                    image = expansion[other, member]
                    if state[image] == 0:
                        state[image] = 2
                        found[size] = image
                        size += 1
        for place in range(size):
            state[found[place]] = 0
        lists.sizes[row] = size


@compiled
def _look_up(
    start: int,
    stop: int,
    owners: Indices,
    members: Indices,
    nearest: Indices,
    known: Floats,
    distances: NDArray[np.float64],
) -> None:
    """Look up distances of pairs of images in the table; NaN for pairs that it does not have."""
    for pair in range(start, stop):
        distances[pair] = np.nan
        for place in range(nearest.shape[1]):
            if nearest[owners[pair], place] == members[pair]:
                distances[pair] = known[owners[pair], place]
                break


@compiled
def _average(
    start: int, stop: int, nearest: Indices, rows: SparseRows, columns: int, means: SparseRows, sizes: Indices
) -> None:
    """Add up the rows of each image's nearest; `means` has room for more members than `sizes` says are used."""
    offsets, members, weights = rows
    room, mean_members, mean_weights = means
    total = np.zeros(columns, weights.dtype)
    count = nearest.shape[1]
    for row in range(start, stop):
        first = room[row]
        size = 0
        for other in nearest[row]:
            for place in range(offsets[other], offsets[other + 1]):
                member = members[place]
                if total[member] == 0:
                    mean_members[first + size] = member
                    size += 1
                total[member] += weights[place]
        for place in range(first, first + size):
            mean_weights[place] = total[mean_members[place]] / count
            total[mean_members[place]] = 0
        sizes[row] = size


@compiled
def _invert(rows: SparseRows, ends: Integers, inverted: SparseRows) -> None:
    """Append each entry to its column; `ends` says where each column ends so far."""
    offsets, members, weights = rows
    for row in range(len(offsets) - 1):
        for place in range(offsets[row], offsets[row + 1]):
            target = ends[members[place]]
            ends[members[place]] += 1
            inverted.members[target] = row
            inverted.weights[target] = weights[place]


@compiled
def _subtract(start: int, stop: int, queries: Integers, weight: float, block: Floats, encoding: Encoding) -> None:
    """Sum the smaller of two weights over common columns; rows sum to 1, so the larger ones sum to 2 less that."""
    offsets, members, weights = encoding.queries
    columns, images, image_weights = encoding.inverted
    shared = np.zeros(block.shape[1], block.dtype)
    touched = np.empty(block.shape[1], np.int32)
    for row in range(start, stop):
        size = 0
        for place in range(offsets[queries[row]], offsets[queries[row] + 1]):
            own = weights[place]
            for entry in range(columns[members[place]], columns[members[place] + 1]):
                image = images[entry]
                if shared[image] == 0:
                    touched[size] = image
                    size += 1
                shared[image] += min(own, image_weights[entry])
        for place in range(size):
            image = touched[place]
            block[row, image] -= weight * shared[image] / (2 - shared[image])
            shared[image] = 0
