"""Queries to an index: the nearest images of each, re-ranked where asked for, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from slsr.errors import InputError
from slsr.retrieval import rerank
from slsr.retrieval.encoding import Parameters
from slsr.search.kinds import Features, Rows
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
        Re-ranked distance, by which a re-ranked list is sorted; None in a plain one.
    """

    row: int
    name: str
    score: float
    distance: float | None
    identity: int | None
    camera: int | None


def ranked_lists(
    index: Index, queries: Features, depth: int, *, reranked: bool = False, candidates: int = CANDIDATES
) -> list[list[Match]]:
    """The `depth` best images for each query, best first.

    Parameters
    ----------
    queries
        float32 [Q, D], of length 1, by the index's model.
    reranked
        Take the nearest `candidates` and sort them by k-reciprocal re-ranking among themselves and the query, each
        query by itself (`slsr.retrieval.rerank`: k1 20, k2 6, lambda 0.3; k1 is at most the number of candidates). What
        is not among the candidates can not come back.

    Raises
    ------
    InputError
        `depth` below 1 or, re-ranked, above `candidates`; queries of another shape.
    """
    if depth < 1:
        raise InputError(f"-k {depth}: at least one image is to be found")
    if reranked and candidates < depth:
        raise InputError(f"--candidates {candidates}: fewer than the {depth} images asked for; give at least as many")
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


def _rerank(query: Features, candidates: Features) -> tuple[Rows, Features]:
    """Order of the candidates by re-ranked distance, and those distances in that order."""
    k1 = min(PUBLISHED.k1, len(candidates))
    reranked = rerank(query[None], candidates, k1=k1, k2=min(PUBLISHED.k2, k1), lambda_=PUBLISHED.lambda_)
    distances = reranked.rows(np.array([0]))[0]
    order = np.argsort(distances, kind="stable")
    return order, distances[order]


def _matches(index: Index, scores: Features, rows: Rows, distances: Features | None) -> list[Match]:
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
    """Ranked lists as the JSON that `slsr search --json` writes."""
    return {
        "index": {
            "kind": index.kind,
            "images": len(index),
            "model": index.origin.fingerprint,
            "recall_at_10": index.recall.at_10,
        },
        "queries": [
            {
                "name": name,
                "matches": [
                    {"rank": rank, "name": match.name, "score": match.score}
                    | {
                        key: value
                        for key in ("distance", "identity", "camera")
                        if (value := getattr(match, key)) is not None
                    }
                    for rank, match in enumerate(matches, start=1)
                ],
            }
            for name, matches in zip(names, lists, strict=True)
        ],
    }


def render(names: Sequence[str], lists: Sequence[Sequence[Match]]) -> str:
    """Ranked lists for people to read."""
    parts = []
    for name, matches in zip(names, lists, strict=True):
        rows = [["", "rank", "score", *(["distance"] if _reranked(matches) else []), "identity", "camera", "image"]]
        rows += [
            [
                "",
                str(rank),
                f"{match.score:.4f}",
                *([] if match.distance is None else [f"{match.distance:.4f}"]),
                "-" if match.identity is None else str(match.identity),
                "-" if match.camera is None else str(match.camera),
                match.name,
            ]
            for rank, match in enumerate(matches, start=1)
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
        lines = [
            "  ".join([*(cell.rjust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]) for row in rows
        ]
        parts.append("\n".join([name, *lines]))
    return "\n\n".join(parts)


def _reranked(matches: Sequence[Match]) -> bool:
    return any(match.distance is not None for match in matches)
