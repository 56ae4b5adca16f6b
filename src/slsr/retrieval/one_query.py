"""One query at a time, against a gallery whose nearest images are known."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from slsr.errors import InputError
from slsr.retrieval.distances import Features, MeasuredFeatures, euclidean_distances, feature_pair
from slsr.retrieval.encoding import Parameters
from slsr.retrieval.neighbors import SPARE_NEIGHBORS, NeighborTable, QueryAndGallery
from slsr.retrieval.reranking import rerank_by_table
from slsr.retrieval.workers import Workers

Distances = NDArray[np.float64]


def distances_to_gallery(feature: Features, gallery_features: Features) -> Distances:
    """Compute the Euclidean distances of one feature [D] to a gallery [G, D], all as if of length 1: [G]."""
    return np.asarray(euclidean_distances(feature[None], gallery_features).rows(np.array([0]))[0], np.float64)


def find_neighbors(
    query_features: Features, gallery_features: Features, parameters: Parameters | None = None
) -> NeighborTable:
    """Find the nearest images of every image, queries first: the part of re-ranking that grows with (Q + G)^2."""
    chosen = parameters or Parameters()
    images = _together(query_features, gallery_features).sharpened(chosen.neighbors)
    with Workers() as workers:
        nothing = np.empty((0, len(gallery_features)), images.dtype)
        return images.neighbors(chosen.cuts, nothing, workers)


class OneQueryReranker:
    """k-reciprocal re-ranking for one query at a time, with the distances of `slsr.retrieval.rerank`.

    Nearly all work of `rerank` is to find the nearest images of every image; `find_neighbors` does it once. A query
    that is not in the query table is inserted into the lists of nearest images, and the result is the result of
    `rerank` for the query table and this query.

    Parameters
    ----------
    query_features, gallery_features : [Q, D] and [G, D]; Q may be 0
    table : the result of `find_neighbors` for these features
    """

    def __init__(
        self,
        query_features: Features,
        gallery_features: Features,
        table: NeighborTable,
        parameters: Parameters | None = None,
    ) -> None:
        self.parameters = parameters or Parameters()
        self._query, self._gallery, self._table = query_features, gallery_features, table
        if len(table.nearest) != len(query_features) + len(gallery_features):
            raise InputError(
                f"the table has neighbors of {len(table.nearest)} images, but there are {len(query_features)} queries "
                f"and {len(gallery_features)} gallery images; compute it again"
            )
        self._known = (
            rerank_by_table(self._images(query_features), table, self.parameters) if len(query_features) else None
        )

    def of_query(self, row: int) -> Distances:
        """Compute the re-ranked distances of a query of the table to the gallery, [G]."""
        if self._known is None:
            raise IndexError(f"query {row} of an empty query table")
        return np.asarray(self._known.rows(np.array([row]))[0], np.float64)

    def of_feature(self, feature: Features) -> Distances:
        """Compute the re-ranked distances of one more query, a feature [D], to the gallery, [G]."""
        row = len(self._query)
        images = self._images(np.concatenate([self._query, feature[None]]))
        others = np.delete(np.arange(images.count, dtype=np.int32), row)
        squared = images.pair_distances(np.full(len(others), row, np.int32), others)
        table = _with_query(self._table, row, np.maximum(squared, 0), self.parameters)
        return np.asarray(rerank_by_table(images, table, self.parameters).rows(np.array([row]))[0], np.float64)

    def _images(self, queries: Features) -> QueryAndGallery:
        """Measure queries and gallery, in float64 if the table needed it."""
        images = _together(queries, self._gallery)
        return images if self._table.distances.dtype == images.dtype else images.centered()


def _together(query_features: Features, gallery_features: Features) -> QueryAndGallery:
    """Measure both sides; the query side may be empty."""
    if len(query_features):
        return QueryAndGallery(*feature_pair(query_features, gallery_features, normalize=True))
    gallery: MeasuredFeatures = feature_pair(gallery_features[:1], gallery_features, normalize=True)[1]
    return QueryAndGallery(gallery.select(np.empty(0, np.int64)), gallery)


def _with_query(table: NeighborTable, queries: int, squared: Distances, parameters: Parameters) -> NeighborTable:
    """Insert one more query behind the first `queries` images of the table.

    Parameters
    ----------
    squared : squared distances of the new query to all images of the table, [N]
    """
    count = len(table.nearest)
    length = min(max(parameters.cuts) + SPARE_NEIGHBORS, count + 1)
    nearest = np.where(table.nearest >= queries, table.nearest + 1, table.nearest)
    distances = table.distances.astype(np.float64)
    others = np.concatenate([nearest[:, 1:], np.full((count, 1), queries)], axis=1)
    lengths = np.concatenate([distances[:, 1:], squared[:, None]], axis=1)
    order = np.lexsort((others, lengths), axis=1)[:, : length - 1]
    nearest = np.concatenate([nearest[:, :1], np.take_along_axis(others, order, 1)], axis=1)
    distances = np.concatenate([distances[:, :1], np.take_along_axis(lengths, order, 1)], axis=1)
    own = np.argsort(squared, kind="stable")[: length - 1]
    own_nearest = np.concatenate([[queries], np.where(own >= queries, own + 1, own)])
    own_distances = np.concatenate([[0.0], squared[own]])
    return NeighborTable(
        np.insert(nearest, queries, own_nearest, axis=0).astype(np.int32),
        np.insert(distances, queries, own_distances, axis=0).astype(table.distances.dtype),
        np.insert(np.maximum(table.furthest, squared), queries, squared.max()),
    )
