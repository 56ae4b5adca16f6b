"""Write the report and the metrics that git keeps: JSON for programs, diagrams and a page for people."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slsr.evaluation.per_query import read_queries
from slsr.files import METRICS, read_json, write_bytes, write_json
from slsr.labels.regularizers import committed_names
from slsr.params.dataset import Dataset
from slsr.params.evaluate import Bootstrap, Evaluate
from slsr.params.generate import Generate
from slsr.params.recipe import Image, Recipe
from slsr.reporting.figures import draw_cmc, draw_curves
from slsr.reporting.run_report import Report, ReportParameters, rankings_of, render
from slsr.reporting.titles import RANKINGS
from slsr.retrieval import paired_differences
from slsr.stages.paths import CLUSTERS, EVALUATED, FACTS, FLOORS, GENERATED, TRAINED

log = logging.getLogger(__name__)

CMC_SHOWN = ("single_query", "single_query_rerank", "single_gallery_shot")
CURVES = {
    "training loss": ("train", "loss"),
    "validation accuracy": ("validation", "accuracy"),
    "validation rank-1": ("validation", "rank1"),
    "validation mAP": ("validation", "map_trapezoid"),
}


def run(dataset: Dataset, image: Image, encoder: Recipe, train: Recipe, generate: Generate, evaluate: Evaluate) -> None:
    """Read the metrics and curves of every stage and write metrics/.

    The files are one JSON file per subject, cmc.png, curves.png, silhouettes.png and report.md.
    """
    runs: dict[str, Any] = {name: read_json(EVALUATED / name / "metrics.json") for name in committed_names()}
    report = Report(
        parameters=ReportParameters(dataset, image, encoder, train, generate),
        dataset=read_json(FACTS),
        floors=read_json(FLOORS / "metrics.json"),
        clusters=read_json(CLUSTERS / "silhouette.json"),
        generated=read_json(GENERATED / "quality.json"),
        runs=runs,
        comparison=_comparison(evaluate.bootstrap),
    )
    for subject in ("dataset", "floors", "clusters", "generated", "comparison"):
        write_json(METRICS / f"{subject}.json", getattr(report, subject))
    for name, metrics in runs.items():
        write_json(METRICS / f"{name}.json", metrics)
    _draw(report)
    write_bytes(METRICS / "report.md", render(report).encode())
    log.info("wrote %s; `slsr results` prints the result", METRICS)


def _draw(report: Report) -> None:
    """Draw the diagrams that git keeps; they show no person."""
    parameters = report.parameters
    shown = [ranking for ranking in CMC_SHOWN if ranking in rankings_of(report.runs)]
    draw_cmc(
        METRICS / "cmc.png",
        {RANKINGS[ranking]: {n: _cmc(EVALUATED / n / "cmc.csv", ranking) for n in report.runs} for ranking in shown},
        f"{parameters.train.backbone} on {parameters.dataset.archive}",
    )
    curves = {
        title: {name: _curve(TRAINED / name / "curves", *quantity) for name in report.runs}
        for title, quantity in CURVES.items()
    }
    measured = {title: lines for title, lines in curves.items() if any(len(x) for x, _ in lines.values())}
    draw_curves(METRICS / "curves.png", measured, "epoch")
    draw_curves(METRICS / "silhouettes.png", {"mean silhouette, %": _silhouettes(report.clusters)}, "k")


def _curve(folder: Path, part: str, quantity: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Read the epochs and values of one quantity from DVCLive's file; empty without one (another validation)."""
    path = folder / "plots" / "metrics" / part / f"{quantity}.tsv"
    rows = np.loadtxt(path, delimiter="\t", skiprows=1, ndmin=2) if path.is_file() else np.empty((0, 2))
    return rows[:, 0], rows[:, 1]


def _silhouettes(clusters: Mapping[str, Any]) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Return k and the mean silhouette in percent, for each space of features."""
    rows = [row for row in clusters["sweep"] if row["silhouette_full_dimension"] is not None]
    k = np.array([row["k"] for row in rows], np.float64)
    spaces = {
        "full dimension": "silhouette_full_dimension",
        "two principal components": "silhouette_two_components",
    }
    return {name: (k, np.array([100 * row[key] for row in rows], np.float64)) for name, key in spaces.items()}


def _comparison(bootstrap: Bootstrap) -> dict[str, Any]:
    """Compute paired differences between runs over the same queries and people, for every way of ranking."""
    values = {name: read_queries(EVALUATED / name / "per_query.parquet") for name in committed_names()}
    found: dict[str, Any] = {}
    for first, second in combinations(committed_names(), 2):
        found[f"{second}_minus_{first}"] = {
            ranking: {
                key: {"difference": one.difference, "ci95": None if one.ci95 is None else list(one.ci95), "p": one.p}
                for key, one in paired_differences(
                    values[first][ranking], values[second][ranking], resamples=bootstrap.resamples, seed=bootstrap.seed
                ).items()
            }
            for ranking in values[first]
        }
    return found


def _cmc(path: Path, ranking: str) -> NDArray[np.float64]:
    """Read the CMC curve of one way of ranking."""
    names = path.read_text(encoding="utf-8").splitlines()[0].split(",")
    return np.loadtxt(path, delimiter=",", skiprows=1, usecols=names.index(ranking), ndmin=1)
