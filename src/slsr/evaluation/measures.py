"""What `evaluate` and `floors` share: query and gallery features in, measures out, by the data set's protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from slsr.errors import InputError
from slsr.images.tables import column_numpy, read_table
from slsr.params.evaluate import Evaluate
from slsr.retrieval import (
    Evaluation,
    Labels,
    euclidean_distances,
    evaluate,
    evaluate_distances,
    headline,
    intervals,
    pool_queries,
    single_gallery_shot,
)
from slsr.retrieval.distances import DistanceRows
from slsr.retrieval.measures import CMC_RANKS
from slsr.retrieval.reranking import rerank

CMC_DEPTH = 50

Features = NDArray[np.float32]


@dataclass(frozen=True)
class Images:
    """The images of a table: encoded, with their names, and identity and camera of each."""

    encoded: list[bytes]
    names: list[str]
    identities: NDArray[np.int64]
    cameras: NDArray[np.int64]

    @classmethod
    def read(cls, path: Path) -> Images:
        """Read a labeled table."""
        table: pa.Table = read_table(path, ["image", "name", "identity", "camera"])
        encoded, names = (table.column(name).to_pylist() for name in ("image", "name"))
        identities, cameras = (column_numpy(table, name).astype(np.int64) for name in ("identity", "camera"))
        return cls(encoded, names, identities, cameras)


@dataclass(frozen=True)
class Measured:
    """Metrics by name, CMC curves by way of ranking, and the evaluations they come from (cross-camera protocol)."""

    metrics: dict[str, Any]
    curves: dict[str, NDArray[np.float64]]
    evaluations: dict[str, Evaluation]


def labels_of(query: Images, gallery: Images) -> Labels:
    """Identities and cameras of both sides."""
    return Labels(query.identities, gallery.identities, query.cameras, gallery.cameras)


def measure(
    query_features: Features,
    gallery_features: Features,
    labels: Labels,
    protocol: Mapping[str, Any],
    settings: Evaluate,
) -> Measured:
    """The plain ranking, by the protocol that `prepare` wrote into facts.json."""
    if protocol["protocol"] == "single-gallery-shot":
        return _single_gallery_shot(query_features, gallery_features, labels, protocol["directions"], settings)
    return described({"single_query": evaluate(query_features, gallery_features, labels)}, settings)


def described(evaluations: dict[str, Evaluation], settings: Evaluate) -> Measured:
    """Headline numbers with their intervals, and CMC curves, of evaluations."""
    seed, resamples = settings.bootstrap.seed, settings.bootstrap.resamples
    metrics = {
        name: headline(found, resamples=resamples, seed=seed) | {"queries_without_match": found.excluded}
        for name, found in evaluations.items()
    }
    return Measured(metrics, {name: found.cmc(CMC_DEPTH) for name, found in evaluations.items()}, evaluations)


@dataclass(frozen=True)
class Reranked:
    """Re-ranked distances, with the labels and the gallery rows that they are over (junk may be dropped)."""

    distances: DistanceRows
    labels: Labels
    rows: NDArray[np.int64]


def reranked(query_features: Features, gallery_features: Features, labels: Labels, settings: Evaluate) -> Reranked:
    """Re-rank by `settings.rerank`.

    Raises
    ------
    InputError
        There are fewer images than neighbors to look at.
    """
    choice = settings.rerank
    rows = np.arange(labels.gallery) if choice.junk == "keep" else np.flatnonzero(labels.kept)
    if choice.k1 >= labels.queries + len(rows):
        raise InputError(
            f"evaluate.rerank.k1: {choice.k1} neighbors of {labels.queries + len(rows)} images; choose a smaller k1"
        )
    distances = rerank(query_features, gallery_features[rows], k1=choice.k1, k2=choice.k2, lambda_=choice.lambda_value)
    return Reranked(distances, labels.with_gallery(rows), rows)


def all_rankings(
    query_features: Features,
    gallery_features: Features,
    labels: Labels,
    single: Reranked,
    pooled: Features | None,
    settings: Evaluate,
) -> dict[str, Evaluation]:
    """Single query and, if there are pooled features, multi-query; each plain and re-ranked.

    Parameters
    ----------
    single : the re-ranked distances of `query_features`
    """
    found = {
        "single_query": evaluate(query_features, gallery_features, labels),
        "single_query_rerank": evaluate_distances(single.distances, single.labels),
    }
    if pooled is not None:
        multiple = reranked(pooled, gallery_features, labels, settings)
        found["multi_query"] = evaluate(pooled, gallery_features, labels)
        found["multi_query_rerank"] = evaluate_distances(multiple.distances, multiple.labels)
    return found


def pooled_queries(features: Features, images: Images, query: Images, settings: Evaluate) -> Features:
    """Multi-query features, one a query."""
    pooled: Features = pool_queries(
        features, images.identities, images.cameras, query.identities, query.cameras, how=settings.multi_query
    )
    return pooled


def _single_gallery_shot(
    query_features: Features, gallery_features: Features, labels: Labels, directions: str, settings: Evaluate
) -> Measured:
    """The exact expectation over galleries of one image an identity; both directions count the same."""
    cameras = np.unique(labels.query_cameras) if directions == "both" else [None]
    values, curves = [], []
    for camera in cameras:
        query = np.flatnonzero(labels.query_cameras == camera) if camera is not None else np.arange(labels.queries)
        gallery = np.flatnonzero(labels.gallery_cameras != camera)
        some = Labels(
            labels.query_identities[query],
            labels.gallery_identities[gallery],
            labels.query_cameras[query],
            labels.gallery_cameras[gallery],
        )
        distances = euclidean_distances(query_features[query], gallery_features[gallery])
        found = single_gallery_shot(distances, some, depth=CMC_DEPTH)
        found = found[np.isfinite(found[:, 0])]
        values.append(found)
        curves.append(found.mean(axis=0))
    curve = np.mean(curves, axis=0)
    ranks = np.array(CMC_RANKS) - 1
    together = np.concatenate(values)[:, ranks]
    seed, resamples = settings.bootstrap.seed, settings.bootstrap.resamples
    ranges = intervals(together, resamples=resamples, seed=seed)
    metrics: dict[str, Any] = {"queries": len(together), "gallery": labels.gallery}
    for rank, low_high in zip(CMC_RANKS, ranges, strict=True):
        metrics[f"rank{rank}"] = float(curve[rank - 1])
        metrics[f"rank{rank}_ci95"] = [float(bound) for bound in low_high]
    return Measured({"single_gallery_shot": metrics}, {"single_gallery_shot": curve}, {})
