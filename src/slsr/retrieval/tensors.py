"""The same functions on torch tensors, on whatever device they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from slsr.errors import InputError
from slsr.retrieval.distances import ROUNDING, Floats, block_rows, check_features, complain, is_tensor
from slsr.retrieval.encoding import Encoding, Parameters, encode, subtract_overlap
from slsr.retrieval.matching import Integers, Ragged
from slsr.retrieval.neighbours import SPARE_NEIGHBOURS, Indices, NeighbourTable
from slsr.retrieval.workers import Workers

PAIRS_AT_ONCE = 4096


@dataclass(frozen=True, eq=False)
class TensorFeatures:
    """Features [n, D] and, in float64, the factor [n] and squared length [n] that they have in a comparison."""

    values: torch.Tensor
    scale: torch.Tensor
    squared: torch.Tensor

    def select(self, rows: Integers) -> TensorFeatures:
        """The features of these rows alone."""
        index = torch.as_tensor(rows, device=self.values.device)
        return TensorFeatures(self.values[index], self.scale[index], self.squared[index])

    def of(self, rows: torch.Tensor) -> torch.Tensor:
        """The features of these rows as they are compared, in float64."""
        return self.values[rows].double() * self.scale[rows, None]


class TensorDistances:
    """Euclidean distances of torch features, see `distances.euclidean_distances`."""

    def __init__(
        self, query: torch.Tensor, gallery: torch.Tensor, normalize: bool, gallery_rows: Integers | None
    ) -> None:
        self.query, whole = feature_pair(query, gallery, normalize)
        self.gallery = whole if gallery_rows is None else whole.select(gallery_rows)
        self.shape = (len(self.query.values), len(self.gallery.values))
        dtype = self.query.values.dtype
        self.gallery_scale = (self.gallery.scale * (-1 if normalize else -2)).to(dtype)
        self.gallery_terms = (torch.zeros_like(self.gallery.squared) if normalize else self.gallery.squared).to(dtype)
        self.exact = None

    def order(self, start: int, stop: int) -> torch.Tensor:
        """`q.g` of the queries `start:stop`."""
        return self.query.values[start:stop] @ self.gallery.values.T

    def rows(self, queries: Integers) -> Floats:
        """Euclidean distances, [len(queries), G]."""
        return np.asarray(self.squared(queries).clamp(min=0).sqrt().cpu())

    def squared(self, queries: Integers) -> torch.Tensor:
        """Squared Euclidean distances, [len(queries), G]."""
        rows = torch.as_tensor(queries, device=self.query.values.device)
        return squared_distances(self.query, rows, self.gallery)


def squared_distances(one: TensorFeatures, rows: torch.Tensor, other: TensorFeatures) -> torch.Tensor:
    """Squared Euclidean distances of some rows to all of another list, in the precision of the features."""
    dtype = one.values.dtype
    products = (one.values[rows] @ other.values.T).mul_(other.scale.to(dtype))
    return (one.squared[rows, None].to(dtype) - products.mul_(2 * one.scale[rows, None].to(dtype))) + other.squared.to(
        dtype
    )


def feature_pair(query: torch.Tensor, gallery: torch.Tensor, normalize: bool) -> tuple[TensorFeatures, TensorFeatures]:
    """Both sides in one type, checked and measured; errors as `distances.feature_pair`."""
    if not is_tensor(gallery) or query.device != gallery.device:
        raise InputError("query_features and gallery_features must be tensors on the same device")
    check_features(tuple(query.shape), tuple(gallery.shape))
    for name, features in (("query_features", query), ("gallery_features", gallery)):
        if not features.is_floating_point():
            raise InputError(f"{name} is of type {features.dtype}; features must be floating-point numbers")
    dtype = torch.promote_types(torch.float32, torch.promote_types(query.dtype, gallery.dtype))
    return (
        _measured("query_features", query, dtype, normalize),
        _measured("gallery_features", gallery, dtype, normalize),
    )


def _measured(name: str, features: torch.Tensor, dtype: torch.dtype, normalize: bool) -> TensorFeatures:
    values = features.detach().to(dtype)
    largest = values.abs().amax(dim=1, keepdim=True)
    complain(name, _rows_where(~torch.isfinite(largest)), "NaN or infinite features")
    if not normalize:
        squared = squared_lengths(values)
        return TensorFeatures(values, torch.ones_like(squared), squared)
    complain(name, _rows_where(largest == 0), "zero vectors, which have no direction,")
    values = torch.ldexp(values, -torch.frexp(largest).exponent)
    return TensorFeatures(
        values, squared_lengths(values).rsqrt(), torch.ones(len(values), dtype=torch.float64, device=values.device)
    )


def _rows_where(wrong: torch.Tensor) -> Integers:
    return np.asarray(wrong[:, 0].nonzero()[:, 0].cpu())


def squared_lengths(values: torch.Tensor) -> torch.Tensor:
    """|x|^2 of every row, in float64."""
    parts = values.split(block_rows(values.shape[1], 8))
    return torch.cat([part.double().square().sum(dim=1) for part in parts])


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


def reranked(query: torch.Tensor, gallery: torch.Tensor, parameters: Parameters, normalize: bool) -> TensorReranked:
    """Re-ranked distances of torch features, see `reranking.rerank`.

    Products of features, and everything of the size of a block of them, stay on the device; the short lists of
    neighbours are encoded on the CPU.
    """
    plain = TensorDistances(query, gallery, normalize, None)
    images = TensorFeatures(
        *(
            torch.cat([getattr(side, part) for side in (plain.query, plain.gallery)])
            for part in ("values", "scale", "squared")
        )
    )
    table = neighbours(images, max(parameters.cuts))

    def pair_distances(first: Indices, second: Indices) -> NDArray[np.float64]:
        one, other = (torch.as_tensor(index, dtype=torch.int64, device=query.device) for index in (first, second))
        return exact_distances(images, one, other).cpu().numpy()

    with Workers() as workers:
        encoding = encode(table, parameters, len(query), pair_distances, workers)
    return TensorReranked(plain, table.furthest[: len(query)], encoding, parameters.lambda_)


class TensorReranked:
    """Re-ranked distances of torch features, see `reranking.rerank`."""

    def __init__(
        self, plain: TensorDistances, furthest: NDArray[np.float64], encoding: Encoding, lambda_: float
    ) -> None:
        self._plain, self._encoding, self._lambda = plain, encoding, lambda_
        self.shape = plain.shape
        self.gallery_scale = self.gallery_terms = self.exact = None
        self._slope = np.divide(lambda_, furthest, out=np.zeros_like(furthest), where=furthest > 0)

    def order(self, start: int, stop: int) -> torch.Tensor:
        """Re-ranked distances of the queries `start:stop`, [stop - start, G]."""
        return self._of(np.arange(start, stop))

    def rows(self, queries: Integers) -> Floats:
        """Re-ranked distances of these queries, [len(queries), G]."""
        return np.asarray(self._of(queries).cpu())

    def _of(self, queries: Integers) -> torch.Tensor:
        distances = self._plain.squared(queries)
        gain = np.zeros(distances.shape, np.float32 if distances.dtype == torch.float32 else np.float64)
        with Workers() as workers:
            subtract_overlap(self._encoding, queries, 1 - self._lambda, gain, workers)
        slope = torch.as_tensor(self._slope[queries], dtype=distances.dtype, device=distances.device)
        return (
            distances.mul_(slope[:, None]).add_(1 - self._lambda).add_(torch.as_tensor(gain, device=distances.device))
        )


def neighbours(images: TensorFeatures, count: int) -> NeighbourTable:
    """The nearest images of each and the distance of the furthest; see `neighbours.Images.neighbours`.

    Candidates come from a blocked product in the precision of the features and are sorted by float64 distances.
    """
    total = len(images.values)
    length = min(count + SPARE_NEIGHBOURS, total)
    nearest, distances, furthest = [], [], []
    for rows in torch.arange(total, device=images.values.device).split(block_rows(total, images.values.itemsize)):
        block = squared_distances(images, rows, images)
        furthest.append(block.amax(dim=1))
        block[torch.arange(len(rows), device=rows.device), rows] = -torch.inf
        candidates = block.topk(length, dim=1, largest=False).indices.sort(dim=1).values
        exact = exact_distances(images, rows.repeat_interleave(length), candidates.reshape(-1)).reshape(-1, length)
        exact[candidates == rows[:, None]] = -1
        exact, order = exact.sort(dim=1, stable=True)
        nearest.append(candidates.gather(1, order))
        distances.append(exact.clamp(min=0))
    doubt = 2 * ROUNDING * torch.finfo(images.values.dtype).eps * (images.squared + images.squared.max())
    largest = torch.cat(furthest).double()
    return NeighbourTable(
        torch.cat(nearest).to(torch.int32).cpu().numpy(),
        torch.cat(distances).to(images.values.dtype).cpu().numpy(),
        torch.where(largest > doubt, largest, 0).cpu().numpy(),
    )


def exact_distances(images: TensorFeatures, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Squared distances of pairs of images, in float64."""
    parts = zip(first.split(PAIRS_AT_ONCE), second.split(PAIRS_AT_ONCE), strict=True)
    return torch.cat([(images.of(one) - images.of(other)).square().sum(dim=1) for one, other in parts])
