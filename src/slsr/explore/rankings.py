"""The gallery ranked for one query, fast enough for a web page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slsr.explore.image_table import Rows
from slsr.retrieval.matching import Labels
from slsr.retrieval.measures import Evaluation
from slsr.retrieval.one_query import Distances
from slsr.retrieval.ranking import top_matches


@dataclass(frozen=True, eq=False)
class RankedGallery:
    """The gallery ranked for one query, nearest first.

    Attributes
    ----------
    rows, distances
        Gallery rows and their distances, [n] each, n at most G.
    right
        [n]: whether a row is a right match; None if the query has no labels.
    left_out
        How many gallery images the protocol leaves out for this query: (junk, same identity and camera).
    """

    rows: Rows
    distances: Distances
    right: NDArray[np.bool_] | None
    left_out: tuple[int, int]

    @property
    def ranks(self) -> Rows:
        """Ranks of the right matches, counted from 1, ascending; empty without labels."""
        return np.flatnonzero(self.right) + 1 if self.right is not None else np.empty(0, np.int64)

    @property
    def average_precision(self) -> float | None:
        """Average precision (trapezoid), as `slsr evaluate` gives it; None without a right match."""
        ranks = self.ranks.astype(np.int32)
        if not len(ranks):
            return None
        offsets = np.array([0, len(ranks)])
        return float(Evaluation(offsets, ranks, len(self.rows)).average_precision_trapezoid[0])


def rank_gallery(
    distances: NDArray[Any],
    gallery_identities: Rows | None,
    gallery_cameras: Rows | None,
    identity: int | None,
    camera: int | None,
    itself: int | None = None,
) -> RankedGallery:
    """Sort a gallery by distance; if the query has labels, by the protocol of `slsr.retrieval.Labels`.

    Parameters
    ----------
    distances : [G]
    gallery_identities, gallery_cameras : [G], or None
    identity, camera : of the query; if one is None, the query has no labels and the whole gallery is ranked
    itself : the query's own row if it is a gallery image; it is left out
    """
    if identity is None or camera is None or gallery_identities is None or gallery_cameras is None:
        order = np.argsort(distances, kind="stable")
        order = order[order != itself] if itself is not None else order
        return RankedGallery(order, distances[order].astype(np.float64), None, (0, 0))
    labels = Labels(np.array([identity]), gallery_identities, np.array([camera]), gallery_cameras)
    found = top_matches(distances[None], labels, [0], labels.gallery)
    ranked = found.indices[0] >= 0
    if itself is not None:  # with an unknown camera it would be its own right match
        ranked &= found.indices[0] != itself
    junk = int((~labels.kept).sum())
    own = labels.gallery - int(ranked.sum()) - junk
    return RankedGallery(found.indices[0][ranked], found.distances[0][ranked], found.right[0][ranked], (junk, own))


def cosine_similarity(distances: NDArray[Any]) -> Distances:
    """Compute the cosine similarity of features of length 1 from their Euclidean distance: `1 - d^2 / 2`."""
    return np.asarray(1 - np.square(distances) / 2, np.float64)
