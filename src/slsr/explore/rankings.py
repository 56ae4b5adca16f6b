"""The gallery ranked for one query at a time, plainly and re-ranked, at the speed of a page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slsr.retrieval.matching import JUNK, Labels
from slsr.retrieval.measures import Evaluation
from slsr.retrieval.one_query import Distances
from slsr.retrieval.ranking import top_matches

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Ranking:
    """The gallery of one query, nearest first.

    Attributes
    ----------
    rows, distances
        Gallery rows and their distances, [n] each, n at most G.
    right
        [n]: whether a row is a right match; None where the query has no labels.
    left_out
        How many gallery images the protocol takes out for this query, (junk, same identity and camera).
    """

    rows: Rows
    distances: Distances
    right: NDArray[np.bool_] | None
    left_out: tuple[int, int]

    @property
    def ranks(self) -> Rows:
        """1-based ranks of the right matches, ascending; empty without labels."""
        return np.flatnonzero(self.right) + 1 if self.right is not None else np.empty(0, np.int64)

    @property
    def average_precision(self) -> float | None:
        """The trapezoid one, as `slsr evaluate` gives it; None without a right match."""
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
) -> Ranking:
    """Order a gallery by distance, by the protocol of `slsr.retrieval.Labels` where the query has labels.

    Parameters
    ----------
    distances : [G]
    gallery_identities, gallery_cameras : [G], or None
    identity, camera : of the query, or None for one without labels, for which the whole gallery is ranked
    itself : the query's own row where it is a gallery image without labels; it is left out
    """
    if identity is None or camera is None or gallery_identities is None or gallery_cameras is None:
        order = np.argsort(distances, kind="stable")
        order = order[order != itself] if itself is not None else order
        return Ranking(order, distances[order].astype(np.float64), None, (0, 0))
    labels = Labels(np.array([identity]), gallery_identities, np.array([camera]), gallery_cameras)
    found = top_matches(distances[None], labels, [0], labels.gallery)
    ranked = found.indices[0] >= 0
    junk = int((~labels.kept).sum())
    own = labels.gallery - int(ranked.sum()) - junk
    return Ranking(found.indices[0][ranked], found.distances[0][ranked], found.right[0][ranked], (junk, own))


def can_be_judged(identity: int, query_identities: Rows | None) -> bool:
    """Whether a gallery image of this identity can be a labeled query.

    Junk cannot, and neither can identity 0 where no query has it: there it stands for distractors, many people.
    """
    if identity == JUNK:
        return False
    return identity != 0 or (query_identities is not None and bool((query_identities == 0).any()))


def cosine_similarity(distances: NDArray[Any]) -> NDArray[np.float64]:
    """Of features of length 1, from their Euclidean distance: `1 - d^2 / 2`."""
    return np.asarray(1 - np.square(distances) / 2, np.float64)
