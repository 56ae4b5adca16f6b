"""Measures of features or distances that any other tool computed, for `slsr score`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from slsr.datasets.collection import CAMERAS_UNKNOWN, Directions, EvaluationProtocol, ProtocolName
from slsr.datasets.numbering import is_nothing, number_cameras, number_identities
from slsr.embedding.npz import array_names, read_arrays
from slsr.embedding.protocol import DataProtocol, chosen_protocol
from slsr.errors import InputError
from slsr.files import write_json
from slsr.markdown import table
from slsr.retrieval.bootstrap import headline
from slsr.retrieval.distances import euclidean_distances
from slsr.retrieval.matching import UNKNOWN_CAMERA, Labels
from slsr.retrieval.measures import Evaluation
from slsr.retrieval.protocols import (
    SingleGalleryShot,
    both_directions,
    both_directions_of_distances,
    single_gallery_shot,
)
from slsr.retrieval.ranking import check_fit, evaluate, evaluate_distances
from slsr.retrieval.reranking import evaluate_reranked

FEATURES = ("query_features", "gallery_features")
DISTANCES = "distances"
LABELS = ("query_identities", "gallery_identities", "query_cameras", "gallery_cameras")
PLAIN, RERANKED, GALLERY_SHOT = (
    "single_query",
    "single_query_rerank",
    "single_gallery_shot",
)  # as `evaluate` writes them
TITLES = {PLAIN: "plain", RERANKED: "rerank", GALLERY_SHOT: "plain"}  # in JSON
# In tables; the mean average precision that most papers print comes first.
MEASURES = {
    "rank1": "rank-1",
    "rank5": "rank-5",
    "rank10": "rank-10",
    "rank20": "rank-20",
    "map_standard": "mAP (standard)",
    "map_trapezoid": "mAP (trapezoid)",
    "minp": "mINP",
}
COLUMNS = {
    "rerank": "re-ranked",
    PLAIN: "single query",
    RERANKED: "single query, re-ranked",
    "multi_query": "multi-query",
    "multi_query_rerank": "multi-query, re-ranked",
    GALLERY_SHOT: "single gallery shot",
}

K1 = 20  # the default of `evaluate_reranked`

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Scores:
    """The measures of one file.

    Attributes
    ----------
    protocol
        By which the file was evaluated.
    evaluations
        `single_query`, and `single_query_rerank` if it was asked for; or `single_gallery_shot`.
    """

    labels: Labels
    protocol: DataProtocol
    evaluations: Mapping[str, Evaluation | SingleGalleryShot]


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

    def gallery_shot(self, directions: Directions) -> SingleGalleryShot:
        """Evaluate by the protocol single-gallery-shot."""
        if directions == "both":
            if self.features is None:
                return both_directions_of_distances(self.distances, self.labels)
            return both_directions(*self.features, self.labels, normalize=self.normalize)
        distances: Any = self.distances
        if self.features is not None:
            distances = euclidean_distances(*self.features, normalize=self.normalize)
        return SingleGalleryShot.of_queries(single_gallery_shot(distances, self.labels), self.labels)


def score(
    path: Path,
    *,
    rerank: bool = False,
    normalize: bool = True,
    protocol: ProtocolName | None = None,
    directions: Directions | None = None,
    cameras: Literal["unknown"] | None = None,
) -> Scores:
    """Evaluate the features or the distances of an .npz file.

    Parameters
    ----------
    path
        Holds `query_features` [Q, D] and `gallery_features` [G, D] (float16, float32 or float64), or `distances`
        [Q, G]; and the integers `query_identities`, `query_cameras` [Q], `gallery_identities`, `gallery_cameras` [G].
        Whole numbers of MATLAB (float64, [1, N] or [N, 1]) and names of people are read too. Camera -1 is unknown.
        It may hold `protocol`, and with it `directions` and `cameras`; other arrays are not read.
    rerank
        Evaluate the re-ranked distances too.
    normalize
        Scale every feature to length 1 first.
    protocol, directions
        By which the file is evaluated, if it does not say so itself; cross-camera if nothing does.
    cameras
        `unknown` accepts unknown cameras, or a file without cameras; they are an error otherwise, unless the file
        itself says `unknown`.

    Raises
    ------
    InputError
        The file cannot be scored as asked; the message is one line that begins with its name.
    """
    chosen, known = chosen_protocol(path, protocol, directions, cameras)
    arrays = _read(path, rerank, normalize, chosen.evaluation.cameras == "unknown")
    try:
        _check_cameras(arrays.labels, chosen.evaluation, cameras)
        evaluations = _evaluate(arrays, chosen.evaluation, rerank)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    _warn(arrays.labels, next(iter(evaluations.values())), known)
    return Scores(arrays.labels, chosen, evaluations)


def _evaluate(
    arrays: ScoredArrays, protocol: EvaluationProtocol, rerank: bool
) -> dict[str, Evaluation | SingleGalleryShot]:
    if protocol.protocol == "single-gallery-shot":
        if rerank:
            raise InputError("--rerank: single-gallery-shot is evaluated without re-ranking; leave it out")
        return {GALLERY_SHOT: arrays.gallery_shot(protocol.directions)}
    evaluations: dict[str, Evaluation | SingleGalleryShot] = {PLAIN: arrays.evaluate()}
    if rerank and arrays.features is not None:
        _tell_fewer_neighbors(arrays.labels)
        evaluations[RERANKED] = evaluate_reranked(*arrays.features, arrays.labels, normalize=arrays.normalize)
    return evaluations


def _check_cameras(labels: Labels, evaluation: EvaluationProtocol, cameras: str | None) -> None:
    """Refuse an option without effect, and directions between cameras that are unknown."""
    if cameras is not None and not labels.cameras_unknown:
        raise InputError("--cameras unknown, but the file has every camera; leave it out")
    if labels.cameras_unknown and evaluation.directions == "both":
        raise InputError("unknown cameras (-1): both directions are those between two cameras; give --directions one")


def _tell_fewer_neighbors(labels: Labels) -> None:
    """Say that k1 is cut, as `reranked` does in `evaluate`."""
    others = labels.queries + labels.gallery - 1
    if others < K1:
        log.warning("--rerank: k1 is %d, but an image has only %d others: these are used", K1, others)


def _read(path: Path, rerank: bool, normalize: bool, accepted: bool) -> ScoredArrays:
    """Read features or distances, and check that they fit the labels and the options."""
    present = array_names(path)
    names = (DISTANCES,) if DISTANCES in present else FEATURES
    without_cameras = not set(LABELS[2:]) & set(present)
    if without_cameras and not accepted and {*names, *LABELS[:2]} <= set(present):
        raise InputError(
            f"{path}: no array {', '.join(LABELS[2:])}; write the cameras, or accept with --cameras unknown that "
            "images of the query's own camera count as right matches"
        )
    arrays = _read_arrays(path, names, accepted and without_cameras)
    try:
        labels = _labels(arrays)
        if labels.cameras_unknown and not accepted:
            raise InputError(
                "unknown cameras (-1): images of the query's own camera would count as right matches, so that every "
                "number is too high; write the cameras, or accept that with --cameras unknown, which marks the numbers"
            )
        if names == FEATURES:
            query, gallery = (arrays[name] for name in FEATURES)
            shape = _rows(FEATURES[0], query, labels.queries), _rows(FEATURES[1], gallery, labels.gallery)
            check_fit(shape, labels)
            return ScoredArrays((query, gallery), None, labels, normalize)
        _check_distances(arrays[DISTANCES], present, rerank, normalize)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return ScoredArrays(None, arrays[DISTANCES], labels, normalize)


def _check_distances(distances: NDArray[Any], present: Sequence[str], rerank: bool, normalize: bool) -> None:
    """Refuse distances that are no numbers, or with which the file or an option does not make sense."""
    if both := [name for name in FEATURES if name in present]:
        raise InputError(f"holds {DISTANCES} and {', '.join(both)}; leave out what is not to be scored")
    if distances.dtype.kind not in "fiu":
        raise InputError(f"{DISTANCES} is of type {distances.dtype}; distances must be real numbers")
    if rerank:
        raise InputError(
            "--rerank: re-ranking also needs the distances within the queries and within the gallery; write "
            "query_features and gallery_features in place of distances, or leave it out"
        )
    if not normalize:
        raise InputError("--no-normalize: no effect on distances; leave it out")


def _read_arrays(path: Path, names: Sequence[str], without_cameras: bool) -> dict[str, NDArray[Any]]:
    """Read arrays and labels; without cameras in the file, each is -1."""
    if not without_cameras:
        return read_arrays(path, (*names, *LABELS))
    arrays = read_arrays(path, (*names, *LABELS[:2]))
    none = {name: np.full(arrays[name.replace("cameras", "identities")].size, UNKNOWN_CAMERA) for name in LABELS[2:]}
    return arrays | none


def _labels(arrays: Mapping[str, NDArray[Any]]) -> Labels:
    """Read labels as other tools write them, and say so once."""
    found, read = {}, []
    for name in LABELS:
        found[name] = whole_numbers(arrays[name])
        _refuse_nan(name, found[name])
        if found[name] is not arrays[name]:
            read.append(f"{name} ({arrays[name].dtype}, {list(arrays[name].shape)})")
    for kind in ("identities", "cameras"):
        sides = [f"{side}_{kind}" for side in ("query", "gallery")]
        if all(found[side].dtype.kind in "US" and found[side].ndim == 1 for side in sides):
            found |= _numbered(kind, *(_text(side, found[side]) for side in sides))
            read += sides
    if read:
        log.info("read as whole numbers, one per image: %s", ", ".join(read))
    return Labels(*(found[name] for name in LABELS))


def whole_numbers(array: NDArray[Any]) -> NDArray[Any]:
    """Return [1, N] or [N, 1] as [N], and floats that are whole numbers as integers; other arrays as they are.

    A float32 has every whole number below 2^24 only (float16: 2^11, float64: 2^53): above, two may have become one.
    """
    if array.ndim == 2 and 1 in array.shape:
        array = array.reshape(-1)
    if array.dtype.kind != "f":
        return array
    exact = 2.0 ** (min(np.finfo(array.dtype).nmant, 52) + 1)
    whole = np.isfinite(array) & (array == np.rint(array)) & (abs(array) < exact)
    return array.astype(np.int64) if bool(whole.all()) else array


def _refuse_nan(name: str, labels: NDArray[Any]) -> None:
    if labels.dtype.kind == "f" and len(rows := np.flatnonzero(~np.isfinite(labels))):
        value = "NaN" if np.isnan(labels.flat[rows[0]]) else "infinity"
        raise InputError(f"{name} holds {value} in row {rows[0]}, counted from 0; write a whole number for every image")


def _text(name: str, labels: NDArray[Any]) -> NDArray[Any]:
    """Decode names that are bytes."""
    try:
        return labels if labels.dtype.kind == "U" else np.char.decode(labels, "utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{name} holds bytes that are not UTF-8 ({error.object!r}); write it as text") from error


def _numbered(kind: str, query: NDArray[Any], gallery: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Number the names of both sides together, as those of a table of images."""
    names = {
        f"{side}_{kind}": _texts(f"{side}_{kind}", array) for side, array in (("query", query), ("gallery", gallery))
    }
    numbers = (number_cameras if kind == "cameras" else number_identities)(
        name for side in names.values() for name in side
    )
    for note in numbers.notes:
        log.info("%s", note)
    return {array: np.array([numbers.of[name] for name in side], np.int64) for array, side in names.items()}


