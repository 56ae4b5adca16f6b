"""Distances between features, a block of queries at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from slsr.errors import InputError
from slsr.retrieval.workers import Workers, compiled, compiled_sum

BLOCK_BYTES = 64 * 2**20
ROUNDING = 16
SAFELY_SQUARED = (1e-20, 1e20)

Features = NDArray[np.float32]
Floats = NDArray[Any]  # of float32 or float64


class ExactNumbers(NamedTuple):
    """What is needed to compute a number that ranks the gallery again in float64.

    Two numbers that are close together may be in the wrong order after a product in float32. The number of query i
    and gallery image j is `scale_j q_i.g_j + terms_j`, summed in float64 by a function of the two features alone, so
    that copies of an image tie wherever they are in the gallery; BLAS gives the same product other last bits in
    another column. The rounded numbers of query i differ from these by at most `doubt_i / 2`.
    """

    queries: Floats
    gallery: Floats
    scale: NDArray[np.float64]
    terms: NDArray[np.float64]
    doubt: NDArray[np.float64]

    def of_queries(self, start: int, stop: int) -> ExactNumbers:
        """Keep the queries `start:stop` alone."""
        return self._replace(queries=self.queries[start:stop], doubt=self.doubt[start:stop])


class DistanceRows(Protocol):
    """Distances of Q queries to G gallery images, any rows of which can be computed.

    `shape` is (Q, G). `order(start, stop)` gives a block [stop - start, G]; times `gallery_scale` [G] plus
    `gallery_terms` [G] (None for 1 and 0), it ranks the gallery of each query as the distances do. The next call may
    overwrite the block. `exact`, unless it is None, decides between numbers that rounding could have swapped.
    `rows(queries)` gives the distances themselves, [len(queries), G].
    """

    shape: tuple[int, int]
    gallery_scale: Any
    gallery_terms: Any

    @property
    def exact(self) -> ExactNumbers | None: ...

    def order(self, start: int, stop: int) -> Any: ...

    def rows(self, queries: NDArray[np.int64]) -> Floats: ...


class MatrixDistances:
    """Distances that are computed already, [Q, G]."""

    def __init__(self, distances: Any) -> None:
        if distances.ndim != 2:
            raise InputError(f"distances have shape {list(distances.shape)}; they must be [queries, gallery]")
        self._distances = distances
        self.shape: tuple[int, int] = (distances.shape[0], distances.shape[1])
        self.gallery_scale = self.gallery_terms = self.exact = None

    def order(self, start: int, stop: int) -> Any:
        """Return the rows `start:stop` as floating-point numbers."""
        rows = self._distances[start:stop]
        return rows if rows.dtype in (np.float32, np.float64) else rows.astype(np.float64)

    def rows(self, queries: NDArray[np.int64]) -> Floats:
        """Return the rows of these queries."""
        return np.array(self._distances[queries])


def euclidean_distances(
    query_features: Any, gallery_features: Any, *, normalize: bool = True, gallery_rows: NDArray[np.int64] | None = None
) -> DistanceRows:
    """Compare query features [Q, D] with gallery features [G, D], or with the rows `gallery_rows` of them.

    float64 features are compared in float64, float16 and float32 ones in float32. The gallery is ranked by
    `|g|^2 - 2 q.g`, or by `-q.g / |g|` for normalized features: a term that all gallery images share is left out, so
    that no two distances are rounded to the same number. If rounding could decide whether a gallery image comes before
    a right match, the two are compared in float64. Features are copied only if their type has to change.

    Parameters
    ----------
    query_features, gallery_features
        float16, float32 or float64: numpy arrays, or anything that numpy can read as one.
    normalize
        Compare the features as if each were scaled to length 1.

    Raises
    ------
    InputError
        The shapes do not fit, a feature is not finite, or a zero vector cannot be normalized.
    """
    query, gallery = feature_pair(query_features, gallery_features, normalize)
    return ArrayDistances(query, gallery if gallery_rows is None else gallery.select(gallery_rows))


@dataclass(frozen=True, eq=False)
class MeasuredFeatures:
    """Features [n, D] as given, float32 or float64, and the numbers that turn their products into squared distances.

    `d_ij = constant_i - 2 scale_i key_ij` with `key_ij = scale_j x_i.x_j + term_j`: the nearer j is to i, the larger is
    the key.
    """

    values: Floats
    scale: NDArray[np.float64]
    terms: NDArray[np.float64]
    constants: NDArray[np.float64]

    def select(self, rows: NDArray[np.int64]) -> MeasuredFeatures:
        """Keep these rows alone."""
        return MeasuredFeatures(self.values[rows], self.scale[rows], self.terms[rows], self.constants[rows])


class ArrayDistances:
    """Euclidean distances of numpy features, see `euclidean_distances`."""

    def __init__(self, query: MeasuredFeatures, gallery: MeasuredFeatures) -> None:
        self._query, self._gallery = query, gallery
        self.shape = (len(query.values), len(gallery.values))
        self.gallery_scale = (-gallery.scale).astype(gallery.values.dtype)
        self.gallery_terms = (-gallery.terms).astype(gallery.values.dtype)
        lengths, gallery_lengths = (np.sqrt(squared_lengths(side.values)) for side in (query, gallery))
        doubt = rounding_doubt(lengths, gallery_lengths * gallery.scale, gallery.terms, query.values.dtype)
        self.exact = ExactNumbers(query.values, gallery.values, -gallery.scale, -gallery.terms, doubt)
        self._buffer = np.empty(0, query.values.dtype)

    def order(self, start: int, stop: int) -> Floats:
        """Compute `q.g` of the queries `start:stop`."""
        if len(self._buffer) < (stop - start) * self.shape[1]:
            self._buffer = np.empty((stop - start) * self.shape[1], self._query.values.dtype)
        block = self._buffer[: (stop - start) * self.shape[1]].reshape(stop - start, -1)
        return np.matmul(self._query.values[start:stop], self._gallery.values.T, out=block)

    def rows(self, queries: NDArray[np.int64]) -> Floats:
        """Compute the Euclidean distances of these queries, [len(queries), G], in float64."""
        keys = np.empty((len(queries), self.shape[1]))
        with Workers() as workers:
            workers.run(_exact_keys, self.shape[1], self._query.values[queries], self._gallery.values, keys)
        keys = keys * self._gallery.scale + self._gallery.terms
        squared = self._query.constants[queries, None] - 2 * self._query.scale[queries, None] * keys
        return np.asarray(np.sqrt(np.maximum(squared, 0)))


def rounding_doubt(
    lengths: NDArray[np.float64], scaled_lengths: NDArray[np.float64], terms: NDArray[np.float64], dtype: np.dtype[Any]
) -> NDArray[np.float64]:
    """Say how far apart two rounded numbers of an image must be before their order is sure.

    Parameters
    ----------
    lengths : [n], of the features whose numbers are compared
    scaled_lengths, terms : [m], of the features that they are multiplied with
    dtype : in which the products were computed

    Returns
    -------
    [n]
    """
    largest = lengths * scaled_lengths.max() + np.abs(terms).max()
    return np.asarray(ROUNDING * np.finfo(dtype).eps * largest)


def block_rows(columns: int, itemsize: int, limit: int = BLOCK_BYTES) -> int:
    """Say how many rows with this many numbers fit into `limit` bytes; at least one."""
    return max(1, limit // max(1, columns * itemsize))


def as_array(name: str, values: Any) -> Floats:
    """Read these values as a numpy array, without a copy if they are in the host's memory, as a CPU tensor is.

    Raises
    ------
    InputError
        numpy cannot read them: a tensor on a GPU, or of a type that numpy does not have.
    """
    try:
        return np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{name}: {type(values).__name__} cannot be read as a numpy array ({error}); convert it, for instance with "
            "`tensor.float().cpu().numpy()`"
        ) from error


def feature_pair(
    query_features: Any, gallery_features: Any, normalize: bool
) -> tuple[MeasuredFeatures, MeasuredFeatures]:
    """Check and measure both sides, in one type: float64 if one of them has it, else float32.

    Raises
    ------
    InputError
        A side is not a matrix of float16, float32 or float64, is empty, or has rows that cannot be compared; or the two
        differ in D.
    """
    query, gallery = as_array("query_features", query_features), as_array("gallery_features", gallery_features)
    sides = {"query_features": query, "gallery_features": gallery}
    check_features(query.shape, gallery.shape)
    for name, features in sides.items():
        if features.dtype.kind != "f" or features.dtype.itemsize > 8:
            raise InputError(f"{name} is of type {features.dtype}; features must be float16, float32 or float64")
    dtype = np.promote_types(np.float32, np.promote_types(query.dtype, gallery.dtype))
    return (
        measured("query_features", query, dtype, normalize),
        measured("gallery_features", gallery, dtype, normalize),
    )


def check_features(query: tuple[int, ...], gallery: tuple[int, ...]) -> None:
    """Raise InputError unless these are the shapes of feature matrices with the same number of dimensions."""
    for name, shape in (("query_features", query), ("gallery_features", gallery)):
        if len(shape) != 2 or 0 in shape:
            raise InputError(f"{name} has shape {list(shape)}; it must be [images, dimensions], neither of them zero")
    if query[1] != gallery[1]:
        raise InputError(
            f"query_features has {query[1]} dimensions and gallery_features {gallery[1]}; "
            "both must come from the same network"
        )


def measured(name: str, features: Floats, dtype: np.dtype[Any], normalize: bool) -> MeasuredFeatures:
    """Check and measure features [N, D]; they are copied only if their type or layout has to change.

    Raises
    ------
    InputError
        Features are not finite, or zero vectors are to be normalized; the message names the rows.
    """
    values = np.ascontiguousarray(features, dtype)
    squared = squared_lengths(values)
    odd = np.flatnonzero(~((squared > SAFELY_SQUARED[0]) & (squared < SAFELY_SQUARED[1])))
    largest = np.abs(values[odd]).max(axis=1)
    complain(name, odd[~np.isfinite(largest)], "NaN or infinite features")
    if not normalize:
        return MeasuredFeatures(values, np.ones(len(values)), -squared / 2, squared)
    complain(name, odd[largest == 0], "zero vectors, which have no direction,")
    if len(odd):
        values = values.copy() if np.may_share_memory(values, features) else values
        values[odd] = np.ldexp(values[odd], -np.frexp(largest)[1][:, None])
        squared[odd] = squared_lengths(values[odd])
    return MeasuredFeatures(values, 1 / np.sqrt(squared), np.zeros(len(values)), np.full(len(values), 2.0))


def complain(name: str, rows: NDArray[np.int64], what: str) -> None:
    """Raise InputError if there are any of these wrong rows."""
    if len(rows):
        listed = ", ".join(map(str, rows[:10])) + (", ..." if len(rows) > 10 else "")
        raise InputError(f"{name} holds {what} in {len(rows)} of its rows ({listed}); extract these images again")


def squared_lengths(values: Floats) -> NDArray[np.float64]:
    """Compute |x|^2 of every row, summed in float64."""
    squared = np.empty(len(values))
    with Workers() as workers:
        workers.run(_square_rows, len(values), values, squared)
    return squared


@compiled_sum
def _square_rows(start: int, stop: int, values: Floats, squared: NDArray[np.float64]) -> None:
    for row in range(start, stop):
        feature = values[row]
        total = 0.0
        for column in range(len(feature)):
            value = np.float64(feature[column])
            total += value * value
        squared[row] = total


@compiled_sum
def dot(first: Floats, second: Floats) -> float:
    """Multiply two features, summed in float64."""
    total = 0.0
    for column in range(len(first)):
        total += np.float64(first[column]) * np.float64(second[column])
    return total


@compiled
def _exact_keys(start: int, stop: int, queries: Floats, gallery: Floats, products: NDArray[np.float64]) -> None:
    for image in range(start, stop):
        for query in range(len(queries)):
            products[query, image] = dot(queries[query], gallery[image])
