"""Ranks of right matches, counted without sorting the gallery.

The products of a block of queries with the gallery are one matrix. Its rows become numbers, smaller for a nearer image:

               gallery image 0    1    2    3    4
    query 0              [  .4   .1   .9   .2   .7 ]     right matches of query 0: images 1 and 4
    query 1              [  .3   .8   .1   .5   .6 ]     left out for query 0: image 3, whose number becomes infinite

The rank of a right match is 1 plus the count of images that come before it: those with a smaller number, and those with
an equal number and an earlier place. Here image 1 has rank 1 and image 4 has rank 3 (images 0 and 1 come before it).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from slsr.errors import InputError
from slsr.retrieval.distances import BLOCK_BYTES, DistanceRows, ExactNumbers, Floats, block_rows, dot
from slsr.retrieval.matching import Integers, Labels, Ragged
from slsr.retrieval.workers import Workers, compiled

COMPARE_ALL = 64

Ranks = NDArray[np.int32]


class Block(NamedTuple):
    """Products of some queries with the gallery [n, G]; `products * scale + terms` ranks it, [G] each.

    The terms of junk images are infinite.
    """

    products: Floats
    scale: Floats
    terms: Floats


def blocks(queries: int, gallery: int, limit: int = BLOCK_BYTES) -> list[tuple[int, int]]:
    """Divide the queries into consecutive ranges whose rows fit into `limit` bytes."""
    step = block_rows(gallery, 4, limit)
    return [(start, min(start + step, queries)) for start in range(0, queries, step)]


def rank_block(
    source: DistanceRows, labels: Labels, right: Ragged, removed: Ragged, workers: Workers, start: int, stop: int
) -> Ranks:
    """List the 1-based ranks of the right matches of the queries `start:stop`, ascending for each query."""
    products = source.order(start, stop)
    scale = np.ones(labels.gallery, products.dtype) if source.gallery_scale is None else source.gallery_scale
    terms = np.where(labels.kept, 0 if source.gallery_terms is None else source.gallery_terms, np.inf)
    block = Block(products, scale, terms.astype(products.dtype))
    ordered = Ragged(right.offsets, _nearest_first(block, right))
    ranks = np.zeros(len(ordered.indices), np.int32)
    if (exact := source.exact) is None:
        unranked = workers.run(_rank_rows, len(products), block, ordered, removed, ranks)
    else:
        own = exact.of_queries(start, stop)
        unranked = workers.run(_rank_rows_exactly, len(products), block, own, ordered, removed, ranks)
    refuse([query for query in unranked if query >= 0], start)
    return ranks


def refuse(unranked: Sequence[int], first_query: int) -> None:
    """Raise InputError if a query of the block has distances that cannot be ranked."""
    if unranked:
        raise InputError(
            f"the distances of query {first_query + unranked[0]} contain NaN or infinity, which cannot be ranked; "
            "give finite ones, or normalize features that are this large"
        )


def _nearest_first(block: Block, right: Ragged) -> Integers:
    owner = np.repeat(np.arange(len(block.products)), np.diff(right.offsets))
    distances = block.products[owner, right.indices] * block.scale[right.indices] + block.terms[right.indices]
    return right.indices[np.lexsort((right.indices, distances, owner))]


@compiled
def _rank_by_comparing(row: Floats, matches: Integers, ranks: Ranks) -> None:
    """Compare every gallery image with every right match: the fastest way for few right matches."""
    for place in range(len(matches)):
        own = matches[place]
        distance = row[own]
        rank = np.int32(1)
        for image in range(own):
            rank = np.int32(rank + np.int32(row[image] <= distance))
        for image in range(own + 1, len(row)):
            rank = np.int32(rank + np.int32(row[image] < distance))
        ranks[place] = rank


@compiled
def _rank_by_searching(row: Floats, matches: Integers, ranks: Ranks) -> None:
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


@compiled
def _rank_matches(row: Floats, matches: Integers, ranks: Ranks) -> None:
    if len(matches) <= COMPARE_ALL:
        _rank_by_comparing(row, matches, ranks)
    else:
        _rank_by_searching(row, matches, ranks)


@compiled
def _fill_row(row: Floats, products: Floats, scale: Floats, terms: Floats, removed: Integers) -> bool:
    """Write the numbers that rank the gallery of a query, infinite for removed images; say whether all are finite."""
    bad = np.int32(0)
    for image in range(len(row)):
        value = products[image]
        bad |= np.int32((not abs(value) < np.inf) and terms[image] < np.inf)
        row[image] = value * scale[image] + terms[image] if terms[image] < np.inf else terms[image]
    for image in removed:
        row[image] = np.inf
    return bool(bad == 0)


@compiled
def _rank_rows(start: int, stop: int, block: Block, right: Ragged, removed: Ragged, ranks: Ranks) -> int:
    """Rank the right matches of some rows; return the first row that contains NaN or infinity, or -1."""
    row = np.empty(block.products.shape[1], block.products.dtype)
    for query in range(start, stop):
        left_out = removed.indices[removed.offsets[query] : removed.offsets[query + 1]]
        if not _fill_row(row, block.products[query], block.scale, block.terms, left_out):
            return query
        own = slice(right.offsets[query], right.offsets[query + 1])
        _rank_matches(row, right.indices[own], ranks[own])
    return -1


@compiled
def _count_near(row: Floats, number: float, doubt: float) -> np.int32:
    """Count the numbers that are within `doubt` of this one."""
    count = np.int32(0)
    for image in range(len(row)):
        count = np.int32(count + np.int32(abs(row[image] - number) <= doubt))
    return count


@compiled
def _compute_doubtful(
    query: int,
    rounded: Floats,
    matches: Integers,
    exact: ExactNumbers,
    precise: NDArray[np.float64],
    known: NDArray[np.bool_],
) -> bool:
    """Copy a row to `precise` with its doubtful numbers computed in float64; return False if there are none.

    `known` is space for marks, one for each image.
    """
    feature, doubt = exact.queries[query], exact.doubt[query]
    gallery, scale, terms = exact.gallery, exact.scale, exact.terms
    found = False
    for match in matches:
        if _count_near(rounded, rounded[match], doubt) == 1:
            continue
        if not found:
            precise[:] = rounded
            known[:] = False
            found = True
        for image in range(len(rounded)):
            if not known[image] and abs(rounded[image] - rounded[match]) <= doubt:
                precise[image] = dot(feature, gallery[image]) * scale[image] + terms[image]
                known[image] = True
    return found


@compiled
def _in_order(row: NDArray[np.float64], matches: Integers) -> Integers:
    """Sort right matches by their numbers, equal ones by their place in the gallery, by insertion."""
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


@compiled
def _rank_rows_exactly(
    start: int, stop: int, block: Block, exact: ExactNumbers, right: Ragged, removed: Ragged, ranks: Ranks
) -> int:
    """Rank as `_rank_rows`, after every number within doubt of a right match's number is computed again in float64.

    A number outside of that range stays on its side: neither it nor the match's number moves by more than half the
    doubt.
    """
    rounded = np.empty(block.products.shape[1], block.products.dtype)
    precise, known = np.empty(block.products.shape[1]), np.empty(block.products.shape[1], np.bool_)
    for query in range(start, stop):
        left_out = removed.indices[removed.offsets[query] : removed.offsets[query + 1]]
        if not _fill_row(rounded, block.products[query], block.scale, block.terms, left_out):
            return query
        own = slice(right.offsets[query], right.offsets[query + 1])
        matches = right.indices[own]
        if _compute_doubtful(query, rounded, matches, exact, precise, known):
            _rank_matches(precise, _in_order(precise, matches), ranks[own])
        else:
            _rank_matches(rounded, matches, ranks[own])
    return -1
