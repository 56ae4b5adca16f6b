"""The same functions on torch tensors, on whatever device they are."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from slsr.errors import InputError
from slsr.retrieval.distances import Floats, check_features, complain, is_tensor
from slsr.retrieval.matching import Integers, Ragged


class TensorDistances:
    """Euclidean distances of torch features, see `distances.euclidean_distances`."""

    def __init__(
        self, query: torch.Tensor, gallery: torch.Tensor, normalize: bool, gallery_rows: Integers | None
    ) -> None:
        self._query, self._gallery = feature_pair(query, gallery, normalize, gallery_rows)
        self.shape = (len(self._query), len(self._gallery))
        self._squared = squared_lengths(self._gallery)
        self.gallery_scale = torch.full_like(self._squared, -2)
        self.gallery_terms = torch.zeros_like(self._squared) if normalize else self._squared

    def order(self, start: int, stop: int) -> torch.Tensor:
        """`q.g` of the queries `start:stop`."""
        return self._query[start:stop] @ self._gallery.T

    def rows(self, queries: Integers) -> Floats:
        """Euclidean distances, [len(queries), G]."""
        query = self._query[torch.as_tensor(queries, device=self._query.device)]
        squared = squared_lengths(query)[:, None] + self._squared - 2 * (query @ self._gallery.T)
        return np.asarray(squared.clamp(min=0).sqrt().cpu())


def feature_pair(
    query: torch.Tensor, gallery: torch.Tensor, normalize: bool, gallery_rows: Integers | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both sides in one type, checked, scaled to length 1 with `normalize`; errors as `distances.feature_pair`."""
    if not is_tensor(gallery) or query.device != gallery.device:
        raise InputError("query_features and gallery_features must be tensors on the same device")
    check_features(tuple(query.shape), tuple(gallery.shape))
    for name, features in (("query_features", query), ("gallery_features", gallery)):
        if not features.is_floating_point():
            raise InputError(f"{name} is of type {features.dtype}; features must be floating-point numbers")
    dtype = torch.promote_types(torch.float32, torch.promote_types(query.dtype, gallery.dtype))
    return (
        _prepared("query_features", query, dtype, normalize),
        _prepared("gallery_features", gallery, dtype, normalize, gallery_rows),
    )


def _prepared(
    name: str, features: torch.Tensor, dtype: torch.dtype, normalize: bool, rows: Integers | None = None
) -> torch.Tensor:
    chosen = features.detach() if rows is None else features.detach()[torch.as_tensor(rows, device=features.device)]
    chosen = chosen.to(dtype)
    largest = chosen.abs().amax(dim=1, keepdim=True)
    complain(name, _rows_where(~torch.isfinite(largest)), "NaN or infinite features", rows)
    if not normalize:
        return chosen
    complain(name, _rows_where(largest == 0), "zero vectors, which have no direction,", rows)
    scaled = chosen / largest
    return scaled.div_(torch.linalg.vector_norm(scaled, dim=1, keepdim=True))


def _rows_where(wrong: torch.Tensor) -> Integers:
    return np.asarray(wrong[:, 0].nonzero()[:, 0].cpu())


def squared_lengths(features: torch.Tensor) -> torch.Tensor:
    """|x|^2 of every row."""
    return torch.einsum("nd,nd->n", features, features)


def rank_block(
    values: torch.Tensor, kept: NDArray[np.bool_], right: Ragged, removed: Ragged
) -> tuple[NDArray[np.int32], list[int]]:
    """1-based ranks of the right matches of a block of queries, ascending a query; the rows that cannot be ranked.

    Every gallery image is placed among the sorted distances of the right matches; images exactly as near as one of them
    are told apart by their place in the gallery.
    """
    device = values.device
    keep = torch.as_tensor(kept, device=device)
    unrankable = (~torch.isfinite(values) & keep).any(dim=1).nonzero()[:, 0].tolist()
    values = torch.where(keep, values, torch.inf)
    values[_owners(removed, device), torch.as_tensor(removed.indices, device=device)] = torch.inf
    if unrankable or not len(right.indices):
        return np.zeros(len(right.indices), np.int32), unrankable
    owner, image = _owners(right, device), torch.as_tensor(right.indices, device=device)
    place = torch.arange(len(owner), device=device) - torch.as_tensor(right.offsets, device=device)[owner]
    sorted_distances, order = _nearest_first(values[owner, image], owner, place, len(values))
    nearer, tied = _placed(values, sorted_distances)
    ties_before = _ties_before(values, sorted_distances, tied, owner, image[order])
    return np.asarray((1 + nearer[owner, place] + ties_before).cpu(), np.int32), []


def _owners(lists: Ragged, device: torch.device) -> torch.Tensor:
    return torch.as_tensor(np.repeat(np.arange(len(lists.offsets) - 1), np.diff(lists.offsets)), device=device)


def _nearest_first(
    distances: torch.Tensor, owner: torch.Tensor, place: torch.Tensor, queries: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The right matches' distances [b, R], sorted and filled up with infinity, and the order of the list."""
    matrix = torch.full((queries, int(place.max()) + 1), torch.inf, dtype=distances.dtype, device=distances.device)
    matrix[owner, place] = distances
    matrix, columns = matrix.sort(dim=1, stable=True)
    first = torch.searchsorted(owner, owner)
    return matrix, first + columns[owner, place]


def _placed(values: torch.Tensor, sorted_distances: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How many images are nearer than each right match [b, R], and which are exactly as near as one [b, G]."""
    behind = torch.searchsorted(sorted_distances, values, right=True, out_int32=True)
    tied = (behind != torch.searchsorted(sorted_distances, values, out_int32=True)) & torch.isfinite(values)
    queries, matches = sorted_distances.shape
    counts = torch.zeros((queries, matches + 1), dtype=torch.int64, device=values.device)
    counts.scatter_add_(1, behind.long(), torch.ones((), dtype=torch.int64, device=values.device).expand(values.shape))
    return counts.cumsum(dim=1)[:, :matches], tied


def _ties_before(
    values: torch.Tensor,
    sorted_distances: torch.Tensor,
    tied: torch.Tensor,
    owner: torch.Tensor,
    image: torch.Tensor,
) -> torch.Tensor:
    """How many images as near as each right match stand before it in the gallery."""
    query, other = tied.nonzero(as_tuple=True)
    matches, gallery = sorted_distances.shape[1], values.shape[1]

    def group(row: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
        first = torch.searchsorted(sorted_distances[row], values[row, column][:, None])[:, 0]
        return (row * matches + first) * gallery

    codes = (group(query, other) + other).sort().values
    own = group(owner, image)
    return torch.searchsorted(codes, own + image) - torch.searchsorted(codes, own)
