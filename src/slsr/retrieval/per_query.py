"""The measures of every query, as `evaluate` writes them into per_query.parquet, read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from slsr.records import read_table
from slsr.retrieval.ranking import Evaluation


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
