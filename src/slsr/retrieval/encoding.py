"""What k-reciprocal encoding makes of lists of nearest images: sparse vectors and how much they overlap.

See `reranking.rerank` for the formulas.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slsr.errors import InputError
from slsr.retrieval.distances import Floats
from slsr.retrieval.matching import Integers, offsets_of
from slsr.retrieval.neighbors import Indices, NeighborTable, edges
from slsr.retrieval.workers import Workers, compiled

LIST_BYTES = 2**24


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
            raise InputError(f"re-ranking with lambda = {self.lambda_}; it must lie between 0 and 1")

    @property
    def neighbors(self) -> int:
        """How many nearest images, itself first, are compared for reciprocity."""
        return self.k1 + 1

    @property
    def half(self) -> int:
        """The same for the expansion of a neighbor: `round((k1 + 1) / 2)`, halves rounded up."""
        return self.k1 // 2 + 1

    @property
    def cuts(self) -> tuple[int, ...]:
        """After how many nearest images a list of them is cut somewhere."""
        return tuple(sorted({self.k2, self.half, self.neighbors}))


@dataclass(frozen=True, eq=False)
class SparseRows:
    """A sparse matrix: row i has `weights[s]` in the columns `members[s]`, `s = slice(offsets[i], offsets[i + 1])`."""

    offsets: Integers
    members: Indices
    weights: Floats


@dataclass(frozen=True, eq=False)
class Encoding:
    """V of the queries by row, and V of the gallery by column (the inverted index), [Q, N] and [N, G]."""

    queries: SparseRows
    inverted: SparseRows


def encode(
    table: NeighborTable,
    parameters: Parameters,
    queries: int,
    pair_distances: Callable[[Indices, Indices], NDArray[np.float64]],
    workers: Workers,
) -> Encoding:
    """Describe every image by its reciprocal neighbors; the first `queries` of them are the queries.

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
    table: NeighborTable,
    parameters: Parameters,
    pair_distances: Callable[[Indices, Indices], NDArray[np.float64]],
    workers: Workers,
) -> SparseRows:
    """V before it is averaged over neighbors."""
    count = len(table.nearest)
    near = np.ascontiguousarray(table.nearest[:, : parameters.neighbors])
    half, half_sizes = np.empty((count, min(parameters.half, count)), np.int32), np.empty(count, np.int32)
    workers.run(_reciprocal, count, near, half, half_sizes)
    longest = min(near.shape[1] * (1 + half.shape[1]), count)
    parts = []
    for start, stop in edges(0, count, max(1, LIST_BYTES // (4 * longest))):
        lists, sizes = np.empty((stop - start, longest), np.int32), np.empty(stop - start, np.int32)
        workers.run(_expanded, stop - start, start, near, half, half_sizes, lists, sizes)
        owners = np.repeat(np.arange(start, stop, dtype=np.int32), sizes)
        members = lists[np.arange(longest) < sizes[:, None]]
        distances = np.empty(len(members))
        workers.run(_look_up, len(members), owners, members, table.nearest, table.distances, distances)
        unknown = np.flatnonzero(np.isnan(distances))
        distances[unknown] = pair_distances(owners[unknown], members[unknown])
        parts.append((sizes, members, _weights(distances, table.furthest[owners], sizes, table.distances.dtype)))
    return _joined(parts)


def _weights(
    distances: NDArray[np.float64], furthest: NDArray[np.float64], sizes: Indices, dtype: np.dtype[Any]
) -> Floats:
    """exp(-distance / furthest), divided by its sum over each list; 0 / 0 counts as 0."""
    weights = np.exp(-np.divide(distances, furthest, out=np.zeros_like(distances), where=furthest > 0))
    sums = np.add.reduceat(weights, offsets_of(sizes)[:-1])
    return np.asarray(weights / np.repeat(sums, sizes), dtype)


def _averaged(own: SparseRows, nearest: Indices, workers: Workers) -> SparseRows:
    """The mean of the rows of each image's nearest."""
    bounds = np.diff(own.offsets)[nearest].sum(axis=1)
    parts = []
    for start, stop in edges(0, len(nearest), max(1, LIST_BYTES // (8 * int(bounds.max())))):
        room = offsets_of(bounds[start:stop])
        members, weights = np.empty(room[-1], np.int32), np.empty(room[-1], own.weights.dtype)
        sizes = np.empty(stop - start, np.int32)
        listed = (np.ascontiguousarray(nearest[start:stop]), own.offsets, own.members, own.weights)
        workers.run(_average, stop - start, *listed, len(nearest), room, members, weights, sizes)
        used = np.arange(room[-1]) - np.repeat(room[:-1], bounds[start:stop]) < np.repeat(sizes, bounds[start:stop])
        parts.append((sizes, members[used], weights[used]))
    return _joined(parts)


def _joined(parts: list[tuple[Indices, Indices, Floats]]) -> SparseRows:
    sizes, members, weights = (np.concatenate(part) for part in zip(*parts, strict=True))
    return SparseRows(offsets_of(sizes), members, weights)


def _inverted(rows: SparseRows, columns: int) -> SparseRows:
    """The same matrix by column; within a column, rows ascend."""
    offsets = offsets_of(np.bincount(rows.members, minlength=columns))
    members, weights = np.empty_like(rows.members), np.empty_like(rows.weights)
    _invert(rows.offsets, rows.members, rows.weights, offsets[:-1].copy(), members, weights)
    return SparseRows(offsets, members, weights)


def subtract_overlap(encoding: Encoding, queries: Integers, weight: float, block: Floats, workers: Workers) -> None:
    """Subtract `weight (1 - J)` of these queries and all gallery images from `block` [len(queries), G]."""
    one, other = encoding.queries, encoding.inverted
    lists = (one.offsets, one.members, one.weights, other.offsets, other.members, other.weights)
    workers.run(_subtract, len(queries), queries, weight, block, *lists)


def _reciprocal_list(image: int, near: Indices, width: int, found: Indices) -> int:
    """Those of the first `width` images near to this one that have it among theirs; how many."""
    size = 0
    for place in range(width):
        other = near[image, place]
        for back in range(width):
            if near[other, back] == image:
                found[size] = other
                size += 1
                break
    return size


_reciprocal_of = compiled(_reciprocal_list)


def _reciprocal_lists(start: int, stop: int, near: Indices, lists: Indices, sizes: Indices) -> None:
    for image in range(start, stop):
        sizes[image] = _reciprocal_of(image, near, lists.shape[1], lists[image])


def _expanded_lists(
    start: int,
    stop: int,
    first: int,
    near: Indices,
    half: Indices,
    half_sizes: Indices,
    lists: Indices,
    sizes: Indices,
) -> None:
    """R* of the images `first + start : first + stop`."""
    state = np.zeros(len(near), np.int8)
    own = np.empty(near.shape[1], np.int32)
    for row in range(start, stop):
        found = lists[row]
        size = count = _reciprocal_of(first + row, near, near.shape[1], own)
        for place in range(count):
            found[place] = own[place]
            state[own[place]] = 1
        for place in range(count):
            other = own[place]
            shared = 0
            for member in range(half_sizes[other]):
                shared += state[half[other, member]] == 1
            if 3 * shared > 2 * half_sizes[other]:
                for member in range(half_sizes[other]):
                    image = half[other, member]
                    if state[image] == 0:
                        state[image] = 2
                        found[size] = image
                        size += 1
        for place in range(size):
            state[found[place]] = 0
        sizes[row] = size


def _distances_in_table(
    start: int,
    stop: int,
    owners: Indices,
    members: Indices,
    nearest: Indices,
    known: Floats,
    distances: NDArray[np.float64],
) -> None:
    """Distances of pairs of images where the table has them, NaN elsewhere."""
    for pair in range(start, stop):
        distances[pair] = np.nan
        for place in range(nearest.shape[1]):
            if nearest[owners[pair], place] == members[pair]:
                distances[pair] = known[owners[pair], place]
                break


def _average_rows(
    start: int,
    stop: int,
    nearest: Indices,
    offsets: Integers,
    members: Indices,
    weights: Floats,
    columns: int,
    room: Integers,
    out_members: Indices,
    out_weights: Floats,
    sizes: Indices,
) -> None:
    total = np.zeros(columns, weights.dtype)
    count = nearest.shape[1]
    for row in range(start, stop):
        first = room[row]
        size = 0
        for other in nearest[row]:
            for place in range(offsets[other], offsets[other + 1]):
                member = members[place]
                if total[member] == 0:
                    out_members[first + size] = member
                    size += 1
                total[member] += weights[place]
        for place in range(first, first + size):
            out_weights[place] = total[out_members[place]] / count
            total[out_members[place]] = 0
        sizes[row] = size


def _invert_rows(
    offsets: Integers, members: Indices, weights: Floats, ends: Integers, out_rows: Indices, out_weights: Floats
) -> None:
    for row in range(len(offsets) - 1):
        for place in range(offsets[row], offsets[row + 1]):
            target = ends[members[place]]
            ends[members[place]] += 1
            out_rows[target] = row
            out_weights[target] = weights[place]


def _subtract_overlaps(
    start: int,
    stop: int,
    queries: Integers,
    weight: float,
    block: Floats,
    offsets: Integers,
    members: Indices,
    weights: Floats,
    inverted_offsets: Integers,
    images: Indices,
    image_weights: Floats,
) -> None:
    """Sum the smaller of two weights over common columns; rows sum to 1, so the larger ones sum to 2 less that."""
    shared = np.zeros(block.shape[1], block.dtype)
    touched = np.empty(block.shape[1], np.int32)
    for row in range(start, stop):
        size = 0
        for place in range(offsets[queries[row]], offsets[queries[row] + 1]):
            own = weights[place]
            for entry in range(inverted_offsets[members[place]], inverted_offsets[members[place] + 1]):
                image = images[entry]
                if shared[image] == 0:
                    touched[size] = image
                    size += 1
                shared[image] += min(own, image_weights[entry])
        for place in range(size):
            image = touched[place]
            block[row, image] -= weight * shared[image] / (2 - shared[image])
            shared[image] = 0


_reciprocal = compiled(_reciprocal_lists)
_expanded = compiled(_expanded_lists)
_look_up = compiled(_distances_in_table)
_average = compiled(_average_rows)
_invert = compiled(_invert_rows)
_subtract = compiled(_subtract_overlaps)
