"""Tables with the measures of every query: one format, written by `evaluate` and `slsr score --per-query`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from slsr.errors import InputError
from slsr.images.tables import read_table, table_writer
from slsr.retrieval.matching import Integers, offsets_of
from slsr.retrieval.measures import CMC_RANKS, Evaluation
from slsr.retrieval.protocols import SingleGalleryShot
from slsr.retrieval.query_values import QueryValues

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
        ("direction", pa.int16()),
        *((f"rank{rank}", pa.float64()) for rank in CMC_RANKS),
    ]
)
MEASURES = ("average_precision_trapezoid", "average_precision_standard", "inverse_negative_penalty")
EXPECTED = tuple(f"rank{rank}" for rank in CMC_RANKS)  # with `direction`, for single-gallery-shot evaluation alone


def read_queries(path: Path) -> dict[str, QueryValues]:
    """Read the measures, people and names of the queries that have a right match, by ranking.

    Raises
    ------
    InputError
        The file is missing, it lacks columns, or no query of a ranking has a right match.
    """
    table = read_table(path)
    if missing := [name for name in ("ranking", "name", "identity", "ranks") if name not in table.column_names]:
        raise InputError(f"{path}: no column {', '.join(missing)}; make it again with `dvc repro`")
    rankings = np.array(table.column("ranking").to_pylist())
    return {
        ranking: _values_of(table.filter(pa.array(rankings == ranking))) for ranking in dict.fromkeys(rankings.tolist())
    }


def _values_of(table: pa.Table) -> QueryValues:
    """Gather the values of one ranking."""
    names, ranks = (table.column(name).to_pylist() for name in ("name", "ranks"))
    identities = table.column("identity").to_numpy().astype(np.int64)
    if ranks[0] is not None:
        offsets = offsets_of(np.array([len(one) for one in ranks]))
        flat = np.array([rank for one in ranks for rank in one], np.int32)
        evaluation = Evaluation(offsets, flat, 0, identities)
        return evaluation.query_values().named(names, evaluation.valid)
    values = np.stack([table.column(name).to_numpy() for name in EXPECTED], axis=1).astype(np.float64)
    directions = table.column("direction").to_numpy()
    valid = np.isfinite(values[:, 0])
    found = QueryValues(values[valid], EXPECTED, identities[valid], directions[valid].astype(np.int64))
    return found.named(names, valid)


def write_per_query(
    path: Path,
    evaluations: Mapping[str, Evaluation | SingleGalleryShot],
    names: Sequence[str],
    identities: Integers,
    cameras: Integers,
    schema: pa.Schema = PER_QUERY,
) -> None:
    """Write one row for each ranking and query: the ranks of its right matches, and its measures.

    Under `single_gallery_shot` there is one row for each direction and query, with the probabilities that the right
    match is among the first 1, 5, 10 and 20.

    Parameters
    ----------
    evaluations : by the name of the ranking, for instance `single_query_rerank`
    names, identities, cameras : of the queries, followed by those of the gallery if gallery images are queries too
    schema : `PER_QUERY`, or the same columns with larger integers
    """
    with table_writer(path, schema) as table:
        for ranking, found in evaluations.items():
            images, columns = _columns(found)
            for row, image in enumerate(images.tolist()):
                labels = {"name": names[image], "identity": int(identities[image]), "camera": int(cameras[image])}
                values = {name: column[row] for name, column in columns.items()}
                table.append(dict.fromkeys(schema.names) | {"ranking": ranking} | labels | values)


def _columns(found: Evaluation | SingleGalleryShot) -> tuple[Integers, dict[str, list[Any]]]:
    """Return the place of each row's query image, and the columns of measures; None without a right match."""
    if isinstance(found, Evaluation):
        columns = {name: _with_none(getattr(found, name)) for name in MEASURES}
        ranks = [found.ranks_of(row).tolist() for row in range(len(found.valid))]
        return np.arange(len(found.valid)), {"ranks": ranks} | columns
    columns = {f"rank{rank}": _with_none(found.matched[:, rank - 1]) for rank in CMC_RANKS}
    return found.images, {"direction": found.directions.tolist()} | columns


def _with_none(values: NDArray[np.float64]) -> list[float | None]:
    return [value if np.isfinite(value) else None for value in values.tolist()]
