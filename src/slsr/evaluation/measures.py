"""Measures of a network from its query and gallery features, by the data set's protocol.

The stages `evaluate` and `floors` and the command `slsr transfer` share them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from slsr.images.tables import column_numpy, read_table
from slsr.params.evaluate import Evaluate
from slsr.retrieval import (
    Evaluation,
    Labels,
    SingleGalleryShot,
    both_directions,
    euclidean_distances,
    evaluate,
    evaluate_distances,
    headline,
    pool_queries,
    single_gallery_shot,
)
from slsr.retrieval.distances import DistanceRows, Features
from slsr.retrieval.reranking import rerank

CMC_DEPTH = 50

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Images:
    """The images of a table: encoded, with the name, identity and camera of each."""

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
    """Metrics, CMC curves and evaluations, each by the name of the ranking, for instance `single_query_rerank`."""

    metrics: dict[str, Any]
    curves: dict[str, NDArray[np.float64]]
    evaluations: Mapping[str, Evaluation | SingleGalleryShot]


def labels_of(query: Images, gallery: Images) -> Labels:
    """Gather identities and cameras of both sides."""
    return Labels(query.identities, gallery.identities, query.cameras, gallery.cameras)


def measure(
    query_features: Features,
    gallery_features: Features,
    labels: Labels,
    protocol: Mapping[str, Any],
    settings: Evaluate,
) -> Measured:
    """Measure the ranking without re-ranking, by the protocol that `prepare` wrote to facts.json."""
    if protocol["protocol"] == "single-gallery-shot":
        if protocol["directions"] == "both":
            found = both_directions(query_features, gallery_features, labels, depth=CMC_DEPTH)
        else:
            distances = euclidean_distances(query_features, gallery_features)
            found = SingleGalleryShot.of_queries(single_gallery_shot(distances, labels, depth=CMC_DEPTH), labels)
        return described({"single_gallery_shot": found}, settings)
    return described({"single_query": evaluate(query_features, gallery_features, labels)}, settings)


def described(evaluations: Mapping[str, Evaluation | SingleGalleryShot], settings: Evaluate) -> Measured:
    """Compute headline numbers with their intervals, and CMC curves, of evaluations."""
    seed, resamples = settings.bootstrap.seed, settings.bootstrap.resamples
    metrics = {
        name: headline(found, resamples=resamples, seed=seed) | {"queries_without_match": found.excluded}
        for name, found in evaluations.items()
    }
    return Measured(metrics, {name: found.cmc(CMC_DEPTH) for name, found in evaluations.items()}, evaluations)


def mark_unknown_cameras(measured: Measured, labels: Labels) -> None:
    """Write `cameras: unknown` beside the metrics of every ranking, if a camera is unknown."""
    if labels.cameras_unknown:
        for metrics in measured.metrics.values():
            metrics["cameras"] = "unknown"


@dataclass(frozen=True)
class Reranked:
    """Re-ranked distances, the gallery rows that they are computed for (junk may be dropped), and their labels."""

    distances: DistanceRows
    labels: Labels
    rows: NDArray[np.int64]


def reranked(query_features: Features, gallery_features: Features, labels: Labels, settings: Evaluate) -> Reranked:
    """Re-rank by `settings.rerank`; with fewer images than k1 neighbors, k1 is all others, and the log says so."""
    choice = settings.rerank
    rows = np.arange(labels.gallery) if choice.junk == "keep" else np.flatnonzero(labels.kept)
    others = labels.queries + len(rows) - 1
    if choice.k1 > others:
        log.warning("evaluate.rerank.k1 is %d, but an image has only %d others: these are used", choice.k1, others)
    k1, k2 = min(choice.k1, others), min(choice.k2, others)
    distances = rerank(query_features, gallery_features[rows], k1=k1, k2=k2, lambda_=choice.lambda_value)
    return Reranked(distances, labels.with_gallery(rows), rows)


def all_rankings(
    query_features: Features,
    gallery_features: Features,
    labels: Labels,
    single: Reranked,
    pooled: Features | None,
    settings: Evaluate,
) -> dict[str, Evaluation]:
    """Rank by single queries and, if there are pooled features, by multi-queries; both plain and re-ranked.

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
    """Pool the features of `images` into one multi-query feature per query."""
    pooled: Features = pool_queries(
        features, images.identities, images.cameras, query.identities, query.cameras, how=settings.multi_query
    )
    return pooled
