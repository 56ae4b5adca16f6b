"""Measures of features or distances that any other tool computed, for `slsr score`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from slsr.datasets.collection import Directions, ProtocolName
from slsr.embedding.npz import array_names, read_arrays
from slsr.embedding.protocol import DataProtocol, chosen_protocol
from slsr.errors import InputError
from slsr.evaluation.measures import CMC_DEPTH, gallery_shot_measures
from slsr.evaluation.per_query import PER_QUERY, write_per_query
from slsr.files import write_json
from slsr.params.evaluate import Bootstrap
from slsr.retrieval.bootstrap import RESAMPLES, headline
from slsr.retrieval.distances import euclidean_distances
from slsr.retrieval.matching import Labels
from slsr.retrieval.measures import Evaluation
from slsr.retrieval.protocols import both_directions, both_directions_of_distances, single_gallery_shot
from slsr.retrieval.ranking import check_fit, evaluate, evaluate_distances
from slsr.retrieval.reranking import evaluate_reranked

FEATURES = ("query_features", "gallery_features")
DISTANCES = "distances"
LABELS = ("query_identities", "gallery_identities", "query_cameras", "gallery_cameras")
PLAIN, RERANKED = "single_query", "single_query_rerank"  # the names of rankings, as `evaluate` writes them
TITLES = {PLAIN: "plain", RERANKED: "rerank", "single_gallery_shot": "plain"}
WIDE = pa.schema([*list(PER_QUERY)[:2], ("identity", pa.int64()), ("camera", pa.int64()), *list(PER_QUERY)[4:]])

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Scores:
    """The measures of one file.

    Attributes
    ----------
    protocol
        By which the file was evaluated.
    metrics
        The headline numbers: of `single_query`, and of `single_query_rerank` if it was asked for; or of
        `single_gallery_shot`.
    evaluations
        By the same names; empty for single-gallery-shot, which has no single ranks.
    """

    labels: Labels
    protocol: DataProtocol
    metrics: Mapping[str, Mapping[str, Any]]
    evaluations: Mapping[str, Evaluation]


@dataclass(frozen=True, eq=False)
class ScoredArrays:
    """Features of queries [Q, D] and gallery [G, D], or their distances [Q, G]."""

    features: tuple[NDArray[Any], NDArray[Any]] | None
    distances: NDArray[Any] | None
    labels: Labels
    normalize: bool

    def evaluate(self) -> Evaluation:
        """Evaluate by the cross-camera protocol."""
        if self.features is None:
            return evaluate_distances(self.distances, self.labels)
        return evaluate(*self.features, self.labels, normalize=self.normalize)

    def gallery_shots(self, directions: Directions) -> list[NDArray[np.float64]]:
        """Compute the CMC of every query if the gallery has one image per identity, by direction."""
        if directions == "both":
            if self.features is None:
                return both_directions_of_distances(self.distances, self.labels, depth=CMC_DEPTH)
            return both_directions(*self.features, self.labels, depth=CMC_DEPTH, normalize=self.normalize)
        distances = self.distances
        if self.features is not None:
            distances = euclidean_distances(*self.features, normalize=self.normalize)
        return [single_gallery_shot(distances, self.labels, depth=CMC_DEPTH)]


def score(
    path: Path,
    *,
    rerank: bool = False,
    normalize: bool = True,
    protocol: ProtocolName | None = None,
    directions: Directions | None = None,
) -> Scores:
    """Evaluate the features or the distances of an .npz file.

    Parameters
    ----------
    path
        Holds `query_features` [Q, D] and `gallery_features` [G, D] (float16, float32 or float64), or `distances`
        [Q, G]; and the integers `query_identities`, `query_cameras` [Q], `gallery_identities`, `gallery_cameras` [G].
        It may hold `protocol` and `directions`; other arrays are not read.
    rerank
        Evaluate the re-ranked distances too.
    normalize
        Scale every feature to length 1 first.
    protocol, directions
        By which the file is evaluated, if it does not say so itself; cross-camera if nothing does.

    Raises
    ------
    InputError
        The file cannot be scored as asked; the message is one line that begins with its name.
    """
    chosen, known = chosen_protocol(path, protocol, directions)
    try:
        arrays = _read(path, rerank, normalize)
        if chosen.evaluation.protocol == "single-gallery-shot":
            if rerank:
                raise InputError("--rerank: single-gallery-shot is evaluated without re-ranking; leave it out")
            found = arrays.gallery_shots(chosen.evaluation.directions)
            metrics = gallery_shot_measures(found, arrays.labels, Bootstrap(resamples=RESAMPLES, seed=0)).metrics
            return Scores(arrays.labels, chosen, metrics, {})
        evaluations = {PLAIN: arrays.evaluate()}
        if rerank and arrays.features is not None:
            evaluations[RERANKED] = evaluate_reranked(*arrays.features, arrays.labels, normalize=normalize)
    except InputError as error:
        raise InputError(f"{path}: {error}".replace(f"{path}: {path}: ", f"{path}: ")) from error
    _warn(arrays.labels, evaluations[PLAIN], known)
    return Scores(arrays.labels, chosen, {name: summary(one) for name, one in evaluations.items()}, evaluations)


def _read(path: Path, rerank: bool, normalize: bool) -> ScoredArrays:
    present = array_names(path)
    if DISTANCES not in present:
        arrays = read_arrays(path, (*FEATURES, *LABELS))
        query, gallery = (arrays[name] for name in FEATURES)
        shape = _rows(FEATURES[0], query), _rows(FEATURES[1], gallery)
        found = ScoredArrays((query, gallery), None, Labels(*(arrays[name] for name in LABELS)), normalize)
        check_fit(shape, found.labels)
        return found
    if both := sorted({*FEATURES} & {*present}):
        raise InputError(f"holds {DISTANCES} and {', '.join(both)}; leave out what is not to be scored")
    if rerank:
        raise InputError(
            "--rerank: re-ranking compares queries with queries and gallery images with each other, and the file has "
            "the distances between the two only; write query_features and gallery_features, or leave it out"
        )
    if not normalize:
        raise InputError("--no-normalize: no effect on distances; leave it out")
    arrays = read_arrays(path, (DISTANCES, *LABELS))
    distances = arrays[DISTANCES]
    if distances.dtype.kind not in "fiu":
        raise InputError(f"{DISTANCES} is of type {distances.dtype}; distances must be real numbers")
    return ScoredArrays(None, distances, Labels(*(arrays[name] for name in LABELS)), normalize)


def _rows(name: str, features: NDArray[Any]) -> int:
    if features.ndim != 2:
        raise InputError(f"{name} has shape {list(features.shape)}; it must be [images, dimensions]")
    return len(features)


def _warn(labels: Labels, plain: Evaluation, known: bool) -> None:
    """Warn of queries without a match, and of data that looks as if it had another protocol."""
    if plain.excluded:
        log.warning(
            "%d of %d queries have no right match and are left out of every number", plain.excluded, labels.queries
        )
    same = np.array_equal(labels.query_identities, labels.gallery_identities)
    if not known and same and np.array_equal(labels.query_cameras, labels.gallery_cameras):
        log.warning(
            "the gallery has the identities and cameras of the queries: if every image is both, as in VIPeR and CUHK03 "
            "classic, give --protocol single-gallery-shot"
        )


def score_file(
    path: Path,
    *,
    rerank: bool = False,
    normalize: bool = True,
    protocol: ProtocolName | None = None,
    directions: Directions | None = None,
    json_path: Path | None = None,
    per_query: Path | None = None,
) -> str:
    """Score a file, write the outputs that were asked for, and return a table for people to read.

    Raises
    ------
    InputError
        The input cannot be scored, or an output cannot be written to its place.
    """
    for target in (json_path, per_query):
        if target is not None:
            _check_target(target, path)
    if json_path is not None and json_path == per_query:
        raise InputError(f"{json_path}: this name is given for both --json and --per-query; choose two names")
    scores = score(path, rerank=rerank, normalize=normalize, protocol=protocol, directions=directions)
    numbers = {TITLES[ranking]: found for ranking, found in scores.metrics.items()}
    if json_path is not None:
        others = {name: part for name, part in numbers.items() if name != "plain"}
        write_json(json_path, {**numbers["plain"], **scores.protocol.arrays(), **others})
    if per_query is not None:
        names = [str(row) for row in range(scores.labels.queries)]
        labels = (scores.labels.query_identities, scores.labels.query_cameras)
        write_per_query(per_query, scores.evaluations, names, *labels, schema=WIDE)
    return f"{scores.protocol}: {render(numbers)}"


def _check_target(target: Path, source: Path) -> None:
    if target.is_dir() or not target.parent.is_dir():
        raise InputError(f"{target}: {'a folder' if target.is_dir() else 'its folder does not exist'}; name a file")
    if target.exists() and source.exists() and target.samefile(source):
        raise InputError(f"{target}: this is the input; choose another name")


def summary(evaluation: Evaluation) -> dict[str, Any]:
    """Compute the headline numbers, and count the queries that they leave out."""
    return headline(evaluation) | {"queries_without_match": evaluation.excluded}


def render(numbers: Mapping[str, Mapping[str, Any]]) -> str:
    """Format the headline numbers in percent, each with its 95 % interval, in one column per ranking."""
    first = next(iter(numbers.values()))
    keys = [key for key in first if f"{key}_ci95" in first]
    rows = [["", *numbers], ["", *("-" * len(name) for name in numbers)]]
    for key in keys:
        cells = [f"{100 * part[key]:6.2f} [{_percent(part[key + '_ci95'])}]" for part in numbers.values()]
        rows.append([key, *cells])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    counts = f"{first['queries']} queries, {first['gallery']} gallery images; percent, with 95 % bootstrap intervals"
    return "\n".join([counts, *lines])


def _percent(interval: list[float]) -> str:
    return " ".join(f"{100 * bound:5.2f}" for bound in interval)
