"""Measures of features that any other tool extracted, for `slsr score`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from slsr.embedding.npz import array_names, read_arrays
from slsr.errors import InputError
from slsr.evaluation.per_query import PER_QUERY, write_per_query
from slsr.files import write_json
from slsr.images.tables import CAMERAS_UNKNOWN
from slsr.retrieval.bootstrap import headline
from slsr.retrieval.matching import UNKNOWN_CAMERA, Labels
from slsr.retrieval.measures import Evaluation
from slsr.retrieval.ranking import check_fit, evaluate
from slsr.retrieval.reranking import evaluate_reranked

FEATURES = ("query_features", "gallery_features")
LABELS = ("query_identities", "gallery_identities", "query_cameras", "gallery_cameras")
PLAIN, RERANKED = "single_query", "single_query_rerank"  # the names of rankings, as `evaluate` writes them
TITLES = {PLAIN: "plain", RERANKED: "rerank"}
WIDE = pa.schema([*list(PER_QUERY)[:2], ("identity", pa.int64()), ("camera", pa.int64()), *list(PER_QUERY)[4:]])

EXACT = 2**53  # the largest whole number below which a float64 has every whole number

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Scores:
    """The evaluations of one file: `single_query`, and `single_query_rerank` if it was asked for."""

    labels: Labels
    evaluations: Mapping[str, Evaluation]


def score(
    path: Path, *, rerank: bool = False, normalize: bool = True, cameras: Literal["unknown"] | None = None
) -> Scores:
    """Evaluate the features of an .npz file.

    Parameters
    ----------
    path
        Holds `query_features` [Q, D] and `gallery_features` [G, D] (float16, float32 or float64), and the integers
        `query_identities`, `query_cameras` [Q], `gallery_identities`, `gallery_cameras` [G]; other arrays are not read.
        Whole numbers of MATLAB (float64, [1, N] or [N, 1]) and names of people are read too. Camera -1 is unknown.
    rerank
        Evaluate the re-ranked distances too.
    normalize
        Scale every feature to length 1 first.
    cameras
        `unknown` accepts unknown cameras, or a file without cameras; they are an error otherwise.

    Raises
    ------
    InputError
        The file cannot be scored; the message is one line that begins with its name.
    """
    arrays = _read(path, cameras)
    query, gallery = (arrays.pop(name) for name in FEATURES)
    try:
        labels = _labels(arrays)
        _require_cameras(labels, cameras)
        check_fit((_rows(FEATURES[0], query), _rows(FEATURES[1], gallery)), labels)
        evaluations = {PLAIN: evaluate(query, gallery, labels, normalize=normalize)}
        if rerank:
            evaluations[RERANKED] = evaluate_reranked(query, gallery, labels, normalize=normalize)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    excluded = evaluations[PLAIN].excluded
    if excluded:
        log.warning("%d of %d queries have no right match and are left out of every number", excluded, labels.queries)
    return Scores(labels, evaluations)


def _read(path: Path, cameras: str | None) -> dict[str, NDArray[Any]]:
    """Read the arrays; if cameras are unknown and the file has none, they are all -1."""
    if cameras is None or set(LABELS[2:]) & set(array_names(path)):
        return read_arrays(path, (*FEATURES, *LABELS))
    arrays = read_arrays(path, (*FEATURES, *LABELS[:2]))
    none = {name: np.full(arrays[name.replace("cameras", "identities")].size, UNKNOWN_CAMERA) for name in LABELS[2:]}
    return arrays | none


def _labels(arrays: Mapping[str, NDArray[Any]]) -> Labels:
    """Read labels as other tools write them, and say so once."""
    found, read = {}, []
    for name in LABELS:
        found[name] = whole_numbers(arrays[name])
        if found[name] is not arrays[name]:
            read.append(f"{name} ({arrays[name].dtype}, {list(arrays[name].shape)})")
    for kind in ("identities", "cameras"):
        sides = [f"{side}_{kind}" for side in ("query", "gallery")]
        if all(found[side].dtype.kind in "US" and found[side].ndim == 1 for side in sides):
            found |= _numbered(kind, *(found[side] for side in sides))
            read += sides
    if read:
        log.info("read as whole numbers, one per image: %s", ", ".join(read))
    return Labels(*(found[name] for name in LABELS))


def whole_numbers(array: NDArray[Any]) -> NDArray[Any]:
    """Return [1, N] or [N, 1] as [N], and floats that are whole numbers as integers; other arrays as they are."""
    if array.ndim == 2 and 1 in array.shape:
        array = array.reshape(-1)
    if array.dtype.kind == "f" and bool((np.isfinite(array) & (array == np.rint(array)) & (abs(array) < EXACT)).all()):
        return array.astype(np.int64)
    return array


def _numbered(kind: str, query: NDArray[Any], gallery: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Number the names of both sides together, from 1; `-1` and `0` keep their meaning."""
    names, numbers = np.unique(np.concatenate([query.astype(str), gallery.astype(str)]), return_inverse=True)
    values = np.arange(1, len(names) + 1)
    for special in ("-1", "0"):
        values[names == special] = int(special)
    return {f"query_{kind}": values[numbers[: len(query)]], f"gallery_{kind}": values[numbers[len(query) :]]}


def _require_cameras(labels: Labels, cameras: str | None) -> None:
    if labels.cameras_unknown and cameras is None:
        raise InputError(
            "unknown cameras (-1): images of the query's own camera would count as right matches, so that every number "
            "is too high; write the cameras, or accept that with --cameras unknown, which marks the numbers"
        )
    if cameras is not None and not labels.cameras_unknown:
        raise InputError("--cameras unknown, but the file has every camera; leave it out")


def _rows(name: str, features: NDArray[Any]) -> int:
    if features.ndim != 2:
        raise InputError(f"{name} has shape {list(features.shape)}; it must be [images, dimensions]")
    return len(features)


def score_file(
    path: Path,
    *,
    rerank: bool,
    normalize: bool,
    json_path: Path | None,
    per_query: Path | None,
    cameras: Literal["unknown"] | None = None,
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
    scores = score(path, rerank=rerank, normalize=normalize, cameras=cameras)
    numbers = {TITLES[ranking]: summary(found) for ranking, found in scores.evaluations.items()}
    if json_path is not None:
        mark = {"cameras": "unknown"} if cameras else {}
        others = {name: part for name, part in numbers.items() if name != "plain"}
        write_json(json_path, numbers["plain"] | others | mark)
    if per_query is not None:
        names = [str(row) for row in range(scores.labels.queries)]
        labels = (scores.labels.query_identities, scores.labels.query_cameras)
        write_per_query(per_query, scores.evaluations, names, *labels, schema=WIDE)
    return f"{render(numbers)}\n{CAMERAS_UNKNOWN}" if cameras else render(numbers)


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
