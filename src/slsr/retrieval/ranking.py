"""CMC, average precision and inverse negative penalty of a ranked gallery.

The measures are functions of one thing: for each query the 1-based ranks r_1 < ... < r_R of its right matches in what
is left of the gallery. Those ranks are found without sorting the gallery, by counting for each right match the images
that come before it. An image comes before another if it is nearer, or as near and earlier in the gallery.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slsr.errors import InputError
from slsr.retrieval.distances import (
    DistanceRows,
    Floats,
    MatrixDistances,
    block_rows,
    dot,
    euclidean_distances,
    is_tensor,
    ranking_numbers,
)
from slsr.retrieval.matching import Integers, Labels, Ragged, offsets_of
from slsr.retrieval.workers import Workers, compiled

CMC_RANKS = (1, 5, 10, 20)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Where the right matches of every query ended up, and the measures that follow.

    Arrays over queries have length Q. A query without a right match is not valid: its list of ranks is empty, its
    `first_rank` 0, its measures NaN, and it is left out of every mean.

    Attributes
    ----------
    offsets, ranks
        The 1-based ranks of the right matches of query i, ascending: `ranks[offsets[i]:offsets[i + 1]]`.
    gallery
        G, the number of gallery images, removed ones included.
    """

    offsets: Integers
    ranks: NDArray[np.int32]
    gallery: int

    def __post_init__(self) -> None:
        if not self.valid.any():
            raise InputError(
                f"none of the {len(self.valid)} queries has a right match, a gallery image of its identity from "
                "another camera; check identities and cameras (those from the query's own camera do not count; without "
                "cameras, number those of queries and gallery differently)"
            )

    @cached_property
    def matches(self) -> Integers:
        """R of every query."""
        return np.diff(self.offsets)

    @cached_property
    def valid(self) -> NDArray[np.bool_]:
        """Whether the query has a right match."""
        return np.asarray(self.matches > 0)

    @property
    def queries(self) -> int:
        """The number of queries with a right match, over which means are taken."""
        return int(self.valid.sum())

    @property
    def excluded(self) -> int:
        """The number of queries without a right match."""
        return len(self.valid) - self.queries

    def ranks_of(self, query: int) -> NDArray[np.int32]:
        """The ranks of one query's right matches, ascending."""
        return self.ranks[self.offsets[query] : self.offsets[query + 1]]

    @cached_property
    def first_rank(self) -> NDArray[np.int32]:
        """r_1, or 0 where there is no right match."""
        first = np.zeros(len(self.valid), np.int32)
        first[self.valid] = self.ranks[self.offsets[:-1][self.valid]]
        return first

    @cached_property
    def average_precision_standard(self) -> NDArray[np.float64]:
        """`(1/R) sum_i i / r_i`, the average precision of scikit-learn and of most re-identification code."""
        return self._mean_over_matches(self._number / self.ranks)

    @cached_property
    def average_precision_trapezoid(self) -> NDArray[np.float64]:
        """`(1/R) sum_i [i / r_i + (i - 1) / (r_i - 1)] / 2`, the average precision of Market-1501's official code.

        The second term is 1 where r_i = 1.
        """
        before = np.maximum(self.ranks - 1, 1)
        previous = np.where(self.ranks == 1, 1.0, (self._number - 1) / before)
        return self._mean_over_matches((self._number / self.ranks + previous) / 2)

    @cached_property
    def inverse_negative_penalty(self) -> NDArray[np.float64]:
        """`R / r_R` (Ye et al. 2021, whose mean is mINP)."""
        penalty = np.full(len(self.valid), np.nan)
        penalty[self.valid] = self.matches[self.valid] / self.ranks[self.offsets[1:][self.valid] - 1]
        return penalty

    def cmc(self, depth: int) -> NDArray[np.float64]:
        """[depth]: at k - 1, the share of valid queries with a right match among the first k."""
        if depth < 1:
            raise InputError(f"a CMC curve up to rank {depth} is empty; ask for at least 1")
        first = self.first_rank[self.valid]
        found = np.bincount(first[first <= depth], minlength=depth + 1)[1:]
        return np.cumsum(found) / self.queries

    def headline_values(self) -> dict[str, NDArray[np.float64]]:
        """What the headline numbers are means of: one value a valid query, under each number's key."""
        first = self.first_rank[self.valid]
        return {f"rank{rank}": (first <= rank).astype(np.float64) for rank in CMC_RANKS} | {
            "map_trapezoid": self.average_precision_trapezoid[self.valid],
            "map_standard": self.average_precision_standard[self.valid],
            "minp": self.inverse_negative_penalty[self.valid],
        }

    def means(self) -> dict[str, float]:
        """`rank1, rank5, rank10, rank20, map_trapezoid, map_standard, minp`, as fractions."""
        return {key: float(values.mean()) for key, values in self.headline_values().items()}

    @cached_property
    def _number(self) -> Integers:
        """`i` of every r_i."""
        return np.arange(1, len(self.ranks) + 1) - np.repeat(self.offsets[:-1], self.matches)

    def _mean_over_matches(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        means = np.full(len(self.valid), np.nan)
        means[self.valid] = np.add.reduceat(values, self.offsets[:-1][self.valid]) / self.matches[self.valid]
        return means


def evaluate(query_features: Any, gallery_features: Any, labels: Labels, *, normalize: bool = True) -> Evaluation:
    """Rank the gallery for each query by Euclidean distance.

    Blocks of queries are streamed: memory beyond the features does not grow with Q x G.

    Parameters
    ----------
    query_features, gallery_features
        [Q, D] and [G, D], float16, float32 or float64. torch tensors are ranked on their device.
    labels
        Identities and cameras, see `Labels` for the protocol.
    normalize
        Scale every feature to length 1 first.

    Raises
    ------
    InputError
        Arrays that do not fit, features that are not finite, zero vectors, no query with a right match.

    Examples
    --------
    >>> import numpy as np
    >>> labels = Labels(np.array([7]), np.array([5, 7, 7]), np.array([1]), np.array([2, 2, 3]))
    >>> result = evaluate(np.array([[1.0, 0.0]]), np.array([[0.9, 0.1], [1.0, 0.0], [0.0, 1.0]]), labels)
    >>> result.ranks_of(0).tolist(), float(result.average_precision_standard[0])
    ([1, 3], 0.8333333333333333)
    """
    check_fit((len(query_features), len(gallery_features)), labels)
    kept = np.flatnonzero(labels.kept)
    if not len(kept):
        return Evaluation(np.zeros(labels.queries + 1, np.int64), np.empty(0, np.int32), labels.gallery)
    whole = len(kept) == labels.gallery
    distances = euclidean_distances(
        query_features, gallery_features, normalize=normalize, gallery_rows=None if whole else kept
    )
    result = evaluate_distances(distances, labels if whole else labels.with_gallery(kept))
    return Evaluation(result.offsets, result.ranks, labels.gallery)


def evaluate_distances(distances: DistanceRows | Any, labels: Labels) -> Evaluation:
    """Rank the gallery for each query by given distances.

    Parameters
    ----------
    distances
        A matrix [Q, G] (numpy array or torch tensor), or something that computes rows of it, such as what `rerank`
        returns.
    labels
        Identities and cameras, see `Labels` for the protocol.

    Raises
    ------
    InputError
        Shapes that do not fit, distances that are not finite, no query with a right match.
    """
    source = as_rows(distances)
    check_fit(source.shape, labels)
    counts: list[Integers] = []
    ranks: list[NDArray[np.int32]] = []
    with Workers() as workers:
        for start, stop in blocks(*source.shape):
            right, removed = labels.matches(np.arange(start, stop))
            counts.append(np.diff(right.offsets))
            ranks.append(rank_block(source, labels, right, removed, workers, start, stop))
    return Evaluation(offsets_of(np.concatenate(counts)), np.concatenate(ranks), labels.gallery)


@dataclass(frozen=True, eq=False)
class TopMatches:
    """The first gallery images of some queries: [n, count] each; -1, NaN and False where the gallery ends before."""

    indices: Integers
    distances: NDArray[np.float64]
    right: NDArray[np.bool_]


def top_matches(distances: DistanceRows | Any, labels: Labels, queries: Sequence[int], count: int) -> TopMatches:
    """What is ranked first for each of `queries`, after the protocol's removals.

    `distances` is as for `evaluate_distances`; `euclidean_distances(query_features, gallery_features)` for plain ones.
    """
    source = as_rows(distances)
    check_fit(source.shape, labels)
    chosen = np.asarray(queries, np.int64).reshape(-1)
    if len(chosen) and not (chosen.min() >= 0 and chosen.max() < labels.queries):
        raise InputError(
            f"queries {chosen.min()} to {chosen.max()} were asked for; there are 0 to {labels.queries - 1}"
        )
    indices = np.full((len(chosen), count), -1, np.int64)
    values = np.full((len(chosen), count), np.nan)
    right = np.zeros((len(chosen), count), bool)
    for row in range(len(chosen)):
        found, removed = labels.matches(chosen[row : row + 1])
        left = labels.kept.copy()
        left[removed.indices] = False
        candidates = np.flatnonzero(left)
        distance = source.rows(chosen[row : row + 1])[0]
        first = candidates[np.argsort(distance[candidates], kind="stable")[:count]]
        indices[row, : len(first)] = first
        values[row, : len(first)] = distance[first]
        right[row, : len(first)] = np.isin(first, found.indices)
    return TopMatches(indices, values, right)


def as_rows(distances: DistanceRows | Any) -> DistanceRows:
    """A matrix as something that gives rows."""
    return MatrixDistances(distances) if isinstance(distances, np.ndarray) or is_tensor(distances) else distances


def check_fit(shape: tuple[int, int], labels: Labels) -> None:
    """Raise InputError unless there are as many labels as queries and gallery images."""
    for side, images, named in (("query", shape[0], labels.queries), ("gallery", shape[1], labels.gallery)):
        if images != named:
            raise InputError(f"{images} {side} images but {named} {side} identities; they must be the same images")


def blocks(queries: int, gallery: int) -> list[tuple[int, int]]:
    """Consecutive ranges of queries whose rows fit in memory together."""
    step = block_rows(gallery, 4)
    return [(start, min(start + step, queries)) for start in range(0, queries, step)]


def rank_block(
    source: DistanceRows, labels: Labels, right: Ragged, removed: Ragged, workers: Workers, start: int, stop: int
) -> NDArray[np.int32]:
    """1-based ranks of the right matches of the queries `start:stop`, ascending a query, as one list."""
    block = source.order(start, stop)
    if is_tensor(block):
        from slsr.retrieval import tensors

        ranks, unrankable = tensors.rank_block(ranking_numbers(source, block), labels.kept, right, removed)
        refuse(unrankable, start)
        return ranks
    scale = np.ones(labels.gallery, block.dtype) if source.gallery_scale is None else source.gallery_scale
    terms = np.where(labels.kept, 0 if source.gallery_terms is None else source.gallery_terms, np.inf)
    terms = terms.astype(block.dtype)
    nearest_first = _nearest_first(block, scale, terms, right)
    ranks = np.zeros(len(nearest_first), np.int32)
    lists = (right.offsets, nearest_first, removed.offsets, removed.indices, ranks)
    if (exact := source.exact) is None:
        bad = workers.run(_rank, len(block), block, scale, terms, *lists)
    else:
        rows = (exact.queries[start:stop], exact.gallery, exact.scale, exact.terms, exact.doubt[start:stop])
        bad = workers.run(_rank_exactly, len(block), block, scale, terms, *rows, *lists)
    refuse([query for query in bad if query >= 0], start)
    return ranks


def refuse(unranked: Sequence[int], first_query: int) -> None:
    """Raise InputError if a query of the block has distances that cannot be ranked."""
    if unranked:
        raise InputError(
            f"the distances of query {first_query + unranked[0]} hold NaN or infinity, which cannot be ranked; "
            "give finite ones, or normalise features that are this large"
        )


def _nearest_first(block: Floats, scale: Floats, terms: Floats, right: Ragged) -> Integers:
    owner = np.repeat(np.arange(len(block)), np.diff(right.offsets))
    distances = block[owner, right.indices] * scale[right.indices] + terms[right.indices]
    return right.indices[np.lexsort((right.indices, distances, owner))]


COMPARE_ALL = 64


def _rank_by_comparing(row: Floats, matches: Integers, ranks: NDArray[np.int32]) -> None:
    """Compare every gallery image with every right match: the fastest while those are few."""
    for place in range(len(matches)):
        own = matches[place]
        distance = row[own]
        rank = np.int32(1)
        for image in range(own):
            rank = np.int32(rank + np.int32(row[image] <= distance))
        for image in range(own + 1, len(row)):
            rank = np.int32(rank + np.int32(row[image] < distance))
        ranks[place] = rank


def _rank_by_searching(row: Floats, matches: Integers, ranks: NDArray[np.int32]) -> None:
    """Find for every gallery image the first right match behind it, and add up."""
    distances = row[matches]
    for image in range(len(row)):
        distance = row[image]
        low, high = 0, len(matches)
        if distance > distances[high - 1]:
            continue
        while low < high:
            middle = (low + high) // 2
            if distances[middle] < distance or (distances[middle] == distance and matches[middle] <= image):
                low = middle + 1
            else:
                high = middle
        if low < len(matches):
            ranks[low] += np.int32(1)
    before = np.int32(1)
    for place in range(len(matches)):
        before = np.int32(before + ranks[place])
        ranks[place] = before


_compare = compiled(_rank_by_comparing)
_search = compiled(_rank_by_searching)


def _fill_row(row: Floats, products: Floats, scale: Floats, terms: Floats, removed: Integers) -> bool:
    """The numbers that rank the gallery of one query, infinite where an image is left out; whether all are finite."""
    bad = np.int32(0)
    for image in range(len(row)):
        value = products[image]
        bad |= np.int32((not abs(value) < np.inf) and terms[image] < np.inf)
        row[image] = value * scale[image] + terms[image] if terms[image] < np.inf else terms[image]
    for image in removed:
        row[image] = np.inf
    return bool(bad == 0)


def _rank_matches(row: Floats, matches: Integers, ranks: NDArray[np.int32]) -> None:
    if len(matches) <= COMPARE_ALL:
        _compare(row, matches, ranks)
    else:
        _search(row, matches, ranks)


_fill = compiled(_fill_row)
_rank_one = compiled(_rank_matches)


def _rank_rows(
    start: int,
    stop: int,
    block: Floats,
    scale: Floats,
    terms: Floats,
    right_offsets: Integers,
    right: Integers,
    removed_offsets: Integers,
    removed: Integers,
    ranks: NDArray[np.int32],
) -> int:
    """Rank the right matches of some rows; the first row that holds NaN or infinity, or -1."""
    row = np.empty(block.shape[1], block.dtype)
    for query in range(start, stop):
        if not _fill(row, block[query], scale, terms, removed[removed_offsets[query] : removed_offsets[query + 1]]):
            return query
        own = slice(right_offsets[query], right_offsets[query + 1])
        _rank_one(row, right[own], ranks[own])
    return -1


def _count_near(row: Floats, number: float, doubt: float) -> np.int32:
    """How many numbers are within `doubt` of this one."""
    count = np.int32(0)
    for image in range(len(row)):
        count = np.int32(count + np.int32(abs(row[image] - number) <= doubt))
    return count


_near = compiled(_count_near)


def _rank_rows_exactly(
    start: int,
    stop: int,
    block: Floats,
    scale: Floats,
    terms: Floats,
    queries: Floats,
    gallery: Floats,
    exact_scale: NDArray[np.float64],
    exact_terms: NDArray[np.float64],
    doubt: NDArray[np.float64],
    right_offsets: Integers,
    right: Integers,
    removed_offsets: Integers,
    removed: Integers,
    ranks: NDArray[np.int32],
) -> int:
    """The same, every number within doubt of a right match's made anew in float64 first.

    A number outside of it stays on its side: neither it nor the match's moves by more than half the doubt.
    """
    rounded = np.empty(block.shape[1], block.dtype)
    precise, made = np.empty(block.shape[1]), np.empty(block.shape[1], np.bool_)
    for query in range(start, stop):
        if not _fill(rounded, block[query], scale, terms, removed[removed_offsets[query] : removed_offsets[query + 1]]):
            return query
        own = slice(right_offsets[query], right_offsets[query + 1])
        matches = right[own]
        settled = False
        for match in matches:
            if _near(rounded, rounded[match], doubt[query]) == 1:
                continue
            if not settled:
                precise[:] = rounded
                made[:] = False
                settled = True
            for image in range(len(rounded)):
                if not made[image] and abs(rounded[image] - rounded[match]) <= doubt[query]:
                    number = dot(queries[query], gallery[image])
                    precise[image] = number * exact_scale[image] + exact_terms[image]
                    made[image] = True
        if settled:
            _rank_one(precise, _sorted_matches(precise, matches), ranks[own])
        else:
            _rank_one(rounded, matches, ranks[own])
    return -1


def _nearest_matches(row: NDArray[np.float64], matches: Integers) -> Integers:
    """Right matches in the order of their numbers, equal ones as they stand in the gallery, by insertion."""
    ordered = matches.copy()
    for place in range(1, len(ordered)):
        image, before = ordered[place], place
        while before > 0 and (
            row[ordered[before - 1]] > row[image]
            or (row[ordered[before - 1]] == row[image] and ordered[before - 1] > image)
        ):
            ordered[before] = ordered[before - 1]
            before -= 1
        ordered[before] = image
    return ordered


_rank = compiled(_rank_rows)
_sorted_matches = compiled(_nearest_matches)
_rank_exactly = compiled(_rank_rows_exactly)
