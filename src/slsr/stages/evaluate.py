"""Evaluate one trained network: CMC, average precision, re-ranking, multi-query, intervals, ranked lists."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from slsr.figures import RankedRow, draw_ranked_lists
from slsr.files import read_json, replaced_folder, write_bytes, write_json
from slsr.images.decoding import decode_resized
from slsr.models.encoder import Encoder, load_encoder
from slsr.params import Params, Regularizer
from slsr.records import table_writer
from slsr.retrieval import Evaluation, euclidean_distances, top_matches
from slsr.stages.measures import (
    Features,
    Images,
    Measured,
    all_rankings,
    described,
    labels_of,
    measure,
    pooled_queries,
    reranked_distances,
)
from slsr.stages.paths import EVALUATED, FACTS, GALLERY_TABLE, MULTI_QUERY_TABLE, QUERY_TABLE, TRAINED
from slsr.training.features import extract_features
from slsr.training.launch import prepare_device
from slsr.training.processes import is_first

log = logging.getLogger(__name__)

PICTURE_SIZE = (128, 64)
PER_QUERY = pa.schema(
    [
        ("ranking", pa.string()),
        ("name", pa.string()),
        ("identity", pa.int32()),
        ("camera", pa.int16()),
        ("ranks", pa.list_(pa.int32())),
        ("average_precision_trapezoid", pa.float64()),
        ("average_precision_standard", pa.float64()),
        ("inverse_negative_penalty", pa.float64()),
    ]
)


def run(params: Params, regularizer: Regularizer) -> None:
    """Read a model, query, gallery and multi_query, write `artifacts/evaluate/<regularizer>/`.

    metrics.json, per_query.parquet (ranks of the right matches, average precisions), cmc.csv, and the pictures of
    ranked lists, plain and re-ranked.
    """
    encoder = load_encoder(TRAINED / regularizer / "model.safetensors")
    protocol = read_json(FACTS)["evaluation"]
    query, gallery = Images.read(QUERY_TABLE), Images.read(GALLERY_TABLE)
    labels = labels_of(query, gallery)
    device = prepare_device(params.train.precision, params.train.deterministic)
    query_features, gallery_features = (_features(encoder, images, params, device) for images in (query, gallery))
    pooled = _pooled(encoder, query, params, device) if protocol["multi_query"] else None
    if not is_first():
        return
    if protocol["protocol"] == "cross-camera":
        rankings = all_rankings(query_features, gallery_features, labels, pooled, params.evaluate)
        measured = described(rankings, params.evaluate)
    else:
        measured = measure(query_features, gallery_features, labels, protocol, params.evaluate)
    with replaced_folder(EVALUATED / regularizer) as folder:
        write_json(folder / "metrics.json", measured.metrics)
        _write_per_query(folder / "per_query.parquet", measured.evaluations, query)
        write_bytes(folder / "cmc.csv", _cmc_csv(measured).encode())
        _draw_lists(folder, regularizer, query, gallery, query_features, gallery_features, params)
    first = next(iter(measured.metrics.values()))
    log.info(
        "wrote %s: rank-1 %.3f%s over %d queries, %d images in the gallery",
        EVALUATED / regularizer,
        first["rank1"],
        f", mAP {first['map_trapezoid']:.3f}" if "map_trapezoid" in first else "",
        first["queries"],
        first["gallery"],
    )


def _features(encoder: Encoder, images: Images, params: Params, device: torch.device) -> Features:
    return extract_features(
        encoder,
        images.encoded,
        encoder.description.image,
        device,
        names=images.names,
        flip=params.evaluate.flip,
        batch_size=params.evaluate.batch_size,
        precision=params.train.precision,
    )


def _pooled(encoder: Encoder, query: Images, params: Params, device: torch.device) -> Features:
    images = Images.read(MULTI_QUERY_TABLE)
    return pooled_queries(_features(encoder, images, params, device), images, query, params.evaluate)


def _write_per_query(path: Path, evaluations: dict[str, Evaluation], query: Images) -> None:
    with table_writer(path, PER_QUERY) as table:
        for ranking, found in evaluations.items():
            for row, name in enumerate(query.names):
                valid = bool(found.valid[row])
                table.append(
                    {
                        "ranking": ranking,
                        "name": name,
                        "identity": int(query.identities[row]),
                        "camera": int(query.cameras[row]),
                        "ranks": found.ranks_of(row).tolist(),
                        "average_precision_trapezoid": float(found.average_precision_trapezoid[row]) if valid else None,
                        "average_precision_standard": float(found.average_precision_standard[row]) if valid else None,
                        "inverse_negative_penalty": float(found.inverse_negative_penalty[row]) if valid else None,
                    }
                )


def _cmc_csv(measured: Measured) -> str:
    curves = measured.curves
    lines = [",".join(["rank", *curves])]
    for rank, shares in enumerate(zip(*curves.values(), strict=True), start=1):
        lines.append(",".join([str(rank), *(f"{share:.6f}" for share in shares)]))
    return "\n".join(lines) + "\n"


def _draw_lists(
    folder: Path,
    regularizer: Regularizer,
    query: Images,
    gallery: Images,
    query_features: Features,
    gallery_features: Features,
    params: Params,
) -> None:
    """The same queries, spread over the query set, with their galleries ranked plainly and re-ranked."""
    labels = labels_of(query, gallery)
    shown = params.evaluate.ranked_list
    queries = np.unique(np.linspace(0, len(query.names) - 1, min(shown.queries, len(query.names))).astype(int))
    plain = euclidean_distances(query_features, gallery_features)
    reranked, over, rows = reranked_distances(query_features, gallery_features, labels, params.evaluate)
    for name, title, distances, among, kept in (
        ("ranked_lists", "ranked galleries", plain, labels, np.arange(labels.gallery)),
        ("ranked_lists_rerank", "re-ranked galleries (k-reciprocal)", reranked, over, rows),
    ):
        found = top_matches(distances, among, queries.tolist(), shown.depth)
        lists = [
            _ranked_row(query, gallery, int(number), kept[indices[indices >= 0]], right[indices >= 0])
            for number, indices, right in zip(queries, found.indices, found.right, strict=True)
        ]
        draw_ranked_lists(folder / f"{name}.png", lists, f"{regularizer}: {title}")


def _ranked_row(
    query: Images, gallery: Images, number: int, ranked: NDArray[np.int64], right: NDArray[np.bool_]
) -> RankedRow:
    return RankedRow(
        f"identity {query.identities[number]}\ncamera {query.cameras[number]}",
        decode_resized([query.encoded[number]], *PICTURE_SIZE)[0],
        decode_resized([gallery.encoded[row] for row in ranked], *PICTURE_SIZE),
        right,
    )
