"""Features and neighbors of whole tables, computed once and cached on disk for the next start."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from slsr.embedding.encoder import LoadedEncoder
from slsr.embedding.pictures import open_picture
from slsr.errors import InputError
from slsr.explore.image_table import ImageTable, Rows
from slsr.files import read_npy, write_npy
from slsr.retrieval import Labels, evaluate
from slsr.retrieval.distances import Features
from slsr.retrieval.encoding import Parameters
from slsr.retrieval.neighbors import NeighborTable
from slsr.retrieval.one_query import find_neighbors

PROBED = 4
SAME = 0.9999
BATCH_SIZE = 64
UNREADABLE = -np.inf  # marks a row without a feature; no network gives it, since x / |x| is finite or NaN
READING = "upright"  # change this word when pictures are read in another way, so that old features are not used


def cached_features(
    cache: Path, encoder: LoadedEncoder, table: ImageTable, name: str, *, strict: bool = False
) -> Features:
    """Return the features of all images of a table, float32 [N, D], rows of length 1; from the cache if possible.

    The row of an image that does not decode is `UNREADABLE`, also in the cache; `unreadable_rows` finds such rows.

    The cache is a folder of .npy files named after the model's fingerprint and the table's sha256. Cached features are
    used only if the first images still give the same features, and images without a feature still do not decode:
    another version of the code may compute other features.

    Raises
    ------
    InputError
        An image does not decode, and `strict` is set; the message has its name.
    """
    path = cache / f"features-{_key(encoder.fingerprint, table.fingerprint, str(encoder.flip), READING)}.npy"
    kept = _kept(path)
    if kept is not None and kept.dtype == np.float32 and kept.shape == (len(table), encoder.dimension):
        problems = [problem_of(table, row) for row in unreadable_rows(kept).tolist()]
        if strict and problems and problems[0] is not None:
            raise problems[0]
        if None not in problems and _same_at_first(kept, encoder, table):
            return kept
    with tqdm(total=len(table), desc=f"{name}: features of {table.path.name}", unit="image", disable=None) as bar:
        features = _embedded(encoder, table, strict, bar.update)
    write_npy(path, features)
    return features


def _embedded(encoder: LoadedEncoder, table: ImageTable, strict: bool, tell: Callable[[int], object]) -> Features:
    """Compute the features of all images; `tell` is called with the number of images read since the last call."""

    def read() -> Iterable[tuple[str, bytes]]:
        for named in zip(table.names, table.iterate(), strict=True):
            tell(1)
            yield named

    features = np.full((len(table), encoder.dimension), UNREADABLE, np.float32)
    skip = None if strict else lambda error: None
    for rows, found in encoder.stream(read(), batch_size=BATCH_SIZE, unreadable=skip):
        features[rows] = found
    return features


def _same_at_first(kept: Features, encoder: LoadedEncoder, table: ImageTable) -> bool:
    """Whether the first images with a feature in the cache still have the same feature."""
    rows = np.setdiff1d(np.arange(len(kept)), unreadable_rows(kept))[:PROBED]
    try:
        first = encoder.embed([table.encoded(row) for row in rows.tolist()])
    except InputError:
        return False
    return bool(np.all(np.sum(first * kept[rows], axis=1) > SAME))


def unreadable_rows(features: Features) -> Rows:
    """Find the rows of `cached_features` whose image does not decode, ascending."""
    return np.flatnonzero(np.isneginf(features[:, 0]))


def problem_of(table: ImageTable, row: int) -> InputError | None:
    """Return why an image does not decode; None if it does."""
    try:
        open_picture(table.encoded(row), table.names[row])
    except InputError as error:
        return error
    return None


def cached_neighbors(
    cache: Path, query_features: Features, gallery_features: Features, say: Callable[[str], None]
) -> NeighborTable:
    """Return what re-ranking needs to know about all pairs of images; from the cache if possible."""
    parameters = Parameters()
    stem = f"neighbors-{_key(_content(query_features, gallery_features), repr(parameters))}"
    paths = [cache / f"{stem}-{part}.npy" for part in ("nearest", "distances", "furthest")]
    kept = [_kept(path) for path in paths]
    count = len(query_features) + len(gallery_features)
    if _fits(kept, count):
        return NeighborTable(*kept)  # type: ignore[arg-type]
    say(f"comparing {count:,} images with one another for re-ranking")
    table = find_neighbors(query_features, gallery_features, parameters)
    parts: tuple[NDArray[Any], ...] = (table.nearest, table.distances, table.furthest)
    for path, part in zip(paths, parts, strict=True):
        write_npy(path, part)
    return table


def _fits(parts: list[NDArray[Any] | None], count: int) -> bool:
    nearest, distances, furthest = parts
    if nearest is None or distances is None or furthest is None:
        return False
    return (
        nearest.ndim == 2
        and (len(nearest), nearest.dtype) == (count, np.dtype(np.int32))
        and distances.shape == nearest.shape
        and furthest.shape == (count,)
        and bool(((nearest >= 0) & (nearest < count)).all())
    )


def _kept(path: Path) -> NDArray[Any] | None:
    """Read an array of the cache; None if it is missing or damaged."""
    try:
        return read_npy(path)
    except InputError:
        return None


def _content(*arrays: NDArray[Any]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(array.tobytes())
    return digest.hexdigest()


def _key(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def cached_measures(
    cache: Path, query_features: Features, gallery_features: Features, labels: Labels, say: Callable[[str], None]
) -> NDArray[np.float64] | None:
    """Measure the rank of the first right match and the average precision (trapezoid) of every query, [Q, 2].

    Both are NaN for a query without a right match. The result is None if no query has a right match.
    """
    of_labels = [values for values in vars(labels).values() if isinstance(values, np.ndarray)]
    path = cache / f"measures-{_key(_content(query_features, gallery_features, *of_labels))}.npy"
    kept = _kept(path)
    if kept is not None and kept.shape == (len(query_features), 2):
        return kept
    if not len(labels.matches(np.arange(labels.queries))[0].indices):
        return None
    say(f"ranking the gallery for {labels.queries:,} queries")
    found = evaluate(query_features, gallery_features, labels)
    first = np.where(found.valid, found.first_rank, np.nan)
    measures = np.stack([first, found.average_precision_trapezoid], axis=1)
    write_npy(path, measures)
    return measures
