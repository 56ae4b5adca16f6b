"""Protocols beyond one query image against the whole gallery: multi-query and single-gallery-shot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from slsr.errors import InputError
from slsr.retrieval.distances import DistanceRows, Floats, as_array, euclidean_distances, feature_pair
from slsr.retrieval.matching import Integers, Labels, Ragged
from slsr.retrieval.measures import CMC_RANKS
from slsr.retrieval.query_values import QueryValues
from slsr.retrieval.ranking import as_rows, check_fit
from slsr.retrieval.ranks import blocks, refuse
from slsr.retrieval.workers import Workers, compiled


def pool_queries(
    features: Floats,
    identities: Any,
    cameras: Any,
    query_identities: Any,
    query_cameras: Any,
    *,
    how: Literal["mean", "max"] = "mean",
    normalize: bool = True,
) -> Floats:
    """Pool the features of all images with the identity and camera of each query: multi-query features, [Q, D].

    Parameters
    ----------
    features, identities, cameras : of the images to pool (Market-1501: `gt_bbox`, which contains the queries too)
    query_identities, query_cameras : [Q] each
    how : `mean`, or `max` for the maximum of each dimension
    normalize : scale every feature to length 1 before pooling

    Raises
    ------
    InputError
        Arrays do not fit, features cannot be normalized, a query has no image to pool, or `how` is another word.
    """
    if how not in ("mean", "max"):
        raise InputError(f"multi-query features are pooled by {how!r}; choose mean or max")
    labels = Labels(query_identities, identities, query_cameras, cameras)
    if len(features) != labels.gallery:
        raise InputError(
            f"{len(features)} features to pool but {labels.gallery} identities; give one identity per image"
        )
    ready, _ = feature_pair(features, features[:1], normalize)
    scale = ready.scale if normalize else np.ones(len(features))
    pooled = np.empty((labels.queries, features.shape[1]), ready.values.dtype)
    for row, group in enumerate(_groups_of_queries(labels)):
        images = ready.values[group] * scale[group, None]
        pooled[row] = images.mean(axis=0) if how == "mean" else images.max(axis=0)
    return pooled


def _groups_of_queries(labels: Labels) -> list[Integers]:
    """Find for each query the images with its identity and camera, ascending."""
    pairs = np.stack([labels.gallery_identities, labels.gallery_cameras])
    order = np.lexsort(pairs[::-1])
    starts = np.flatnonzero(np.any(np.diff(pairs[:, order], axis=1), axis=0)) + 1
    groups = {(int(pairs[0, group[0]]), int(pairs[1, group[0]])): group for group in np.split(order, starts)}
    found = []
    for row, pair in enumerate(zip(labels.query_identities.tolist(), labels.query_cameras.tolist(), strict=True)):
        if pair not in groups:
            raise InputError(
                f"query {row} (identity {pair[0]}, camera {pair[1]}) has no image to pool; multi-query evaluation "
                "needs the images of every query's identity and camera (Market-1501: the folder gt_bbox)"
            )
        found.append(groups[pair])
    return found


@dataclass(frozen=True, eq=False)
class SingleGalleryShot:
    """The expected matches of every query of single-gallery-shot evaluation, in one direction or in several.

    An image that is a query in two directions has two rows; Q' is the number of rows.

    Attributes
    ----------
    matched
        [Q', K]: at [q, k - 1] the probability that the right match is among the first k; NaN without a right match.
    directions
        [Q'], from 0: the CMC is the mean over directions of the mean over the direction's queries.
    images
        [Q'], the place of the query image among the queries followed by the gallery images.
    identities
        [Q'], the person of every query.
    gallery
        G, the number of gallery images.
    """

    matched: NDArray[np.float64]
    directions: Integers
    images: Integers
    identities: Integers
    gallery: int

    @classmethod
    def of_queries(cls, matched: NDArray[np.float64], labels: Labels) -> SingleGalleryShot:
        """Hold the result of `single_gallery_shot`, one direction of all queries."""
        rows = np.arange(labels.queries)
        return cls(matched, np.zeros_like(rows), rows, labels.query_identities, labels.gallery)

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Whether the query has a right match, [Q']."""
        return np.isfinite(self.matched[:, 0])

    @property
    def queries(self) -> int:
        """The number of queries with a right match, over which means are taken."""
        return int(self.valid.sum())

    @property
    def excluded(self) -> int:
        """The number of queries without a right match."""
        return len(self.matched) - self.queries

    def query_values(self) -> QueryValues:
        """Select the values of valid queries whose means are the headline numbers `rank1, rank5, rank10, rank20`."""
        valid, ranks = self.valid, [rank for rank in CMC_RANKS if rank <= self.matched.shape[1]]
        values = self.matched[valid][:, np.array(ranks) - 1]
        keys = tuple(f"rank{rank}" for rank in ranks)
        return QueryValues(values, keys, self.identities[valid], self.directions[valid])

    def cmc(self, depth: int) -> NDArray[np.float64]:
        """Compute the expected CMC curve [depth], the mean over directions."""
        valid, directions = self.valid, np.unique(self.directions)
        curves = [self.matched[valid & (self.directions == d), :depth].mean(axis=0) for d in directions]
        return np.asarray(np.mean(curves, axis=0))


def single_gallery_shot(distances: DistanceRows | Any, labels: Labels, *, depth: int = 20) -> NDArray[np.float64]:
    """Compute the exact expectation of the CMC if the gallery holds one random image per identity (CUHK03 `classic`).

    After the protocol's removals, one image of each identity is drawn, each with the same probability. If the image of
    the right identity is `m`, identity `c` comes before it with probability `p_c`, the share of its images that rank
    before `m`. The rank of `m` is 1 plus a sum of independent events, whose distribution is computed one identity at a
    time (Poisson binomial). The mean over `m` is the limit of the mean over random galleries; nothing is sampled.

    Parameters
    ----------
    distances
        As for `evaluate_distances`.
    depth
        K, the last rank.

    Returns
    -------
    [Q, K]: at [q, k - 1] the probability that query q's right match is among the first k; NaN for queries without one.
    """
    if depth < 1:
        raise InputError(f"a CMC curve up to rank {depth} is empty; ask for at least 1")
    source = as_rows(distances)
    check_fit(source.shape, labels)
    _, groups = np.unique(labels.gallery_identities, return_inverse=True)
    found = np.full((labels.queries, depth), np.nan)
    with Workers() as workers:
        for start, stop in blocks(*source.shape):
            block = source.rows(np.arange(start, stop))
            refuse(np.flatnonzero(~np.isfinite(block[:, labels.kept]).all(axis=1)).tolist(), start)
            right, removed = labels.matches(np.arange(start, stop))
            workers.run(_single_shot, len(block), block, labels.kept, groups, right, removed, found[start:stop])
    return found


def both_directions(
    query_features: Any, gallery_features: Any, labels: Labels, *, depth: int = 20, normalize: bool = True
) -> SingleGalleryShot:
    """Compute `single_gallery_shot` with the queries of each camera against the gallery images of all other cameras.

    VIPeR and CUHK03 `classic` are evaluated in this way, with two cameras: the CMC is the mean of both directions. If
    every identity has one image per camera (VIPeR), it is the plain CMC. If all queries are from one camera, the
    gallery images of the other camera are the queries of the second direction, and the queries are its gallery.

    Raises
    ------
    InputError
        There is only one camera, or one of the queries and several others, arrays do not fit, or a camera's queries
        have no right match.
    """
    check_fit((len(query_features), len(gallery_features)), labels)

    def distances(query: Integers, gallery: Integers, turned: bool) -> DistanceRows:
        pair = query_features[query], gallery_features[gallery]
        return euclidean_distances(*(pair[::-1] if turned else pair), normalize=normalize)

    return _directions(distances, labels, depth)


def both_directions_of_distances(distances: Any, labels: Labels, *, depth: int = 20) -> SingleGalleryShot:
    """Compute `both_directions` from a matrix of distances [Q, G]; its transpose is the second direction if needed."""
    matrix = as_array("distances", distances)
    check_fit(as_rows(matrix).shape, labels)

    def selected(query: Integers, gallery: Integers, turned: bool) -> DistanceRows:
        block = matrix[np.ix_(query, gallery)]
        return as_rows(block.T if turned else block)

    return _directions(selected, labels, depth)


def _directions(
    distances: Callable[[Integers, Integers, bool], DistanceRows], labels: Labels, depth: int
) -> SingleGalleryShot:
    """Evaluate each direction; `distances` takes rows of queries, rows of the gallery, and whether to turn them."""
    matched, images = [], []
    for camera, query, gallery, turned in _cameras(labels):
        sides = [
            (labels.query_identities[query], labels.query_cameras[query]),
            (labels.gallery_identities[gallery], labels.gallery_cameras[gallery]),
        ]
        (asked, asked_cameras), (searched, searched_cameras) = sides[::-1] if turned else sides
        own = Labels(asked, searched, asked_cameras, searched_cameras)
        matched.append(single_gallery_shot(distances(query, gallery, turned), own, depth=depth))
        images.append(labels.queries + gallery if turned else query)
        if not np.isfinite(matched[-1][:, 0]).any():
            raise InputError(f"no query of camera {camera} has an image from another camera; check the identities")
    directions = np.repeat(np.arange(len(images)), [len(rows) for rows in images])
    rows = np.concatenate(images)
    identities = np.concatenate([labels.query_identities, labels.gallery_identities])[rows]
    return SingleGalleryShot(np.concatenate(matched), directions, rows, identities, labels.gallery)


def _cameras(labels: Labels) -> Iterator[tuple[int, Integers, Integers, bool]]:
    """List for each direction the camera of the queries, the rows of both sides, and whether the sides are turned."""
    cameras = np.unique(labels.query_cameras).tolist()
    if len(cameras) == 1:
        others = np.unique(labels.gallery_cameras[labels.gallery_cameras != cameras[0]]).tolist()
        if len(others) != 1:
            raise InputError(
                f"all queries are from camera {cameras[0]}; evaluation in both directions needs two cameras, and the "
                f"gallery has {len(others)} others"
            )
        everything = np.arange(labels.queries)
        gallery = np.flatnonzero(labels.kept & (labels.gallery_cameras == others[0]))
        yield cameras[0], everything, gallery, False
        yield others[0], everything, gallery, True
        return
    for camera in cameras:
        asked, searched = labels.query_cameras == camera, labels.gallery_cameras != camera
        yield camera, np.flatnonzero(asked), np.flatnonzero(searched), False


@compiled
def _single_shot(
    start: int,
    stop: int,
    block: Floats,
    kept: NDArray[np.bool_],
    groups: Integers,
    right: Ragged,
    removed: Ragged,
    found: NDArray[np.float64],
) -> None:
    images = np.empty(groups.max() + 1, np.int64)
    before = np.empty(groups.max() + 1, np.int64)
    for query in range(start, stop):
        matches = right.indices[right.offsets[query] : right.offsets[query + 1]]
        if not len(matches):
            continue
        left = kept.copy()
        for image in removed.indices[removed.offsets[query] : removed.offsets[query + 1]]:
            left[image] = False
        images[:] = 0
        for image in range(len(left)):
            images[groups[image]] += left[image]
        found[query] = 0
        for own in matches:
            before[:] = 0
            for image in range(len(left)):
                nearer = block[query, image] < block[query, own]
                if left[image] and (nearer or (block[query, image] == block[query, own] and image < own)):
                    before[groups[image]] += 1
            before[groups[own]] = 0
            _add_ranks(before, images, 1.0 / len(matches), found[query])


@compiled
def _add_ranks(before: Integers, images: Integers, weight: float, found: NDArray[np.float64]) -> None:
    """Add to `found[k]`, with this weight, the probability that at most k identities come before."""
    chance = np.zeros(len(found))
    chance[0] = 1.0
    for group in range(len(before)):
        if before[group] > 0:
            share = before[group] / images[group]
            for count in range(len(chance) - 1, 0, -1):
                chance[count] += share * (chance[count - 1] - chance[count])
            chance[0] *= 1 - share
    total = 0.0
    for count in range(len(chance)):
        total += chance[count]
        found[count] += weight * total
