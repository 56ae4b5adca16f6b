"""Protocols beyond one query image against the whole gallery: multi-query, single-gallery-shot, repeated splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from slsr.errors import InputError
from slsr.retrieval.distances import DistanceRows, Floats, euclidean_distances, feature_pair, ranking_numbers
from slsr.retrieval.matching import Integers, Labels, as_integers
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
    """Multi-query features: one for each query, pooled over all images with its identity and camera.

    Parameters
    ----------
    features, identities, cameras
        [M, D], [M] and [M]: the images to pool (Market-1501's `gt_bbox`, in which each query is itself).
    query_identities, query_cameras
        [Q]: of the queries.
    how
        Mean, or the maximum of each dimension.
    normalize
        Scale every feature to length 1 before pooling.

    Returns
    -------
    [Q, D]

    Raises
    ------
    InputError
        Arrays that do not fit, features that cannot be normalized, a query without images to pool, another `how`.
    """
    if how not in ("mean", "max"):
        raise InputError(f"multi-query features are pooled by {how!r}; choose mean or max")
    labels = Labels(query_identities, identities, query_cameras, cameras)
    if len(features) != labels.gallery:
        raise InputError(
            f"{len(features)} features to pool but {labels.gallery} identities; they must be the same images"
        )
    ready, _ = feature_pair(features, features[:1], normalize)
    scale = ready.scale if normalize else np.ones(len(features))
    pooled = np.empty((labels.queries, features.shape[1]), ready.values.dtype)
    groups = _groups(labels)
    for row, pair in enumerate(zip(labels.query_identities.tolist(), labels.query_cameras.tolist(), strict=True)):
        if pair not in groups:
            raise InputError(
                f"query {row} (identity {pair[0]}, camera {pair[1]}) has no image to pool; multi-query evaluation "
                "needs the images of every query's identity and camera (Market-1501: the folder gt_bbox)"
            )
        images = ready.values[groups[pair]] * scale[groups[pair], None]
        pooled[row] = images.mean(axis=0) if how == "mean" else images.max(axis=0)
    return pooled


def _groups(labels: Labels) -> dict[tuple[int, int], Integers]:
    """The images of each (identity, camera)."""
    pairs = np.stack([labels.gallery_identities, labels.gallery_cameras])
    order = np.lexsort(pairs[::-1])
    starts = np.flatnonzero(np.any(np.diff(pairs[:, order], axis=1), axis=0)) + 1
    groups = np.split(order, starts)
    return {(int(pairs[0, group[0]]), int(pairs[1, group[0]])): group for group in groups}


def single_gallery_shot(distances: DistanceRows | Any, labels: Labels, *, depth: int = 20) -> NDArray[np.float64]:
    """Exact expectation of the CMC when the gallery holds one random image of each identity (CUHK03 `classic`).

    What is left of the gallery after the protocol's removals is narrowed to one image of each identity, drawn evenly.
    If the right identity's image is `m`, identity `c` comes before it with probability `p_c`, the share of its images
    that rank before `m`; the rank of `m` is 1 plus a sum of independent such events, whose distribution is built up an
    identity at a time (Poisson binomial). The mean over `m` needs no sampling: it is what averaging over ever more
    random galleries tends to.

    Parameters
    ----------
    distances
        As for `evaluate_distances`.
    depth
        K, up to which rank.

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
            block = source.order(start, stop)
            block = ranking_numbers(source, block)
            refuse(np.flatnonzero(~np.isfinite(block[:, labels.kept]).all(axis=1)).tolist(), start)
            right, removed = labels.matches(np.arange(start, stop))
            lists = (right.offsets, right.indices, removed.offsets, removed.indices)
            workers.run(_single_shot, len(block), block, labels.kept, groups, *lists, found[start:stop])
    return found


def _single_shot_rows(
    start: int,
    stop: int,
    block: Floats,
    kept: NDArray[np.bool_],
    groups: Integers,
    right_offsets: Integers,
    right: Integers,
    removed_offsets: Integers,
    removed: Integers,
    found: NDArray[np.float64],
) -> None:
    images = np.empty(groups.max() + 1, np.int64)
    before = np.empty(groups.max() + 1, np.int64)
    for query in range(start, stop):
        first, last = right_offsets[query], right_offsets[query + 1]
        if first == last:
            continue
        left = kept.copy()
        for place in range(removed_offsets[query], removed_offsets[query + 1]):
            left[removed[place]] = False
        images[:] = 0
        for image in range(len(left)):
            images[groups[image]] += left[image]
        found[query] = 0
        for place in range(first, last):
            own = right[place]
            before[:] = 0
            for image in range(len(left)):
                nearer = block[query, image] < block[query, own]
                if left[image] and (nearer or (block[query, image] == block[query, own] and image < own)):
                    before[groups[image]] += 1
            before[groups[own]] = 0
            _add_ranks(before, images, 1.0 / (last - first), found[query])


def _add_rank_distribution(before: Integers, images: Integers, weight: float, found: NDArray[np.float64]) -> None:
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


_add_ranks = compiled(_add_rank_distribution)
_single_shot = compiled(_single_shot_rows)


def both_directions(
    features: Any, identities: Any, cameras: Any, *, depth: int = 20, normalize: bool = True
) -> NDArray[np.float64]:
    """[depth]: CMC of images from two cameras, single-gallery-shot, each camera in turn giving the queries; the mean.

    VIPeR and CUHK03 `classic` are evaluated so. With one image an identity and camera (VIPeR) it is the plain CMC.

    Raises
    ------
    InputError
        There are not exactly two cameras, arrays that do not fit, no identity seen by both.
    """
    person, camera = as_integers("identities", identities), as_integers("cameras", cameras)
    if not len(features) == len(person) == len(camera):
        raise InputError(
            f"{len(features)} features, {len(person)} identities, {len(camera)} cameras; one an image is needed"
        )
    views = np.unique(camera)
    if len(views) != 2:
        raise InputError(f"cameras holds {len(views)} cameras ({views[:10].tolist()}); this protocol is for exactly 2")
    curves = []
    for view in views:
        query, gallery = np.flatnonzero(camera == view), np.flatnonzero(camera != view)
        labels = Labels(person[query], person[gallery], camera[query], camera[gallery])
        found = single_gallery_shot(
            euclidean_distances(features[query], features[gallery], normalize=normalize), labels, depth=depth
        )
        valid = ~np.isnan(found[:, 0])
        if not valid.any():
            raise InputError("no identity is seen by both cameras; check identities and cameras")
        curves.append(found[valid].mean(axis=0))
    return np.asarray(np.mean(curves, axis=0))


def random_splits(identities: Any, *, held_out: int, repeats: int, seed: int) -> list[Integers]:
    """The test identities of repeated random splits (VIPeR: 316 of 632, 10 times), ascending, from one seed.

    Raises
    ------
    InputError
        `held_out` is not between 1 and the number of identities, or `repeats` is below 1.
    """
    everyone = np.unique(as_integers("identities", identities))
    if not 1 <= held_out <= len(everyone):
        raise InputError(
            f"{held_out} test identities were asked for, of {len(everyone)}; choose from 1 to {len(everyone)}"
        )
    if repeats < 1:
        raise InputError(f"{repeats} splits were asked for; at least 1 is needed")
    random = np.random.default_rng(seed)
    return [np.sort(random.permutation(everyone)[:held_out]) for _ in range(repeats)]


@dataclass(frozen=True, eq=False)
class SplitCurves:
    """CMC curves of S splits, [S, depth], with their mean and sample standard deviation [depth] (0 for one split)."""

    curves: NDArray[np.float64]

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean over splits."""
        return np.asarray(self.curves.mean(axis=0))

    @property
    def standard_deviation(self) -> NDArray[np.float64]:
        """Standard deviation over splits, divided by S - 1."""
        return np.asarray(self.curves.std(axis=0, ddof=1) if len(self.curves) > 1 else np.zeros(self.curves.shape[1]))


def over_splits(
    features: Any,
    identities: Any,
    cameras: Any,
    splits: Sequence[Integers],
    *,
    depth: int = 20,
    normalize: bool = True,
) -> SplitCurves:
    """`both_directions` on the test identities of each split, such as those of `random_splits`."""
    if not len(splits):
        raise InputError("no split to evaluate; give at least one list of test identities")
    person, camera = as_integers("identities", identities), as_integers("cameras", cameras)
    curves = []
    for held_out in splits:
        rows = np.flatnonzero(np.isin(person, held_out))
        curves.append(both_directions(features[rows], person[rows], camera[rows], depth=depth, normalize=normalize))
    return SplitCurves(np.stack(curves))
