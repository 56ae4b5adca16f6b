"""Ranked lists: the nearest images of each query, re-ranked if wanted, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from slsr.errors import InputError
from slsr.retrieval import rerank
from slsr.retrieval.encoding import Parameters
from slsr.search.kinds import Floats, Rows
from slsr.search.store import Index

PUBLISHED = Parameters()
CANDIDATES = 100


@dataclass(frozen=True)
class Match:
    """One image of a ranked list.

    Attributes
    ----------
    score
        Cosine similarity to the query.
    distance
        Re-ranked distance, which a re-ranked list is sorted by; None in a plain list.
    """

    row: int
    name: str
    score: float
    distance: float | None
    identity: int | None
    camera: int | None


def ranked_lists(
    index: Index, queries: Floats, depth: int, *, reranked: bool = False, candidates: int = CANDIDATES
) -> list[list[Match]]:
    """Find the `depth` best images for each query, best first.

    Parameters
    ----------
    queries
        float32 [Q, D], of length 1, by the index's model.
    reranked
        Take the nearest `candidates` and sort them by k-reciprocal re-ranking among themselves and the query, each
        query alone (`slsr.retrieval.rerank`: k1 20, k2 6, lambda 0.3; k1 is at most the number of candidates). An
        image that is not a candidate cannot be in the list.

    Raises
    ------
    InputError
        `depth` is below 1, or above `candidates` if re-ranked; or the queries have another shape.
    """
    check_depth(depth, candidates if reranked else None)
    scores, rows = index.search(queries, max(depth, candidates) if reranked else depth)
    lists = []
    for query, near, found in zip(queries, scores, rows, strict=True):
        there = found >= 0
        near, found = near[there], found[there]
        distances = None
        if reranked:
            order, distances = _rerank(query, index.features[found])
            near, found = near[order], found[order]
        lists.append(_matches(index, near[:depth], found[:depth], distances))
    return lists


def check_depth(depth: int, candidates: int | None) -> None:
    """Refuse a `depth` below 1, or above the number of candidates that are re-ranked; None: nothing is re-ranked."""
    if depth < 1:
        raise InputError(f"-k {depth}: give at least 1")
    if candidates is not None and candidates < depth:
        raise InputError(f"--candidates {candidates}: fewer than the {depth} images of -k; give at least as many")


def _rerank(query: Floats, candidates: Floats) -> tuple[Rows, Floats]:
    """Sort the candidates by re-ranked distance; return their order and the sorted distances."""
    k1 = min(PUBLISHED.k1, len(candidates))
    reranked = rerank(query[None], candidates, k1=k1, k2=min(PUBLISHED.k2, k1), lambda_=PUBLISHED.lambda_)
    distances = reranked.rows(np.array([0]))[0]
    order = np.argsort(distances, kind="stable")
    return order, distances[order]


def _matches(index: Index, scores: Floats, rows: Rows, distances: Floats | None) -> list[Match]:
    table = index.names.take(rows).to_pylist()
    return [
        Match(
            int(row),
            known["name"],
            float(score),
            None if distances is None else float(distances[place]),
            known["identity"],
            known["camera"],
        )
        for place, (row, score, known) in enumerate(zip(rows, scores, table, strict=True))
    ]


def as_json(index: Index, names: Sequence[str], lists: Sequence[Sequence[Match]]) -> dict[str, Any]:
    """Make the JSON that `slsr search --json` writes."""
    return {
        "index": {
            "kind": index.kind,
            "images": len(index),
            "model": index.origin.fingerprint,
            "recall_at_10": index.recall.at_10,
        },
        "queries": [
            {"name": name, "matches": [_as_json(rank, match) for rank, match in enumerate(matches, start=1)]}
            for name, matches in zip(names, lists, strict=True)
        ],
    }


def _as_json(rank: int, match: Match) -> dict[str, Any]:
    known = {key: getattr(match, key) for key in ("distance", "identity", "camera")}
    found = {key: value for key, value in known.items() if value is not None}
    return {"rank": rank, "name": match.name, "score": match.score} | found


def render(names: Sequence[str], lists: Sequence[Sequence[Match]]) -> str:
    """Make a table of ranked lists for people to read."""
    return "\n\n".join(f"{name}\n{_table(matches)}" for name, matches in zip(names, lists, strict=True))


def _table(matches: Sequence[Match]) -> str:
    reranked = any(match.distance is not None for match in matches)
    rows = [["", "rank", "score", *(["distance"] if reranked else []), "identity", "camera", "image"]]
    for rank, match in enumerate(matches, start=1):
        distance = [] if match.distance is None else [f"{match.distance:.4f}"]
        labels = ["-" if label is None else str(label) for label in (match.identity, match.camera)]
        rows.append(["", str(rank), f"{match.score:.4f}", *distance, *labels, match.name])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    return "\n".join(
        "  ".join([*(cell.rjust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]) for row in rows
    )
