"""A query against a gallery that has been measured before."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from slsr.errors import InputError
from slsr.retrieval.distances import DistanceRows, euclidean_distances, feature_pair
from slsr.retrieval.distances import Features as MeasuredFeatures
from slsr.retrieval.encoding import Parameters, encode
from slsr.retrieval.neighbors import SPARE_NEIGHBORS, Images, NeighborTable
from slsr.retrieval.reranking import ArrayReranked
from slsr.retrieval.workers import Workers

Features = NDArray[np.float32]


Floats = NDArray[np.float64]


def plain_distances(feature: Features, gallery_features: Features) -> Floats:
    """Euclidean distances of one feature [D] to a gallery [G, D], all as if of length 1: [G]."""
    return np.asarray(euclidean_distances(feature[None], gallery_features).rows(np.array([0]))[0], np.float64)


class Reranker:
    """k-reciprocal re-ranking for one query at a time; the distances are those of `slsr.retrieval.rerank`.

    Nearly all of `rerank`'s work, the nearest images of every image, is done once, in `neighbors`. A query that is
    not of the query table joins the others: what it does to the lists of nearest images is put into them, and the
    result is that of `rerank` on the query table and this query.

    Parameters
    ----------
    query_features, gallery_features : [Q, D] and [G, D]; Q may be 0
    table : what `neighbors` gave for these features
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
                f"neighbors of {len(table.nearest)} images for {len(query_features)} queries and a gallery of "
                f"{len(gallery_features)}; compute them again"
            )
        self._known = self._reranked(query_features, table) if len(query_features) else None

    def of_query(self, row: int) -> Floats:
        """Re-ranked distances of a query of the table to the gallery, [G]."""
        if self._known is None:
            raise IndexError(f"query {row} of none")
        return np.asarray(self._known.rows(np.array([row]))[0], np.float64)

    def of_feature(self, feature: Features) -> Floats:
        """Re-ranked distances of one more query, a feature [D], to the gallery, [G]."""
        queries = np.concatenate([self._query, feature[None]])
        table = with_query(self._table, len(self._query), self._squared_distances(feature), self.parameters)
        return np.asarray(self._reranked(queries, table).rows(np.array([len(self._query)]))[0], np.float64)

    def _squared_distances(self, feature: Features) -> Floats:
        to_gallery = plain_distances(feature, self._gallery)
        to_queries = plain_distances(feature, self._query) if len(self._query) else np.empty(0)
        return np.asarray(np.square(np.concatenate([to_queries, to_gallery])))

    def _reranked(self, queries: Features, table: NeighborTable) -> DistanceRows:
        query, gallery = feature_pair(queries, self._gallery, normalize=True)
        images = Images(query, gallery)
        with Workers() as workers:
            encoding = encode(table, self.parameters, len(queries), images.pair_distances, workers)
        kept = np.empty((0, len(gallery.values)), images.dtype)
        furthest = table.furthest[: len(queries)]
        return ArrayReranked(query, gallery, kept, furthest, encoding, self.parameters.lambda_)


def neighbors(
    query_features: Features, gallery_features: Features, parameters: Parameters | None = None
) -> NeighborTable:
    """The nearest images of every image, queries first: the part of re-ranking that grows with (Q + G)^2."""
    parameters = parameters or Parameters()
    query, gallery = _pair(query_features, gallery_features)
    images = Images(query, gallery)
    with Workers() as workers:
        return images.neighbors(parameters.cuts, np.empty((0, len(gallery.values)), images.dtype), workers)


def _pair(query_features: Features, gallery_features: Features) -> tuple[MeasuredFeatures, MeasuredFeatures]:
    """Both sides measured; the query side may be empty."""
    if len(query_features):
        return feature_pair(query_features, gallery_features, normalize=True)
    _, gallery = feature_pair(gallery_features[:1], gallery_features, normalize=True)
    return gallery.select(np.empty(0, np.int64)), gallery


def with_query(table: NeighborTable, queries: int, squared: Floats, parameters: Parameters) -> NeighborTable:
    """The table with one more query behind the first `queries` images.

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
