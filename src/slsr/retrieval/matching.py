"""Right matches of a query: identities, cameras, junk."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from slsr.errors import InputError

JUNK = -1
UNKNOWN_CAMERA = -1

Integers = NDArray[np.int64]


class Ragged(NamedTuple):
    """A list of gallery indices for each query; the list of query `i` is `indices[offsets[i]:offsets[i + 1]]`."""

    offsets: Integers
    indices: Integers

    @classmethod
    def of(cls, owners: Integers, indices: Integers, count: int) -> Ragged:
        """Make the lists of `count` owners from pairs (owner, index) that are sorted by owner."""
        return cls(offsets_of(np.bincount(owners, minlength=count)), indices)


@dataclass(frozen=True, eq=False)
class Labels:
    """Identity and camera of every query and gallery image.

    They define the protocol, which is the one of Market-1501 and of every data set with its layout. Gallery images of
    identity -1 (junk) are removed, and for each query the gallery images with its identity *and* its camera. A gallery
    image with the query's identity from another camera is a right match. Every other image is a wrong match, also a
    distractor (identity 0 in Market-1501). Camera -1 is unknown: it differs from every camera, also from another -1.

    Parameters
    ----------
    query_identities, gallery_identities, query_cameras, gallery_cameras
        Integers, [Q], [G], [Q] and [G].

    Raises
    ------
    InputError
        An array is not one-dimensional or not of integers, a side is empty, or its identities
        and cameras differ in number.
    """

    query_identities: Integers
    gallery_identities: Integers
    query_cameras: Integers
    gallery_cameras: Integers

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, as_integers(field.name, getattr(self, field.name)))
        for side in ("query", "gallery"):
            identities, cameras = getattr(self, f"{side}_identities"), getattr(self, f"{side}_cameras")
            if len(identities) != len(cameras):
                raise InputError(
                    f"{side}_identities holds {len(identities)} images and {side}_cameras {len(cameras)}; "
                    "both need one number per image"
                )
            if not len(identities):
                raise InputError(f"{side}_identities is empty; an evaluation needs at least one {side} image")

    @property
    def queries(self) -> int:
        """Q, the number of queries."""
        return len(self.query_identities)

    @property
    def gallery(self) -> int:
        """G, the number of gallery images, junk included."""
        return len(self.gallery_identities)

    @cached_property
    def kept(self) -> NDArray[np.bool_]:
        """Say for each gallery image whether it is not junk, [G]."""
        return np.asarray(self.gallery_identities != JUNK)

    @property
    def cameras_unknown(self) -> bool:
        """Whether the camera of a query or gallery image is unknown."""
        return bool((self.query_cameras == UNKNOWN_CAMERA).any() or (self.gallery_cameras == UNKNOWN_CAMERA).any())

    def with_gallery(self, rows: NDArray[Any]) -> Labels:
        """Keep the gallery images `rows` (indices or a mask) alone."""
        return Labels(
            self.query_identities, self.gallery_identities[rows], self.query_cameras, self.gallery_cameras[rows]
        )

    @cached_property
    def _by_identity(self) -> tuple[Integers, Integers]:
        order = np.argsort(self.gallery_identities, kind="stable")
        order = order[self.kept[order]]
        return order, self.gallery_identities[order]

    def matches(self, queries: NDArray[np.int64]) -> tuple[Ragged, Ragged]:
        """Find the right matches of these queries, and the gallery images that are removed for each, without junk.

        The indices in a list ascend.
        """
        order, identities = self._by_identity
        wanted = self.query_identities[queries]
        first = np.searchsorted(identities, wanted, side="left")
        count = np.searchsorted(identities, wanted, side="right") - first
        owner = np.repeat(np.arange(len(queries)), count)
        within = np.arange(len(owner)) - np.repeat(offsets_of(count)[:-1], count)
        image = order[np.repeat(first, count) + within]
        cameras = self.gallery_cameras[image]
        right = (cameras != self.query_cameras[queries][owner]) | (cameras == UNKNOWN_CAMERA)
        return (
            Ragged.of(owner[right], image[right], len(queries)),
            Ragged.of(owner[~right], image[~right], len(queries)),
        )


def offsets_of(counts: NDArray[Any]) -> Integers:
    """Say where consecutive lists of these lengths start, and where the last one ends: [len(counts) + 1]."""
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def as_integers(name: str, values: ArrayLike) -> Integers:
    """Read one integer per image; InputError otherwise."""
    array = np.asarray(values)
    if array.ndim != 1:
        raise InputError(f"{name} has shape {list(array.shape)}; it must be one-dimensional, one number per image")
    if array.dtype.kind not in "iu":
        raise InputError(f"{name} is of type {array.dtype}; it must hold integers")
    if array.dtype == np.uint64 and len(array) and array.max() > np.iinfo(np.int64).max:
        raise InputError(f"{name} holds {array.max()}, too large for a 64-bit signed integer; number them smaller")
    return np.ascontiguousarray(array, dtype=np.int64)
