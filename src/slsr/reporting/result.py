"""The result of a run in a few lines for a terminal: what it is, what it does not say, and what to do next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slsr.reporting.run_report import ranking_table, rankings_of
from slsr.reporting.titles import RANKINGS

HEADLINE = ("rank1", "map_trapezoid")
MOVES = "This is one run. Another seed, or another processor, moves these numbers by some points (docs/results.md)."
OF_SAMPLE = "`git diff metrics` shows how far they are from the committed ones."
NEXT = """Next, after `. .venv/bin/activate`:
  metrics/report.md        read the report: all rankings, differences, clusters, generated images
  dvc plots show --open    look at curves, clusters, generated images and ranked galleries
  slsr explore             browse queries and their ranked galleries in a local web page"""


def render_result(floors: Mapping[str, Any], runs: Mapping[str, Any], of_sample: bool) -> str:
    """Write the table of floors and methods for the plain ranking, with intervals, and what follows from it.

    Parameters
    ----------
    floors, runs : content of metrics/floors.json, and of the metrics file of each method by its name
    of_sample : the data set is the sample, whose metrics are committed
    """
    ranking = rankings_of(runs)[0]
    moves = f"{MOVES}\n{OF_SAMPLE}" if of_sample else MOVES
    return (
        f"{RANKINGS[ranking]}, in percent, with the 95 % interval for other people:\n\n"
        f"{ranking_table({**floors, **runs}, ranking, HEADLINE)}\n\n{moves}\n\n{NEXT}\n"
    )
