"""k-reciprocal re-ranking of a gallery.

Zhong, Zheng, Cao, Li: Re-ranking Person Re-identification with k-reciprocal Encoding (2017). As in the authors' own
code, d are squared Euclidean distances of all N = Q + G images. N(i, k) are the k + 1 nearest images of i, itself the
first, and R(i, k) those of them that have i among theirs. Then

- R*(i) = R(i, k1), and R(j, k1 / 2) for every j in R(i, k1) more than 2/3 of which is in R(i, k1);
- V_i = exp(-d(i, j) / max_l d(i, l)) for j in R*(i), 0 elsewhere, divided by its sum;
- V_i is replaced by the mean of V over the k2 nearest images of i, itself the first;
- the Jaccard distance is J(i, j) = 1 - sum_l min(V_il, V_jl) / sum_l max(V_il, V_jl);
- the result is (1 - lambda) J(q, g) + lambda d(q, g) / max_l d(q, l).

Memory is O(N k). The products of features are computed in tiles, of which symmetry saves half, and give each image's
nearest neighbors and furthest distance (`neighbors`). What follows works on short lists (`encoding`). The products of a
block of queries are computed again when they are needed, except for as many as fit into `KEPT_BYTES`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slsr.retrieval.distances import ArrayDistances, DistanceRows, Floats, as_array, feature_pair
from slsr.retrieval.encoding import Encoding, Parameters, encode, subtract_overlap
from slsr.retrieval.matching import Integers, Labels
from slsr.retrieval.measures import Evaluation
from slsr.retrieval.neighbors import NeighborTable, QueryAndGallery
from slsr.retrieval.ranking import check_fit, evaluate_distances
from slsr.retrieval.workers import Workers, compiled

KEPT_BYTES = 2**28


def rerank(
    query_features: Any,
    gallery_features: Any,
    *,
    k1: int = 20,
    k2: int = 6,
    lambda_: float = 0.3,
    normalize: bool = True,
) -> DistanceRows:
    """Re-rank the gallery for every query by k-reciprocal encoding (Zhong et al., CVPR 2017).

    Parameters
    ----------
    query_features, gallery_features
        [Q, D] and [G, D], as for `euclidean_distances`.
    k1, k2, lambda_
        As in the publication; the formulas are at the top of `slsr.retrieval.reranking`.
    normalize
        Compare the features as if each were scaled to length 1.

    Returns
    -------
    Distances of shape (Q, G), for `evaluate_distances` and `top_matches`; any rows can be computed.

    Examples
    --------
    >>> import numpy as np
    >>> features = np.random.default_rng(0).standard_normal((30, 8))
    >>> rerank(features[:4], features[4:], k1=6, k2=2).rows(np.array([0, 3])).shape
    (2, 26)
    """
    parameters = Parameters(k1, k2, lambda_)
    images = QueryAndGallery(*feature_pair(query_features, gallery_features, normalize))
    gallery = images.count - images.queries
    rows = min(images.queries, KEPT_BYTES // (gallery * images.dtype.itemsize))
    kept = np.empty((rows, gallery), images.dtype)
    with Workers() as workers:
        table = images.neighbors(parameters.cuts, kept, workers)
    return rerank_by_table(images, table, parameters, kept)


def rerank_by_table(
    images: QueryAndGallery, table: NeighborTable, parameters: Parameters, kept: Floats | None = None
) -> DistanceRows:
    """Re-rank images whose nearest images are known.

    Parameters
    ----------
    kept
        Products of the first queries with the gallery, if they were kept; the others are computed when needed.
    """
    with Workers() as workers:
        encoding = encode(table, parameters, images.queries, images.pair_distances, workers)
    kept = np.empty((0, images.count - images.queries), images.dtype) if kept is None else kept
    return RerankedDistances(images, kept, table.furthest[: images.queries], encoding, parameters.lambda_)


def evaluate_reranked(
    query_features: Any,
    gallery_features: Any,
    labels: Labels,
    *,
    k1: int = 20,
    k2: int = 6,
    lambda_: float = 0.3,
    normalize: bool = True,
    junk: bool = True,
) -> Evaluation:
    """Evaluate the gallery ranked by re-ranked distance; see `rerank` and `evaluate`.

    Parameters
    ----------
    junk
        Whether gallery images of identity -1, which are never ranked, take part as neighbors, as in the authors' code.
    """
    check_fit((len(query_features), len(gallery_features)), labels)
    ranked = labels
    if not junk and not labels.kept.all():
        kept = np.flatnonzero(labels.kept)
        gallery_features, ranked = as_array("gallery_features", gallery_features)[kept], labels.with_gallery(kept)
    reranked = rerank(query_features, gallery_features, k1=k1, k2=k2, lambda_=lambda_, normalize=normalize)
    return replace(evaluate_distances(reranked, ranked), gallery=labels.gallery)


class RerankedDistances:
    """Re-ranked distances, see `rerank`."""

    def __init__(
        self, images: QueryAndGallery, kept: Floats, furthest: NDArray[np.float64], encoding: Encoding, lambda_: float
    ) -> None:
        self._plain = ArrayDistances(images.query, images.gallery)
        self._query, self._gallery, self._kept = images.query, images.gallery, kept
        self._encoding, self._lambda = encoding, lambda_
        self.shape = self._plain.shape
        self.gallery_scale = self.gallery_terms = self.exact = None
        slope = np.divide(lambda_, furthest, out=np.zeros_like(furthest), where=furthest > 0)
        self._base = 1 - lambda_ + slope * images.query.constants
        self._slope = 2 * slope * images.query.scale

    def order(self, start: int, stop: int) -> Floats:
        """Compute the re-ranked distances of the queries `start:stop`, [stop - start, G]."""
        if stop <= len(self._kept):
            return self._finished(np.arange(start, stop), self._kept[start:stop].copy())
        return self._finished(np.arange(start, stop), self._plain.order(start, stop))

    def rows(self, queries: Integers) -> Floats:
        """Compute the re-ranked distances of these queries, [len(queries), G]."""
        return self._finished(queries, self._query.values[queries] @ self._gallery.values.T)

    def _finished(self, queries: Integers, products: Floats) -> Floats:
        base, slope = (values[queries].astype(products.dtype) for values in (self._base, self._slope))
        with Workers() as workers:
            scales = (base, slope, self._plain.gallery_scale, self._plain.gallery_terms)
            workers.run(_mix, len(queries), products, *scales)
            subtract_overlap(self._encoding, queries, 1 - self._lambda, products, workers)
        return products


@compiled
def _mix(start: int, stop: int, block: Floats, base: Floats, slope: Floats, scale: Floats, terms: Floats) -> None:
    """Turn products into re-ranked distances without common neighbors: `1 - lambda + lambda d / max d`."""
    for query in range(start, stop):
        row = block[query]
        for image in range(len(row)):
            row[image] = base[query] + slope[query] * (row[image] * scale[image] + terms[image])
