"""Evaluate one trained network: CMC, average precision, re-ranking, multi-query, intervals, ranked lists."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from slsr.embedding.engine import extract_features
from slsr.evaluation.measures import (
    Images,
    Measured,
    Reranked,
    all_rankings,
    described,
    labels_of,
    mark_unknown_cameras,
    measure,
    pooled_queries,
    reranked,
)
from slsr.evaluation.per_query import write_per_query
from slsr.files import read_json, replaced_folder, write_bytes, write_json
from slsr.images.decoding import decode_resized
from slsr.models.encoder import Encoder, load_encoder
from slsr.params.evaluate import Evaluate, RankedList
from slsr.params.recipe import Recipe
from slsr.reporting.figures import RankedRow, draw_ranked_lists
from slsr.retrieval import euclidean_distances, top_matches
from slsr.retrieval.distances import Features
from slsr.runtime.devices import prepare_device
from slsr.runtime.processes import is_first
from slsr.stages.paths import EVALUATED, FACTS, GALLERY_TABLE, MULTI_QUERY_TABLE, QUERY_TABLE, TRAINED

log = logging.getLogger(__name__)

PICTURE_SIZE = (128, 64)
SUMMARY_RANKINGS = {"single_query": "", "single_gallery_shot": "", "single_query_rerank": "rerank_"}  # and prefixes


def run(train: Recipe, evaluate: Evaluate, regularizer: str) -> None:
    """Read a model and the tables query, gallery and multi_query; write `artifacts/evaluate/<regularizer>/`.

    It holds metrics.json, summary.json (the few numbers that `dvc exp show` lists), per_query.parquet (ranks of the
    right matches, average precisions; or expected matches for single-gallery-shot evaluation), cmc.csv, and pictures of
    ranked lists, plain and re-ranked.
    """
    encoder = load_encoder(TRAINED / regularizer / "model.safetensors")
    protocol = read_json(FACTS)["evaluation"]
    query, gallery = Images.read(QUERY_TABLE), Images.read(GALLERY_TABLE)
    labels = labels_of(query, gallery)
    device = prepare_device(train.precision, train.deterministic)
    query_features = _features(encoder, query, train, evaluate, device)
    gallery_features = _features(encoder, gallery, train, evaluate, device)
    pooled = _pooled(encoder, query, train, evaluate, device) if protocol["multi_query"] else None
    if not is_first():
        return
    single = reranked(query_features, gallery_features, labels, evaluate)
    if protocol["protocol"] == "cross-camera":
        rankings = all_rankings(query_features, gallery_features, labels, single, pooled, evaluate)
        measured = described(rankings, evaluate)
    else:
        measured = measure(query_features, gallery_features, labels, protocol, evaluate)
    mark_unknown_cameras(measured, labels)
    plain = Reranked(euclidean_distances(query_features, gallery_features), labels, np.arange(labels.gallery))
    with replaced_folder(EVALUATED / regularizer) as folder:
        write_json(folder / "metrics.json", measured.metrics)
        write_json(folder / "summary.json", {regularizer: summarize(measured.metrics)})
        rows = (query.names, query.identities, query.cameras)
        write_per_query(folder / "per_query.parquet", measured.evaluations, *rows)
        write_bytes(folder / "cmc.csv", _cmc_csv(measured).encode())
        for name, title, ranking in (
            ("ranked_lists", "ranked galleries", plain),
            ("ranked_lists_rerank", "re-ranked galleries (k-reciprocal)", single),
        ):
            lists = _ranked_lists(ranking, query, gallery, evaluate.ranked_list)
            draw_ranked_lists(folder / f"{name}.png", lists, f"{regularizer}: {title}")
    log.info("wrote %s: %s", EVALUATED / regularizer, _in_words(next(iter(measured.metrics.values()))))


def _features(encoder: Encoder, images: Images, train: Recipe, evaluate: Evaluate, device: torch.device) -> Features:
    return extract_features(
        encoder,
        images.encoded,
        images.names,
        device,
        flip=evaluate.flip,
        batch_size=evaluate.batch_size,
        precision=train.precision,
    )


def _pooled(encoder: Encoder, query: Images, train: Recipe, evaluate: Evaluate, device: torch.device) -> Features:
    images = Images.read(MULTI_QUERY_TABLE)
    return pooled_queries(_features(encoder, images, train, evaluate, device), images, query, evaluate)


def summarize(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return the numbers by which experiments are compared, from the content of metrics.json.

    They are rank-1 and mAP of a single query, plain and re-ranked, as shares; or rank-1 of single gallery shots.
    """
    return {
        f"{prefix}{key}": metrics[ranking][key]
        for ranking, prefix in SUMMARY_RANKINGS.items()
        for key in ("rank1", "map_trapezoid")
        if key in metrics.get(ranking, {})
    }


def _in_words(metrics: Mapping[str, Any]) -> str:
    precision = f", mAP {metrics['map_trapezoid']:.3f}" if "map_trapezoid" in metrics else ""
    counts = f"{metrics['queries']} queries of {metrics['people']} people, {metrics['gallery']} images in the gallery"
    mark = "; cameras unknown, so these are too high" if "cameras" in metrics else ""
    return f"rank-1 {metrics['rank1']:.3f}{precision} over {counts}{mark}"


def _cmc_csv(measured: Measured) -> str:
    curves = measured.curves
    lines = [",".join(["rank", *curves])]
    for rank, shares in enumerate(zip(*curves.values(), strict=True), start=1):
        lines.append(",".join([str(rank), *(f"{share:.6f}" for share in shares)]))
    return "\n".join(lines) + "\n"


def _ranked_lists(ranking: Reranked, query: Images, gallery: Images, shown: RankedList) -> list[RankedRow]:
    """Collect the first matches of some queries, spread evenly over the query set."""
    count = len(query.names)
    queries = np.unique(np.linspace(0, count - 1, min(shown.queries, count)).astype(int))
    found = top_matches(ranking.distances, ranking.labels, queries.tolist(), shown.depth)
    return [
        _ranked_row(query, gallery, int(number), ranking.rows[indices[indices >= 0]], right[indices >= 0])
        for number, indices, right in zip(queries, found.indices, found.right, strict=True)
    ]


def _ranked_row(
    query: Images, gallery: Images, number: int, ranked: NDArray[np.int64], right: NDArray[np.bool_]
) -> RankedRow:
    return RankedRow(
        f"identity {query.identities[number]}\ncamera {query.cameras[number]}",
        decode_resized([query.encoded[number]], *PICTURE_SIZE)[0],
        decode_resized([gallery.encoded[row] for row in ranked], *PICTURE_SIZE),
        right,
    )
