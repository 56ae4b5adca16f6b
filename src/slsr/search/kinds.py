"""Kinds of FAISS index: which one suits a gallery, how it is built, how hard it must be searched.

Features have length 1 and are compared by their product, the cosine similarity.

- `flat`: every feature, compared with every query. Exact.
- `hnsw`: every feature in memory, with a graph of neighbors that a search walks along (Malkov and Yashunin, 2018).
- `ivf-pq`: features sorted into cells by the nearest of many centers, and kept as a short code of their difference to
  it (Jegou, Douze and Schmid, 2011). The nearest by code are compared again by the features themselves, which stay on
  the disk in half precision.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import faiss
import numpy as np
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
TRAINED_ON = (30, 100)  # features a center, at least and at most
LARGEST_CODE = 128  # bytes
SHORTLIST = 300  # nearest by code that are compared again
SAMPLE = 200  # gallery images that the recall is measured with
DEPTH = 10

Features = NDArray[np.float32]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Recall:
    """How much of the exact answer an index finds.

    Attributes
    ----------
    at_10
        Of the 10 nearest others of a gallery image, the share found, mean over `sample` images.
    effort
        What was searched with: HNSW's efSearch, IVF's nprobe; 0 for a flat index.
    """

    at_10: float
    effort: int
    sample: int


def choose_kind(images: int, dimension: int, memory: int) -> Kind:
    """Flat up to 100,000 images; above, HNSW where it fits the memory, else IVF-PQ.

    Parameters
    ----------
    memory
        Bytes that the searchable index may take.
    """
    if images <= FLAT_UP_TO and index_bytes("flat", images, dimension) <= memory:
        return "flat"
    return "hnsw" if images > FLAT_UP_TO and index_bytes("hnsw", images, dimension) <= memory else "ivf-pq"


def index_bytes(kind: Kind, images: int, dimension: int) -> int:
    """About how many bytes of memory an index of so many images takes."""
    if kind == "flat":
        return 4 * images * dimension
    if kind == "hnsw":
        return images * (4 * dimension + 4 * 2 * LINKS + 4 * LINKS // 8 + 8)
    cells = cell_count(images)
    return images * (code_bytes(dimension) + 8) + 4 * cells * dimension + 4 * 256 * dimension


def cell_count(images: int) -> int:
    """The power of two nearest to 4 sqrt(N), but few enough that each center has features to be learned from."""
    wanted = 2 ** round(math.log2(4 * math.sqrt(images)))
    return int(max(1, min(wanted, 65_536, images // TRAINED_ON[0])))


def code_bytes(dimension: int) -> int:
    """Bytes of a product quantizer's code: a byte for 8 dimensions, at most 128; it divides the dimension."""
    return max(size for size in range(1, min(LARGEST_CODE, max(1, dimension // 8)) + 1) if dimension % size == 0)


def create(kind: Kind, features: Any, memory: int, seed: int = 0) -> tuple[Any, dict[str, int]]:
    """An empty index of the kind, trained on a sample of the features where it has to be, and its parameters.

    Parameters
    ----------
    features
        [N, D], possibly mapped from a file.
    memory
        Bytes; half of it bounds the training sample.
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
        raise InputError(f"{images} images: an ivf-pq index learns its codes from at least 256; use flat")
    affordable = max(TRAINED_ON[0] * max(cells, 256), memory // 2 // (4 * dimension))
    count = min(images, TRAINED_ON[1] * max(cells, 256), affordable)
    rows = np.sort(np.random.default_rng(seed).choice(images, count, replace=False))
    index = faiss.IndexIVFPQ(faiss.IndexFlatIP(dimension), dimension, cells, code, 8, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed = index.pq.cp.seed = seed + 1
    index.cp.min_points_per_centroid = index.pq.cp.min_points_per_centroid = 1  # for little galleries, unasked advice
    index.train(np.ascontiguousarray(features[rows]))
    return index, {"cells": cells, "code_bytes": code, "trained_on": count, "seed": seed}


def add(index: Any, features: Any, title: str = "index") -> None:
    """Add features a block at a time.

    Raises
    ------
    InputError
        Features that are not finite, or not of length 1.
    """
    with tqdm(total=len(features), desc=title, unit="image", leave=False, disable=None) as bar:
        for start, block in blocks(features):
            lengths = np.linalg.norm(block, axis=1)
            if odd := np.flatnonzero(~(np.abs(lengths - 1) < 1e-3)).tolist():
                raise InputError(f"feature of row {start + odd[0]} has no length of 1; write it with `slsr embed`")
            index.add(block)
            bar.update(len(block))


def blocks(features: Any) -> Iterator[tuple[int, Features]]:
    """Consecutive rows in memory, float32, with the number of the first."""
    for start in range(0, len(features), ROWS_AT_ONCE):
        yield start, np.ascontiguousarray(features[start : start + ROWS_AT_ONCE], np.float32)


def search(index: Any, kind: Kind, queries: Features, count: int, effort: int) -> tuple[Features, Rows]:
    """The `count` nearest by the index, best first: scores and rows, both [Q, count]; row -1 where there are fewer."""
    parameters = None
    if kind == "hnsw":
        parameters = faiss.SearchParametersHNSW(efSearch=max(effort, count))
    elif kind == "ivf-pq":
        parameters = faiss.SearchParametersIVF(nprobe=min(effort, index.nlist))
    scores, rows = index.search(np.ascontiguousarray(queries, np.float32), count, params=parameters)
    return scores, rows


def rescore(features: Any, queries: Features, rows: Rows, count: int) -> tuple[Features, Rows]:
    """Order shortlists [Q, S] by the features [N, D] themselves and keep the `count` best; -1 stays behind."""
    scores = np.full(rows.shape, -np.inf, np.float32)
    for query, shortlist in enumerate(rows):
        there = np.flatnonzero(shortlist >= 0)
        near_on_disk = there[np.argsort(shortlist[there])]
        scores[query, near_on_disk] = features[shortlist[near_on_disk]].astype(np.float32) @ queries[query]
    best = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(scores, best, 1), np.take_along_axis(rows, best, 1)


def search_exactly(features: Any, queries: Features, count: int) -> tuple[Features, Rows]:
    """The `count` nearest by comparing everything, a block of the gallery at a time; as `search`."""
    scores = np.full((len(queries), count), -np.inf, np.float32)
    rows = np.full((len(queries), count), -1, np.int64)
    for start, block in blocks(features):
        found = queries @ block.T
        together = np.concatenate([scores, found], axis=1)
        numbers = np.broadcast_to(np.arange(start, start + len(block)), found.shape)
        best = np.argsort(-together, axis=1, kind="stable")[:, :count]
        rows = np.take_along_axis(np.concatenate([rows, numbers], axis=1), best, 1)
        scores = np.take_along_axis(together, best, 1)
    return scores, rows


def measure_recall(index: Any, kind: Kind, features: Any, wanted: float, seed: int = 0) -> Recall:
    """Recall at 10 on gallery images that are searched for among the others, with the least effort that reaches it.

    Parameters
    ----------
    features
        [N, D]: what the index holds, exactly or in half precision.
    wanted
        The effort is doubled until this recall is reached, or the largest is.
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
        scores, rows = search_kind(index, kind, features, queries, depth + 1, effort)
        near = _without_self(scores, rows, sample)[:, :depth] >= threshold[:, None] - 1e-6
        found = Recall(float(near.mean()), effort, len(sample))
        if found.at_10 >= wanted:
            break
    return found


def search_kind(
    index: Any, kind: Kind, features: Any, queries: Features, count: int, effort: int
) -> tuple[Features, Rows]:
    """Search an index as a whole, with the comparison of features behind an IVF-PQ index; as `search`."""
    if kind != "ivf-pq":
        return search(index, kind, queries, count, effort)
    _, rows = search(index, kind, queries, min(max(SHORTLIST, 3 * count), index.ntotal), effort)
    return rescore(features, queries, rows, count)


def _without_self(scores: Features, rows: Rows, own: Rows) -> Features:
    """Scores of the others, best first; a row that did not find itself loses its last."""
    others = np.where(rows == own[:, None], -np.inf, scores)
    return -np.sort(-others, axis=1)[:, : scores.shape[1] - 1]
