"""Distances between features, a block of queries at a time."""

from __future__ import annotations

import sys
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from slsr.errors import InputError
from slsr.retrieval.workers import Workers, compiled

BLOCK_BYTES = 64 * 2**20

Floats = NDArray[Any]


class DistanceRows(Protocol):
    """Distances of Q queries to G gallery images, any of whose rows can be computed.

    `shape` is (Q, G). `order(start, stop)` gives [stop - start, G] numbers that rank the gallery as the distances do
    once `gallery_terms` [G] (None for nothing) is added; the block may be overwritten by the next call. `rows(queries)`
    gives the distances themselves, [len(queries), G].
    """

    shape: tuple[int, int]
    gallery_terms: Any

    def order(self, start: int, stop: int) -> Any: ...

    def rows(self, queries: NDArray[np.int64]) -> Floats: ...


def _floating(values: Any) -> Any:
    if is_tensor(values):
        return values if values.is_floating_point() else values.double()
    return values if values.dtype in (np.float32, np.float64) else values.astype(np.float64)


class MatrixDistances:
    """Distances that are there already, [Q, G]."""

    def __init__(self, distances: Any) -> None:
        if distances.ndim != 2:
            raise InputError(f"distances have shape {list(distances.shape)}; they must be [queries, gallery]")
        self._distances = distances
        self.shape: tuple[int, int] = (distances.shape[0], distances.shape[1])
        self.gallery_terms = None

    def order(self, start: int, stop: int) -> Any:
        """The rows `start:stop`, as floating-point numbers."""
        return _floating(self._distances[start:stop])

    def rows(self, queries: NDArray[np.int64]) -> Floats:
        """The rows of these queries, as a numpy array."""
        rows = self._distances[queries]
        return np.array(rows if isinstance(rows, np.ndarray) else rows.cpu())


def euclidean_distances(
    query_features: Any, gallery_features: Any, *, normalize: bool = True, gallery_rows: NDArray[np.int64] | None = None
) -> DistanceRows:
    """Euclidean distances of query features [Q, D] to gallery features [G, D], or to its rows `gallery_rows`.

    float64 features are compared in float64, float16 and float32 ones in float32. The order of the gallery is taken
    from `|g|^2 - 2 q.g`, or from `-2 q.g` for normalised features: what all gallery images share is left out, so that
    no two distances are rounded onto each other.

    Parameters
    ----------
    query_features, gallery_features
        float16, float32 or float64; numpy arrays, or torch tensors, which stay on their device.
    normalize
        Scale every feature to length 1 first.

    Raises
    ------
    InputError
        Shapes that do not fit, numbers that are not finite, zero vectors that cannot be normalised.
    """
    if is_tensor(query_features):
        from slsr.retrieval import tensors

        return tensors.TensorDistances(query_features, gallery_features, normalize, gallery_rows)
    return ArrayDistances(query_features, gallery_features, normalize, gallery_rows)


class ArrayDistances:
    """Euclidean distances of numpy features, see `euclidean_distances`."""

    def __init__(
        self,
        query_features: Floats,
        gallery_features: Floats,
        normalize: bool,
        gallery_rows: NDArray[np.int64] | None,
    ) -> None:
        dtype = common_precision(query_features, gallery_features)
        self._query = prepared("query_features", query_features, dtype, normalize=normalize)
        self._gallery = prepared("gallery_features", gallery_features, dtype, normalize=normalize, rows=gallery_rows)
        self.shape = (len(self._query), len(self._gallery))
        self.gallery_terms = None if normalize else squared_lengths(self._gallery)
        self._buffer = np.empty(0, dtype)

    def order(self, start: int, stop: int) -> Floats:
        """`-2 q.g` of the queries `start:stop`."""
        shape = (stop - start, self.shape[1])
        if self._buffer.size < shape[0] * shape[1]:
            self._buffer = np.empty(shape[0] * shape[1], self._query.dtype)
        block = self._buffer[: shape[0] * shape[1]].reshape(shape)
        return np.matmul(self._query[start:stop] * self._query.dtype.type(-2), self._gallery.T, out=block)

    def rows(self, queries: NDArray[np.int64]) -> Floats:
        """Euclidean distances, [len(queries), G]."""
        query = self._query[queries]
        squared = squared_lengths(query)[:, None] + squared_lengths(self._gallery) - 2 * (query @ self._gallery.T)
        return np.asarray(np.sqrt(np.maximum(squared, 0)))


