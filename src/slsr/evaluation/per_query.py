"""Tables with the measures of every query: one format, written by `evaluate` and `slsr score --per-query`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from slsr.images.tables import read_table, table_writer
from slsr.retrieval.matching import offsets_of
from slsr.retrieval.measures import Evaluation

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
MEASURES = ("average_precision_trapezoid", "average_precision_standard", "inverse_negative_penalty")


def read_evaluations(path: Path) -> dict[str, Evaluation]:
    """Read the ranks of the right matches of every query, by ranking; the file has no gallery size, which is 0.

    Raises
    ------
    InputError
        The file is missing, or it lacks columns.
    """
    return {ranking: evaluation for ranking, (_, evaluation) in read_queries(path).items()}


def read_queries(path: Path) -> dict[str, tuple[list[str], Evaluation]]:
    """Read as `read_evaluations`, with the names of the queries."""
    table = read_table(path, ["ranking", "name", "ranks"])
    rankings = np.array(table.column("ranking").to_pylist())
    names, ranks = (table.column(name).to_pylist() for name in ("name", "ranks"))
    found = {}
    for ranking in dict.fromkeys(rankings.tolist()):
        rows = np.flatnonzero(rankings == ranking)
        lists = [ranks[row] for row in rows]
        offsets = offsets_of(np.array([len(one) for one in lists]))
        evaluation = Evaluation(offsets, np.array([rank for one in lists for rank in one], np.int32), 0)
        found[ranking] = ([names[row] for row in rows], evaluation)
    return found


def write_per_query(
    path: Path,
    evaluations: Mapping[str, Evaluation],
    names: Sequence[str],
    identities: NDArray[np.int64],
    cameras: NDArray[np.int64],
    schema: pa.Schema = PER_QUERY,
) -> None:
    """Write one row for each ranking and query: the ranks of its right matches, and its measures.

    Parameters
    ----------
    evaluations : by the name of the ranking, for instance `single_query_rerank`
    names, identities, cameras : of the queries
    schema : `PER_QUERY`, or the same columns with larger integers
    """
    with table_writer(path, schema) as table:
        for ranking, found in evaluations.items():
            measures = {name: getattr(found, name) for name in MEASURES}
            for row, name in enumerate(names):
                labels = {"name": name, "identity": int(identities[row]), "camera": int(cameras[row])}
                values: dict[str, Any] = {
                    measure: float(of_queries[row]) if found.valid[row] else None
                    for measure, of_queries in measures.items()
                }
                table.append({"ranking": ranking} | labels | {"ranks": found.ranks_of(row).tolist()} | values)
