"""Kinds of FAISS index: how to choose one, build it, and search it.

Features have length 1 and are compared by their product, the cosine similarity.

- `flat` compares every feature with every query. It is exact.
- `hnsw` keeps every feature in memory and walks along a graph of neighbors (Malkov and Yashunin, 2018).
- `ivf-pq` sorts features into cells by the nearest of many centers, and keeps a short code of the difference to that
  center (Jegou, Douze and Schmid, 2011). The features stay on disk in half precision; a search compares the nearest
  images by code again by their features.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import faiss
import numpy as np
from faiss.contrib.exhaustive_search import knn_ground_truth
from numpy.typing import NDArray
from tqdm import tqdm

from slsr.errors import InputError

Kind = Literal["flat", "hnsw", "ivf-pq"]
KINDS: tuple[Kind, ...] = get_args(Kind)

FLAT_UP_TO = 100_000
ROWS_AT_ONCE = 16_384
LINKS = 32  # M of HNSW: links of a feature in each upper layer, twice as many in the lowest
CONSTRUCTION = 100  # efConstruction
EFFORTS = {"hnsw": (32, 64, 128, 256, 512, 1024), "ivf-pq": (8, 16, 32, 64, 128, 256, 512, 1024)}
TRAINED_ON = (30, 100)  # features per center, at least and at most
LARGEST_CODE = 128  # bytes
SHORTLIST = 300  # nearest images by code that are compared again
SAMPLE = 200  # gallery images that measure the recall
DEPTH = 10
LENGTH_TOLERANCE = 1e-3

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Recall:
    """How much of the exact answer an index finds.

    Attributes
    ----------
    at_10
        The share of the 10 nearest other images that a search finds, the mean over `sample` gallery images.
    effort
        How hard the index is searched: efSearch of HNSW, nprobe of IVF; 0 for a flat index.
    """

    at_10: float
    effort: int
    sample: int


def choose_kind(images: int, dimension: int, memory: int) -> Kind:
    """Choose flat up to 100,000 images; above that HNSW if it fits into memory, else IVF-PQ.

    Parameters
    ----------
    memory
        How many bytes the index may take when it is searched.
    """
    if images <= FLAT_UP_TO and index_bytes("flat", images, dimension) <= memory:
        return "flat"
    return "hnsw" if images > FLAT_UP_TO and index_bytes("hnsw", images, dimension) <= memory else "ivf-pq"


def index_bytes(kind: Kind, images: int, dimension: int) -> int:
    """Estimate how many bytes of memory an index of this many images takes."""
    if kind == "flat":
        return 4 * images * dimension
    if kind == "hnsw":
        return images * (4 * dimension + 4 * 2 * LINKS + 4 * LINKS // 8 + 8)
    cells = cell_count(images)
    return images * (code_bytes(dimension) + 8) + 4 * cells * dimension + 4 * 256 * dimension


def cell_count(images: int) -> int:
    """Return the power of two nearest to 4 sqrt(N), reduced until there are 30 features to learn each center from."""
    wanted = 2 ** round(math.log2(4 * math.sqrt(images)))
    return int(max(1, min(wanted, 65_536, images // TRAINED_ON[0])))


def code_bytes(dimension: int) -> int:
    """Return the bytes per code: one byte for 8 dimensions, at most 128, and a divisor of the dimension."""
    return max(size for size in range(1, min(LARGEST_CODE, max(1, dimension // 8)) + 1) if dimension % size == 0)


def create(kind: Kind, features: Any, memory: int, seed: int = 0) -> tuple[Any, dict[str, int]]:
    """Create an empty index, and train it on a sample of the features if its kind needs training.

    Parameters
    ----------
    features
        [N, D], possibly mapped from a file.
    memory
        Bytes; the training sample takes at most half of it.

    Returns
    -------
    The index and the parameters that it was made with.
    """
    images, dimension = features.shape
    if kind == "flat":
        return faiss.IndexFlatIP(dimension), {}
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(dimension, LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = CONSTRUCTION
        return index, {"links": LINKS, "construction": CONSTRUCTION}
    cells, code = cell_count(images), code_bytes(dimension)
    if images < 256:
        raise InputError(f"{images} images: an ivf-pq index learns its codes from at least 256 images; use --kind flat")
    affordable = max(TRAINED_ON[0] * max(cells, 256), memory // 2 // (4 * dimension))
    count = min(images, TRAINED_ON[1] * max(cells, 256), affordable)
    rows = np.sort(np.random.default_rng(seed).choice(images, count, replace=False))
    index = faiss.IndexIVFPQ(faiss.IndexFlatIP(dimension), dimension, cells, code, 8, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed = index.pq.cp.seed = seed + 1
    index.cp.min_points_per_centroid = index.pq.cp.min_points_per_centroid = 1  # no warnings for small galleries
    index.train(np.ascontiguousarray(features[rows]))
    return index, {"cells": cells, "code_bytes": code, "trained_on": count, "seed": seed}


def add(index: Any, features: Any, title: str = "index") -> None:
    """Add features to an index, one block at a time.

    Raises
    ------
    InputError
        A feature does not have length 1, or contains NaN or infinity.
    """
    with tqdm(total=len(features), desc=title, unit="image", leave=False, disable=None) as bar:
        for start, block in blocks(features):
            if len(wrong := wrong_lengths(block)):
                raise InputError(
                    f"the feature in row {start + wrong[0]} does not have length 1; write features with `slsr embed`"
                )
            index.add(block)
            bar.update(len(block))


def blocks(features: Any) -> Iterator[tuple[int, Floats]]:
    """Yield consecutive rows, float32 in memory, each block with the number of its first row."""
    for start in range(0, len(features), ROWS_AT_ONCE):
        yield start, np.ascontiguousarray(features[start : start + ROWS_AT_ONCE], np.float32)


def wrong_lengths(features: Floats) -> Rows:
    """Find the rows that do not have length 1, or contain NaN or infinity."""
    return np.flatnonzero(~(np.abs(np.linalg.norm(features, axis=1) - 1) < LENGTH_TOLERANCE))


def search(index: Any, kind: Kind, features: Any, queries: Floats, count: int, effort: int) -> tuple[Floats, Rows]:
    """Find the `count` nearest images of each query.

    Parameters
    ----------
    features
        [N, D]: what an IVF-PQ index compares its shortlist by; other kinds do not read it.

    Returns
    -------
    Scores and rows, both [Q, count], best first; row -1 if fewer were found.
    """
    queries = np.ascontiguousarray(queries, np.float32)
    if kind == "ivf-pq":
        near = min(max(SHORTLIST, 3 * count), index.ntotal)
        _, rows = index.search(queries, near, params=faiss.SearchParametersIVF(nprobe=min(effort, index.nlist)))
        return rescore(features, queries, rows, count)
    parameters = faiss.SearchParametersHNSW(efSearch=max(effort, count)) if kind == "hnsw" else None
    found: tuple[Floats, Rows] = index.search(queries, count, params=parameters)
    return found


def rescore(features: Any, queries: Floats, rows: Rows, count: int) -> tuple[Floats, Rows]:
    """Sort shortlists [Q, S] by the features [N, D] themselves and keep the `count` best; rows of -1 come last."""
    scores = np.full(rows.shape, -np.inf, np.float32)
    for query, shortlist in enumerate(rows):
        found = np.flatnonzero(shortlist >= 0)
        in_disk_order = found[np.argsort(shortlist[found])]
        scores[query, in_disk_order] = features[shortlist[in_disk_order]].astype(np.float32) @ queries[query]
    best = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(scores, best, 1), np.take_along_axis(rows, best, 1)


def search_exactly(features: Any, queries: Floats, count: int) -> tuple[Floats, Rows]:
    """Find the `count` nearest by comparing every feature, one block of them in memory at a time; as `search`."""
    in_memory = (block for _, block in blocks(features))
    found: tuple[Floats, Rows] = knn_ground_truth(queries, in_memory, count, faiss.METRIC_INNER_PRODUCT)
    return found


def measure_recall(index: Any, kind: Kind, features: Any, wanted: float, seed: int = 0) -> Recall:
    """Search for some gallery images among the others, and find the least effort that reaches a recall at 10.

    Parameters
    ----------
    features
        [N, D]: the features in the index, exact or in half precision.
    wanted
        The recall to reach; the effort is doubled until it is reached, or the largest effort is.
    """
    images = len(features)
    depth = min(DEPTH, images - 1)
    if kind == "flat" or depth < 1:
        return Recall(1.0, 0, 0)
    sample = np.sort(np.random.default_rng(seed).choice(images, min(SAMPLE, images), replace=False))
    queries = np.ascontiguousarray(features[sample], np.float32)
    exact, neighbors = search_exactly(features, queries, depth + 1)
    threshold = _without_self(exact, neighbors, sample)[:, depth - 1]
    found = Recall(0.0, 0, len(sample))
    for effort in EFFORTS[kind]:
        scores, rows = search(index, kind, features, queries, depth + 1, effort)
        near = _without_self(scores, rows, sample)[:, :depth] >= threshold[:, None] - 1e-6
        found = Recall(float(near.mean()), effort, len(sample))
        if found.at_10 >= wanted:
            break
    return found


def _without_self(scores: Floats, rows: Rows, own: Rows) -> Floats:
    """Return the scores of the other images, best first; a row that did not find itself loses its last one."""
    others = np.where(rows == own[:, None], -np.inf, scores)
    return -np.sort(-others, axis=1)[:, : scores.shape[1] - 1]