def is_tensor(value: Any) -> bool:
    """Whether this is a torch tensor; torch is not imported to find out."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def block_rows(columns: int, itemsize: int, limit: int = BLOCK_BYTES) -> int:
    """How many rows of so many numbers fit a block of `limit` bytes; at least one."""
    return max(1, limit // max(1, columns * itemsize))


def common_precision(query_features: Floats, gallery_features: Floats) -> np.dtype[Any]:
    """The type both sides are computed in: float64 if one of them has it, else float32.

    Raises
    ------
    InputError
        A side is not a matrix of float16, float32 or float64, is empty, or the two differ in D.
    """
    for name, features in (("query_features", query_features), ("gallery_features", gallery_features)):
        if features.dtype not in (np.float16, np.float32, np.float64):
            raise InputError(f"{name} is of type {features.dtype}; features must be float16, float32 or float64")
    check_features(query_features.shape, gallery_features.shape)
    return np.promote_types(np.float32, np.promote_types(query_features.dtype, gallery_features.dtype))


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


def prepared(
    name: str,
    features: Floats,
    dtype: np.dtype[Any],
    *,
    normalize: bool,
    rows: NDArray[np.int64] | None = None,
    out: Floats | None = None,
) -> Floats:
    """Features [N, D], or their `rows`, in `dtype`, checked, scaled to length 1 with `normalize`; in `out` if given.

    Features that need no change are returned as they are.

    Raises
    ------
    InputError
        Features that are not finite, or that cannot be scaled because they are zero; the message says which rows.
    """
    if out is None:
        untouched = not normalize and rows is None and features.dtype == dtype and features.flags.c_contiguous
        out = features if untouched else np.empty((len(features if rows is None else rows), features.shape[1]), dtype)
    if rows is not None:
        np.take(features, rows, axis=0, out=out) if features.dtype == dtype else np.copyto(out, features[rows])
    elif out is not features:
        np.copyto(out, features)
    state = np.zeros(len(out), np.int8)
    if normalize:
        with Workers() as workers:
            workers.run(_normalize, len(out), out, state)
    else:
        step = block_rows(out.shape[1], out.itemsize)
        for start in range(0, len(out), step):
            state[start : start + step] = np.where(np.isfinite(out[start : start + step]).all(axis=1), 0, NOT_FINITE)
    for kind, what in ((NOT_FINITE, "NaN or infinite features"), (ZERO, "zero vectors, which have no direction,")):
        found = np.flatnonzero(state == kind)
        complain(name, found if rows is None else rows[found], what)
    return out


def complain(name: str, rows: NDArray[np.int64], what: str) -> None:
    """Raise InputError if something is wrong with any of these rows."""
    if len(rows):
        listed = ", ".join(map(str, rows[:10])) + (", ..." if len(rows) > 10 else "")
        raise InputError(f"{name} holds {what} in {len(rows)} of its rows ({listed}); extract these images again")


def squared_lengths(features: Floats) -> Floats:
    """|x|^2 of every row."""
    return np.asarray(np.einsum("nd,nd->n", features, features))


NOT_FINITE, ZERO = 1, 2
SAFELY_SQUARED = (1e-280, 1e280)


def _normalize_rows(start: int, stop: int, features: Floats, state: NDArray[np.int8]) -> None:
    for row in range(start, stop):
        total = 0.0
        for column in range(features.shape[1]):
            value = np.float64(features[row, column])
            total += value * value
        unit = 1.0
        if not (SAFELY_SQUARED[0] < total < SAFELY_SQUARED[1]):
            largest = 0.0
            for column in range(features.shape[1]):
                size = abs(np.float64(features[row, column]))
                if not size < np.inf:
                    state[row] = NOT_FINITE
                largest = max(largest, size)
            if largest == 0.0 and state[row] == 0:
                state[row] = ZERO
            if state[row] != 0:
                continue
            unit = largest
            total = 0.0
            for column in range(features.shape[1]):
                value = features[row, column] / unit
                total += value * value
        length = np.sqrt(total)
        for column in range(features.shape[1]):
            features[row, column] = features[row, column] / unit / length


_normalize = compiled(_normalize_rows, fastmath={"reassoc", "contract"})
