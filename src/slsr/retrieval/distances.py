"""Distances between features, a block of queries at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from slsr.errors import InputError
from slsr.retrieval.workers import Workers, compiled

BLOCK_BYTES = 64 * 2**20


ROUNDING = 16


Floats = NDArray[Any]


@dataclass(frozen=True, eq=False)
class ExactNumbers:
    """What the numbers that rank a gallery are made of, for those too close together to trust a product in float32.

    The number of query i and gallery image j is `scale_j q_i.g_j + terms_j`, summed in float64 by a function of the two
    features alone, so that copies of an image tie wherever they stand; BLAS gives the same product in another column
    other last bits. Rounded numbers of query i are at most `doubt_i / 2` from these.
    """

    queries: Floats
    gallery: Floats
    scale: NDArray[np.float64]
    terms: NDArray[np.float64]
    doubt: NDArray[np.float64]


class DistanceRows(Protocol):
    """Distances of Q queries to G gallery images, any of whose rows can be computed.

    `shape` is (Q, G). `order(start, stop)` gives a block [stop - start, G] which, times `gallery_scale` [G] plus
    `gallery_terms` [G] (None for 1 and 0), ranks the gallery of each query as the distances do; the block may be
    overwritten by the next call. `exact`, where it is not None, tells apart what rounding cannot. `rows(queries)` gives
    the distances themselves, [len(queries), G].
    """

    shape: tuple[int, int]
    gallery_scale: Any
    gallery_terms: Any

    @property
    def exact(self) -> ExactNumbers | None: ...

    def order(self, start: int, stop: int) -> Any: ...

    def rows(self, queries: NDArray[np.int64]) -> Floats: ...


class MatrixDistances:
    """Distances that are there already, [Q, G]."""

    def __init__(self, distances: Any) -> None:
        if distances.ndim != 2:
            raise InputError(f"distances have shape {list(distances.shape)}; they must be [queries, gallery]")
        self._distances = distances
        self.shape: tuple[int, int] = (distances.shape[0], distances.shape[1])
        self.gallery_scale = self.gallery_terms = self.exact = None

    def order(self, start: int, stop: int) -> Any:
        """The rows `start:stop`, as floating-point numbers."""
        return _floating(self._distances[start:stop])

    def rows(self, queries: NDArray[np.int64]) -> Floats:
        """The rows of these queries, as a numpy array."""
        return np.array(self._distances[queries])


def _floating(values: Any) -> Any:
    return values if values.dtype in (np.float32, np.float64) else values.astype(np.float64)


def euclidean_distances(
    query_features: Any, gallery_features: Any, *, normalize: bool = True, gallery_rows: NDArray[np.int64] | None = None
) -> DistanceRows:
    """Euclidean distances of query features [Q, D] to gallery features [G, D], or to its rows `gallery_rows`.

    float64 features are compared in float64, float16 and float32 ones in float32. The gallery is ranked by
    `|g|^2 - 2 q.g`, or by `-q.g / |g|` for normalized features: what all gallery images share is left out, so that no
    two distances are rounded onto each other. Where rounding could decide whether a gallery image comes before a right
    match, the two are compared in float64.
    Features are not copied unless their type has to change.

    Parameters
    ----------
    query_features, gallery_features
        float16, float32 or float64: numpy arrays, or what numpy takes for one.
    normalize
        Compare the features as if each were scaled to length 1.

    Raises
    ------
    InputError
        Shapes that do not fit, numbers that are not finite, zero vectors that cannot be normalized.
    """
    query, gallery = feature_pair(query_features, gallery_features, normalize)
    return ArrayDistances(query, gallery if gallery_rows is None else gallery.select(gallery_rows))


@dataclass(frozen=True, eq=False)
class Features:
    """Features [n, D] as given, float32 or float64, and what squared Euclidean distances need beside their products.

    `d_ij = constant_i - 2 scale_i key_ij` with `key_ij = scale_j x_i.x_j + term_j`, larger the nearer j is to i.
    """

    values: Floats
    scale: NDArray[np.float64]
    terms: NDArray[np.float64]
    constants: NDArray[np.float64]

    def select(self, rows: NDArray[np.int64]) -> Features:
        """The features of these rows alone."""
        return Features(self.values[rows], self.scale[rows], self.terms[rows], self.constants[rows])


class ArrayDistances:
    """Euclidean distances of numpy features, see `euclidean_distances`."""

    def __init__(self, query: Features, gallery: Features) -> None:
        self._query, self._gallery = query, gallery
        self.shape = (len(query.values), len(gallery.values))
        self.gallery_scale = (-gallery.scale).astype(gallery.values.dtype)
        self.gallery_terms = (-gallery.terms).astype(gallery.values.dtype)
        self.exact = ExactNumbers(query.values, gallery.values, -gallery.scale, -gallery.terms, _doubt(query, gallery))
        self._buffer = np.empty(0, query.values.dtype)

    def order(self, start: int, stop: int) -> Floats:
        """`q.g` of the queries `start:stop`."""
        if len(self._buffer) < (stop - start) * self.shape[1]:
            self._buffer = np.empty((stop - start) * self.shape[1], self._query.values.dtype)
        block = self._buffer[: (stop - start) * self.shape[1]].reshape(stop - start, -1)
        return np.matmul(self._query.values[start:stop], self._gallery.values.T, out=block)

    def rows(self, queries: NDArray[np.int64]) -> Floats:
        """Euclidean distances, [len(queries), G]."""
        keys = self._query.values[queries] @ self._gallery.values.T * self._gallery.scale + self._gallery.terms
        squared = self._query.constants[queries, None] - 2 * self._query.scale[queries, None] * keys
        return np.asarray(np.sqrt(np.maximum(squared, 0)))


def _doubt(query: Features, gallery: Features) -> NDArray[np.float64]:
    """[Q]: how far apart two rounded numbers of a query must be for their order to be sure."""
    lengths = (np.sqrt(squared_lengths(side.values)) for side in (query, gallery))
    query_length, gallery_length = lengths
    largest = query_length * (gallery_length * gallery.scale).max() + np.abs(gallery.terms).max()
    return np.asarray(ROUNDING * np.finfo(query.values.dtype).eps * largest)


def ranking_numbers(source: DistanceRows, block: Any) -> Any:
    """A block of `source.order` as numbers that rank the gallery by themselves."""
    return block if source.gallery_scale is None else block * source.gallery_scale + source.gallery_terms


def block_rows(columns: int, itemsize: int, limit: int = BLOCK_BYTES) -> int:
    """How many rows of so many numbers fit a block of `limit` bytes; at least one."""
    return max(1, limit // max(1, columns * itemsize))


def as_array(name: str, values: Any) -> Floats:
    """A numpy array of these values; not copied where they lie in the host's memory, as a CPU tensor's do.

    Raises
    ------
    InputError
        They are not an array that numpy can read: a tensor on a GPU, or of a type that numpy does not have.
    """
    try:
        return np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{name}: {type(values).__name__} cannot be read as a numpy array ({error}); give one, such as "
            "`tensor.float().cpu().numpy()`"
        ) from error


def feature_pair(query_features: Any, gallery_features: Any, normalize: bool) -> tuple[Features, Features]:
    """Both sides in one type: float64 if one of them has it, else float32.

    Raises
    ------
    InputError
        A side is not a matrix of float16, float32 or float64, is empty, holds rows that cannot be compared, or the two
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