def _texts(array: str, values: NDArray[Any]) -> list[str]:
    try:
        texts = [value.decode() if isinstance(value, bytes) else value for value in values.tolist()]
    except UnicodeDecodeError as error:
        raise InputError(f"{array} holds bytes that are not UTF-8 ({error}); write its names as text") from error
    if (
        "identities" in array
        and (row := next((row for row, text in enumerate(texts) if is_nothing(text)), None)) is not None
    ):
        raise InputError(
            f"{array}, row {row}: no identity ({texts[row]!r}); give each image the number or name of the person"
        )
    return texts


def _rows(name: str, features: NDArray[Any], images: int) -> int:
    if features.ndim != 2:
        raise InputError(f"{name} has shape {list(features.shape)}; it must be [images, dimensions]")
    if len(features) != images == features.shape[1]:
        raise InputError(
            f"{name} has shape {list(features.shape)} for {images} images: transposed? It must be [images, dimensions]"
        )
    return len(features)


def _warn(labels: Labels, found: Evaluation | SingleGalleryShot, known: bool) -> None:
    """Warn of queries without a match, and of data that looks as if it had another protocol."""
    if found.excluded:
        queries = found.excluded + found.queries
        log.warning("%d of %d queries have no right match and are left out of every number", found.excluded, queries)
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
    cameras: Literal["unknown"] | None = None,
    json_path: Path | None = None,
    per_query: Path | None = None,
) -> str:
    """Score a file, write the outputs that were asked for, and return the numbers as Markdown.

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
    scores = score(path, rerank=rerank, normalize=normalize, protocol=protocol, directions=directions, cameras=cameras)
    numbers = {TITLES[ranking]: summary(found) for ranking, found in scores.evaluations.items()}
    if json_path is not None:
        others = {name: part for name, part in numbers.items() if name != "plain"}
        write_json(json_path, {**numbers["plain"], **scores.protocol.arrays(), **others})
    if per_query is not None:
        _write_per_query(per_query, scores)
    text = f"{scores.protocol}: {render(numbers)}"
    return f"{text}\n\n{CAMERAS_UNKNOWN}" if scores.protocol.evaluation.cameras == "unknown" else text


def _write_per_query(path: Path, scores: Scores) -> None:
    """Write the table of queries: named by their rows, and gallery images that are queries by `gallery ROW`."""
    import pyarrow as pa

    from slsr.evaluation.per_query import PER_QUERY, write_per_query

    wide = pa.schema([*list(PER_QUERY)[:2], ("identity", pa.int64()), ("camera", pa.int64()), *list(PER_QUERY)[4:]])
    labels = scores.labels
    names = [*map(str, range(labels.queries)), *(f"gallery {row}" for row in range(labels.gallery))]
    identities = np.concatenate([labels.query_identities, labels.gallery_identities])
    cameras = np.concatenate([labels.query_cameras, labels.gallery_cameras])
    write_per_query(path, scores.evaluations, names, identities, cameras, schema=wide)


def _check_target(target: Path, source: Path) -> None:
    if target.is_dir() or not target.parent.is_dir():
        raise InputError(f"{target}: {'a folder' if target.is_dir() else 'its folder does not exist'}; name a file")
    if target.exists() and source.exists() and target.samefile(source):
        raise InputError(f"{target}: this is the input; choose another name")


def summary(evaluation: Evaluation | SingleGalleryShot) -> dict[str, Any]:
    """Compute the headline numbers, and count the queries that they leave out."""
    return headline(evaluation) | {"queries_without_match": evaluation.excluded}


def render(numbers: Mapping[str, Mapping[str, Any]]) -> str:
    """Format the headline numbers as Markdown: in percent, with 95 % intervals over people, one column per ranking."""
    first = next(iter(numbers.values()))
    keys = sorted((key for key in first if f"{key}_ci95" in first), key=_place)
    rows = [[MEASURES.get(key, key), *(_cell(part, key) for part in numbers.values())] for key in keys]
    counts = (
        f"{first['queries']} queries of {first['people']} people, {first['gallery']} gallery images; percent, with "
    )
    counts += (
        "95 % bootstrap intervals over people with all their queries"
        if first["people"] > 1
        else "no interval, because one person says nothing about others"
    )
    return f"{counts}\n\n{table(['', *(COLUMNS.get(name, name) for name in numbers)], rows)}"


def _place(measure: str) -> int:
    """Return the place of a measure in tables; those that are not named come last, in their own order."""
    return list(MEASURES).index(measure) if measure in MEASURES else len(MEASURES)


def _cell(numbers: Mapping[str, Any], key: str) -> str:
    """Write a measure and its interval in percent."""
    return f"{100 * numbers[key]:.2f}{_percent(numbers[f'{key}_ci95'])}"


def _percent(interval: list[float] | None) -> str:
    return "" if interval is None else f" [{', '.join(f'{100 * bound:.2f}' for bound in interval)}]"
