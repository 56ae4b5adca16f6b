"""The measures of every query, in per_query.parquet: written by `evaluate`, and read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from slsr.evaluation.measures import Images
from slsr.images.tables import read_table, table_writer
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


def read_evaluations(path: Path) -> dict[str, Evaluation]:
    """Way of ranking -> where the right matches of every query ended up (the size of the gallery is not in the file).

    Raises
    ------
    InputError
        The file is missing, or lacks the columns.
    """
    return {ranking: evaluation for ranking, (_, evaluation) in read_queries(path).items()}


def read_queries(path: Path) -> dict[str, tuple[list[str], Evaluation]]:
    """As `read_evaluations`, with the names of the queries."""
    table = read_table(path, ["ranking", "name", "ranks"])
    rankings = np.array(table.column("ranking").to_pylist())
    names, ranks = (table.column(name).to_pylist() for name in ("name", "ranks"))
    found = {}
    for ranking in dict.fromkeys(rankings.tolist()):
        rows = np.flatnonzero(rankings == ranking)
        lists = [ranks[row] for row in rows]
        offsets = np.concatenate([[0], np.cumsum([len(one) for one in lists])]).astype(np.int64)
        evaluation = Evaluation(offsets, np.array([rank for one in lists for rank in one], np.int32), 0)
        found[ranking] = ([names[row] for row in rows], evaluation)
    return found


def write_per_query(path: Path, evaluations: dict[str, Evaluation], query: Images) -> None:
    """Write a row for each query and way of ranking: ranks of the right matches, and the measures of the query."""
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
