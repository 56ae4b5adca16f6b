"""Ranks of right matches, counted without sorting the gallery."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from slsr.errors import InputError
from slsr.retrieval.distances import DistanceRows, Floats, block_rows, dot
from slsr.retrieval.matching import Integers, Labels, Ragged
from slsr.retrieval.workers import Workers, compiled


def blocks(queries: int, gallery: int) -> list[tuple[int, int]]:
    """Consecutive ranges of queries whose rows fit in memory together."""
    step = block_rows(gallery, 4)
    return [(start, min(start + step, queries)) for start in range(0, queries, step)]


def rank_block(
    source: DistanceRows, labels: Labels, right: Ragged, removed: Ragged, workers: Workers, start: int, stop: int
) -> NDArray[np.int32]:
    """1-based ranks of the right matches of the queries `start:stop`, ascending a query, as one list."""
    block = source.order(start, stop)
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
            "give finite ones, or normalize features that are this large"
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
