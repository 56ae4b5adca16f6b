"""k-reciprocal re-ranking of a gallery.

Zhong, Zheng, Cao, Li: Re-ranking Person Re-identification with k-reciprocal Encoding (2017). The function is that of
the authors' own code, on squared Euclidean distances d of all N = Q + G images, each row divided by its maximum. It is
computed here in memory O(N k): a blocked product of the features, of which symmetry spares half, keeps each image's
nearest neighbors and its furthest distance; what follows works on short lists; and the products of a block of queries
are made again when they are asked for, but for as many as fit `KEPT_BYTES`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from slsr.retrieval.distances import ArrayDistances, DistanceRows, Features, Floats, as_array, feature_pair
from slsr.retrieval.encoding import Encoding, Parameters, encode, subtract_overlap
from slsr.retrieval.matching import Integers, Labels
from slsr.retrieval.measures import Evaluation
from slsr.retrieval.neighbors import Images
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
    """Re-ranked distances of every query to every gallery image, any rows of which can be asked for.

    With N(i, k) the k + 1 nearest images of i, itself the first, and R(i, k) those of them that have i among theirs:

    - R*(i) = R(i, k1), and R(j, k1 / 2) for every j in R(i, k1) more than 2/3 of which lies in R(i, k1);
    - V_i = exp(-d(i, j) / max_l d(i, l)) for j in R*(i), 0 elsewhere, divided by its sum;
    - V_i is then replaced by the mean of V over the k2 nearest images of i, itself the first;
    - Jaccard distance J(i, j) = 1 - sum_l min(V_il, V_jl) / sum_l max(V_il, V_jl);
    - the result is (1 - lambda) J(q, g) + lambda d(q, g) / max_l d(q, l).

    Parameters
    ----------
    query_features, gallery_features
        [Q, D] and [G, D], float16, float32 or float64: numpy arrays, or what numpy takes for one.
    k1, k2, lambda_
        As in the publication.
    normalize
        Compare the features as if each were scaled to length 1.

    Returns
    -------
    What `evaluate_distances` and `top_matches` take, of shape (Q, G).

    Raises
    ------
    InputError
        Features that do not fit, are not finite or cannot be normalized; parameters out of range.

    Examples
    --------
    >>> import numpy as np
    >>> features = np.random.default_rng(0).standard_normal((30, 8))
    >>> reranked = rerank(features[:4], features[4:], k1=6, k2=2)
    >>> reranked.rows(np.array([0, 3])).shape
    (2, 26)
    """
    parameters = Parameters(k1, k2, lambda_)
    query, gallery = feature_pair(query_features, gallery_features, normalize)
    images = Images(query, gallery)
    rows = min(images.queries, KEPT_BYTES // (len(gallery.values) * images.dtype.itemsize))
    kept = np.empty((rows, len(gallery.values)), images.dtype)
    with Workers() as workers:
        table = images.neighbors(parameters.cuts, kept, workers)
        encoding = encode(table, parameters, images.queries, images.pair_distances, workers)
    return ArrayReranked(query, gallery, kept, table.furthest[: images.queries], encoding, parameters.lambda_)


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
    """Rank the gallery for each query by re-ranked distance; see `rerank` and `evaluate`.

    Parameters
    ----------
    junk
        Whether gallery images of identity -1, which are never ranked, take part as neighbors, as in the authors' code.
    """
    check_fit((len(query_features), len(gallery_features)), labels)
    if not junk and not labels.kept.all():
        kept = np.flatnonzero(labels.kept)
        gallery_features, ranked = as_array("gallery_features", gallery_features)[kept], labels.with_gallery(kept)
    else:
        ranked = labels
    reranked = rerank(query_features, gallery_features, k1=k1, k2=k2, lambda_=lambda_, normalize=normalize)
    result = evaluate_distances(reranked, ranked)
    return Evaluation(result.offsets, result.ranks, labels.gallery)


class ArrayReranked:
    """Re-ranked distances of numpy features, see `rerank`."""

    def __init__(
        self,
        query: Features,
        gallery: Features,
        kept: Floats,
        furthest: NDArray[np.float64],
        encoding: Encoding,
        lambda_: float,
    ) -> None:
        self._plain = ArrayDistances(query, gallery)
        self._query, self._gallery, self._kept = query, gallery, kept
        self._encoding, self._lambda = encoding, lambda_
        self.shape = self._plain.shape
        self.gallery_scale = self.gallery_terms = self.exact = None
        slope = np.divide(lambda_, furthest, out=np.zeros_like(furthest), where=furthest > 0)
        self._base = 1 - lambda_ + slope * query.constants
        self._slope = 2 * slope * query.scale

    def order(self, start: int, stop: int) -> Floats:
        """Re-ranked distances of the queries `start:stop`, [stop - start, G]."""
        if stop <= len(self._kept):
            return self._finished(np.arange(start, stop), self._kept[start:stop].copy())
        return self._finished(np.arange(start, stop), self._plain.order(start, stop))

    def rows(self, queries: Integers) -> Floats:
        """Re-ranked distances of these queries, [len(queries), G]."""
        return self._finished(queries, self._query.values[queries] @ self._gallery.values.T)

    def _finished(self, queries: Integers, products: Floats) -> Floats:
        base, slope = (values[queries].astype(products.dtype) for values in (self._base, self._slope))
        with Workers() as workers:
            scales = (base, slope, self._plain.gallery_scale, self._plain.gallery_terms)
            workers.run(_mix, len(queries), products, *scales)
            subtract_overlap(self._encoding, queries, 1 - self._lambda, products, workers)
        return products


def _mix_rows(start: int, stop: int, block: Floats, base: Floats, slope: Floats, scale: Floats, terms: Floats) -> None:
    """Turn products into re-ranked distances as they are without common neighbors: `1 - lambda + lambda d / max d`."""
    for query in range(start, stop):
        row = block[query]
        for image in range(len(row)):
            row[image] = base[query] + slope[query] * (row[image] * scale[image] + terms[image])


_mix = compiled(_mix_rows)