def measured(name: str, features: Floats, dtype: np.dtype[Any], normalize: bool) -> Features:
    """Features [N, D], checked and measured; copied only where their type or layout has to change.

    Raises
    ------
    InputError
        Features that are not finite, or zero vectors to normalize; the message says which rows.
    """
    values = np.ascontiguousarray(features, dtype)
    squared = squared_lengths(values)
    odd = np.flatnonzero(~((squared > SAFELY_SQUARED[0]) & (squared < SAFELY_SQUARED[1])))
    largest = np.abs(values[odd]).max(axis=1)
    complain(name, odd[~np.isfinite(largest)], "NaN or infinite features")
    if not normalize:
        return Features(values, np.ones(len(values)), -squared / 2, squared)
    complain(name, odd[largest == 0], "zero vectors, which have no direction,")
    if len(odd):
        values = values.copy() if np.may_share_memory(values, features) else values
        values[odd] = np.ldexp(values[odd], -np.frexp(largest)[1][:, None])
        squared[odd] = squared_lengths(values[odd])
    return Features(values, 1 / np.sqrt(squared), np.zeros(len(values)), np.full(len(values), 2.0))


def complain(name: str, rows: NDArray[np.int64], what: str) -> None:
    """Raise InputError if something is wrong with any of these rows."""
    if len(rows):
        listed = ", ".join(map(str, rows[:10])) + (", ..." if len(rows) > 10 else "")
        raise InputError(f"{name} holds {what} in {len(rows)} of its rows ({listed}); extract these images again")


def squared_lengths(values: Floats) -> NDArray[np.float64]:
    """|x|^2 of every row, summed in float64."""
    squared = np.empty(len(values))
    with Workers() as workers:
        workers.run(_measure, len(values), values, squared)
    return squared


SAFELY_SQUARED = (1e-20, 1e20)


def _squared_lengths(start: int, stop: int, values: Floats, squared: NDArray[np.float64]) -> None:
    for row in range(start, stop):
        feature = values[row]
        total = 0.0
        for column in range(len(feature)):
            value = np.float64(feature[column])
            total += value * value
        squared[row] = total


_measure = compiled(_squared_lengths, fastmath={"reassoc", "contract"})


def _dot_product(first: Floats, second: Floats) -> float:
    total = 0.0
    for column in range(len(first)):
        total += np.float64(first[column]) * np.float64(second[column])
    return total


dot = compiled(_dot_product, fastmath={"reassoc", "contract"})
