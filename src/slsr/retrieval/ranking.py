"""Ranked galleries, from features or from distances.

All measures follow from the 1-based ranks r_1 < ... < r_R of the right matches of each query in the part of the gallery
that the protocol leaves. The gallery is not sorted: for each right match, the images that come before it are counted.
An image comes before another one if it is nearer, or equally near and earlier in the gallery.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slsr.errors import InputError
from slsr.retrieval.distances import BLOCK_BYTES, DistanceRows, MatrixDistances, as_array, euclidean_distances
from slsr.retrieval.matching import Integers, Labels, offsets_of
from slsr.retrieval.measures import Evaluation
from slsr.retrieval.ranks import blocks, rank_block
from slsr.retrieval.workers import Workers


def evaluate(query_features: Any, gallery_features: Any, labels: Labels, *, normalize: bool = True) -> Evaluation:
    """Rank the gallery for each query by Euclidean distance.

    One block of queries is ranked after the other, so that memory does not grow with Q x G.

    Parameters
    ----------
    query_features, gallery_features
        [Q, D] and [G, D], float16, float32 or float64.
    labels
        Identities and cameras; `Labels` describes the protocol.
    normalize
        Scale every feature to length 1 first.

    Raises
    ------
    InputError
        Arrays do not fit, a feature is not finite or a zero vector, or no query has a right match.

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
    return replace(result, gallery=labels.gallery)


def evaluate_distances(distances: DistanceRows | Any, labels: Labels, *, block_bytes: int = BLOCK_BYTES) -> Evaluation:
    """Rank the gallery for each query by given distances.

    Parameters
    ----------
    distances
        A matrix [Q, G], or an object that computes rows of it, for instance the result of `rerank`.
    labels
        Identities and cameras; `Labels` describes the protocol.
    block_bytes
        As many queries are ranked at a time as have float32 distances of this size.

    Raises
    ------
    InputError
        Shapes do not fit, a distance is not finite, or no query has a right match.
    """
    source = as_rows(distances)
    check_fit(source.shape, labels)
    counts: list[Integers] = []
    ranks: list[NDArray[np.int32]] = []
    with Workers() as workers:
        for start, stop in blocks(*source.shape, block_bytes):
            right, removed = labels.matches(np.arange(start, stop))
            counts.append(np.diff(right.offsets))
            ranks.append(rank_block(source, labels, right, removed, workers, start, stop))
    offsets = offsets_of(np.concatenate(counts))
    return Evaluation(offsets, np.concatenate(ranks), labels.gallery, labels.query_identities)


@dataclass(frozen=True, eq=False)
class TopMatches:
    """The first gallery images of some queries, [n, count] each; -1, NaN and False after the end of the gallery."""

    indices: Integers
    distances: NDArray[np.float64]
    right: NDArray[np.bool_]


def top_matches(distances: DistanceRows | Any, labels: Labels, queries: Sequence[int], count: int) -> TopMatches:
    """List the images that are ranked first for each of `queries`, without those that the protocol removes.

    `distances` are as for `evaluate_distances`, for instance `euclidean_distances(query_features, gallery_features)`.
    """
    source = as_rows(distances)
    check_fit(source.shape, labels)
    chosen = np.asarray(queries, np.int64).reshape(-1)
    if len(chosen) and not (chosen.min() >= 0 and chosen.max() < labels.queries):
        raise InputError(
            f"queries {chosen.min()} to {chosen.max()} were asked for, but there are queries 0 to {labels.queries - 1}"
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
    """Wrap a matrix of distances, so that it computes rows as other distances do."""
    return distances if hasattr(distances, "order") else MatrixDistances(as_array("distances", distances))


def check_fit(shape: tuple[int, int], labels: Labels) -> None:
    """Raise InputError unless there are as many labels as queries and gallery images."""
    for side, images, named in (("query", shape[0], labels.queries), ("gallery", shape[1], labels.gallery)):
        if images != named:
            reversed_shape = tuple(shape) == (labels.gallery, labels.queries)
            remedy = "transposed, or query and gallery exchanged?" if reversed_shape else "give one identity per image"
            raise InputError(f"{images} {side} images but {named} {side} identities; {remedy}")
