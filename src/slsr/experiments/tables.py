"""A comparison as Markdown, CSV and picture."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slsr.experiments.comparison import Comparison, Difference, Row, varying_settings
from slsr.markdown import table
from slsr.reporting.figures import Estimate, draw_estimates
from slsr.reporting.published import NOTE, Published
from slsr.reporting.titles import QUALITY_MEASURES, title_of

THOUSANDS = re.compile(r"(?<=\d),(?=\d)")
TITLES = {"rank1": "rank-1", "map_trapezoid": "mAP"}
SEEDS = {
    "training": "Within a row, seeds move the training of the re-ID network alone: encoder, clusters and generators "
    "stay the same.",
    "pipeline": "Each seed has its own encoder, clusters, generators, generated images and training.",
}
Quality = Mapping[str, Any]
SPACES = ("handcrafted", "encoder")
QUALITY_SHOWN = {
    "handcrafted": {
        "kernel": "KID",
        "coverage": "coverage",
        "recall": "recall",
        "density": "density",
        "duplicates": "duplicates",
        "copies": "copies",
    },
    "encoder": {"kernel": "KID", "coverage": "coverage"},
}
SHORT = {
    "train.backbone": "backbone",
    "train.epochs": "epochs",
    "cluster.k": "K",
    "generate.images": "N",
    "dataset.archive": "data",
}


def render_markdown(comparison: Comparison) -> str:
    """Two tables: rows with their difference to the baseline over seeds and queries, and over queries alone."""
    settings = varying_settings(comparison.rows)
    measures = [measure for measure in TITLES if measure in comparison.measures]
    with_published = any(comparison.published)
    header = ["", *(SHORT.get(key, key) for key in settings), "seeds", *(f"{TITLES[key]}, %" for key in measures)]
    header += [f"{TITLES[key]} - {_baseline(comparison)}" for key in measures]
    header += ["published: rank-1 / mAP"] if with_published else []
    lines = []
    for number, row in enumerate(comparison.rows):
        found = comparison.differences[number]
        cells = [_name(row.regularizer), *(column[number] for column in settings.values()), str(len(row.legs))]
        cells += [_mean_and_deviation(row, measure) for measure in measures]
        cells += [_over_both(found.get(measure)) for measure in measures]
        cells += [_published(comparison.published[number])] if with_published else []
        lines.append(cells)
    parts = [_setting(comparison), table(header, lines)]
    alone = [
        [
            _name(row.regularizer),
            *(column[number] for column in settings.values()),
            *(_alone(found[m]) for m in measures),
        ]
        for number, (row, found) in enumerate(zip(comparison.rows, comparison.differences, strict=True))
        if found
    ]
    if alone:
        parts += [
            "The same differences by a paired bootstrap over queries, for these very seeds (another seed may differ):",
            table(["", *(SHORT.get(key, key) for key in settings), *(TITLES[key] for key in measures)], alone),
        ]
    parts += _generated(comparison)
    if with_published:
        parts.append(NOTE)
    return "\n\n".join(parts) + "\n"


def _generated(comparison: Comparison) -> list[str]:
    """The quality of the generated images, once for all rows that share them."""
    settings = varying_settings(comparison.rows)
    names: dict[str, list[str]] = {}
    measured: dict[str, Sequence[Quality]] = {}
    unknown = []
    for number, row in enumerate(comparison.rows):
        label = _label(row, settings, number)
        if found := _qualities(row):
            key = json.dumps(found)
            names.setdefault(key, []).append(label)
            measured[key] = found
        elif "generate.images" in row.settings:
            unknown.append(label)
    if not measured:
        return []
    spaces = [(space, name) for space in SPACES for name in QUALITY_SHOWN[space]]
    header = ["generated images of", "sets", *(f"{QUALITY_SHOWN[space][name]}, {space}" for space, name in spaces)]
    lines = [
        [
            "; ".join(names[key]),
            str(len(found)),
            *(_mean_with_floor(*_of_quality(found, space, name)) for space, name in spaces),
            str(sum(len(quality["alarms"]) for quality in found)),
        ]
        for key, found in measured.items()
    ]
    said = (
        "The quality of all generated images together (docs/generators.md): mean over the sets of images that a row's "
        "seeds were trained on, ± deviation between sets, in brackets the floor, what unseen real images reach; and "
        "how many alarms sounded, each cluster's too."
    )
    if unknown:
        said += f" The cache lacks it for {'; '.join(unknown)}."
    return [said, table([*header, "alarms"], lines)]


def _qualities(row: Row) -> list[Quality]:
    """Of each set of generated images that a row was trained on, once; none where one of them is not known."""
    if not all(leg.quality for leg in row.legs):
        return []
    return list({json.dumps(leg.quality): leg.quality for leg in row.legs if leg.quality}.values())


def _of_quality(qualities: Sequence[Quality], space: str, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A measure of each set, and its floor; none of those that were not measured."""
    found = [quality["overall"][space].get(name) for quality in qualities]
    known = [one for one in found if one is not None and one["value"] is not None and one["floor"] is not None]
    return np.array([one["value"] for one in known]), np.array([one["floor"] for one in known])


def _mean_with_floor(values: NDArray[np.float64], floors: NDArray[np.float64]) -> str:
    if not len(values):
        return "-"
    deviation = f" ± {values.std(ddof=1):.2f}" if len(values) > 1 else ""
    return f"{values.mean():.2f}{deviation} [{floors.mean():.2f}]"


def _setting(comparison: Comparison) -> str:
    row, other = comparison.rows[0], comparison.against
    metrics = row.legs[0].metrics
    stated = (
        ""
        if other is None
        else f" Differences are to {', '.join(leg.experiment for leg in other.legs)}, whatever else differs in the row."
    )
    return (
        f"{comparison.ranking.replace('_', ' ')}: {metrics['queries']:,} queries, {metrics['gallery']:,} gallery "
        "images. Mean over seeds ± standard deviation (n - 1) between seeds. Differences in points, paired by seed and "
        "query, with the 95 % interval that holds for other seeds and other queries alike, and two-sided p. "
        + SEEDS[comparison.seeds_of]
        + stated
    )


def _name(regularizer: str) -> str:
    return title_of(regularizer)


def _label(row: Row, settings: Mapping[str, Sequence[str]], number: int) -> str:
    """A row's regularizer and the settings in which rows differ."""
    varying = (f"{SHORT.get(key, key)} {column[number]}" for key, column in settings.items() if column[number] != "-")
    return ", ".join([_name(row.regularizer), *varying])


def _baseline(comparison: Comparison) -> str:
    if comparison.against is None:
        return _name(comparison.baseline)
    number = next(number for number, row in enumerate(comparison.rows) if row is comparison.against)
    return _label(comparison.against, varying_settings(comparison.rows), number)


def _mean_and_deviation(row: Row, measure: str) -> str:
    values = 100 * row.single(measure)
    return f"{values.mean():.1f}" + (f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else "")


def _over_both(found: Difference | None) -> str:
    if found is None:
        return "-"
    if found.both is None:
        return f"{100 * found.queries.difference:+.1f} (one seed: no interval)"
    return _points(found.both.mean, found.both.ci95, found.both.p)


def _alone(found: Difference) -> str:
    return _points(found.queries.difference, found.queries.ci95, found.queries.p)


def _points(mean: float, ci95: tuple[float, float], p: float) -> str:
    chance = f"p = {p:.3f}" if p >= 0.001 else "p < 0.001"
    return f"{100 * mean:+.1f} [{100 * ci95[0]:+.1f}, {100 * ci95[1]:+.1f}], {chance}"


def _published(row: Published | None) -> str:
    return "-" if row is None else f"{100 * row.rank1:.2f} / {100 * row.map_trapezoid:.2f} ({row.source})"


def render_csv(comparison: Comparison) -> str:
    """One line a row, every measure as a fraction, with deviations, intervals and published values."""
    settings = varying_settings(comparison.rows)
    lines = []
    for number, row in enumerate(comparison.rows):
        line: dict[str, object] = {"regularizer": row.regularizer, "ranking": comparison.ranking}
        line |= {key: THOUSANDS.sub("", column[number]) for key, column in settings.items()}
        line |= {
            "seeds": " ".join(map(str, row.seeds)),
            "experiments": " ".join(leg.experiment for leg in row.legs),
        }
        for measure in comparison.measures:
            line |= _csv_measure(row, measure, comparison.differences[number].get(measure))
        line |= _csv_quality(_qualities(row))
        if beside := comparison.published[number]:
            line |= {f"published_{key}": getattr(beside, key) for key in ("rank1", "map_trapezoid", "source")}
        lines.append(line)
    columns = list(dict.fromkeys(key for line in lines for key in line))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return buffer.getvalue()


def _csv_measure(row: Row, measure: str, found: Difference | None) -> dict[str, object]:
    values, interval = row.single(measure), row.interval(measure)
    line: dict[str, object] = {f"{measure}_mean": float(values.mean())}
    if len(values) > 1:
        line[f"{measure}_deviation"] = float(values.std(ddof=1))
    if interval is not None:
        line |= {f"{measure}_low": interval[0], f"{measure}_high": interval[1]}
    if found is None:
        return line
    parts = [("difference_queries", found.queries.difference, found.queries.ci95, found.queries.p)]
    if found.both is not None:
        parts.insert(0, ("difference", found.both.mean, found.both.ci95, found.both.p))
    for name, mean, ci95, p in parts:
        line |= {f"{measure}_{name}": mean, f"{measure}_{name}_low": ci95[0], f"{measure}_{name}_high": ci95[1]}
        line[f"{measure}_{name}_p"] = p
    return line


def _csv_quality(qualities: Sequence[Quality]) -> dict[str, object]:
    found = {(space, name): _of_quality(qualities, space, name)[0] for space in SPACES for name in QUALITY_MEASURES}
    return {f"generated_{space}_{name}": float(values.mean()) for (space, name), values in found.items() if len(values)}


def draw_comparison(path: Path, comparison: Comparison) -> None:
    """Means with single seeds, and differences to the baseline, each with its interval over seeds and queries."""
    settings = varying_settings(comparison.rows)
    names = [_label(row, settings, number) for number, row in enumerate(comparison.rows)]
    panels: dict[str, list[Estimate]] = {}
    zero = []
    for measure in (one for one in TITLES if one in comparison.measures):
        panels[f"{TITLES[measure]}, %"] = [
            _estimate(name, comparison, number, measure) for number, name in enumerate(names)
        ]
        if any(comparison.differences):
            zero.append(f"{TITLES[measure]} minus {_baseline(comparison)}, points")
            panels[zero[-1]] = [
                _difference_estimate(name, comparison, number, measure) for number, name in enumerate(names)
            ]
    note = "dot: mean over seeds; bar: 95 % interval over seeds and queries; tick: one seed"
    if any(comparison.published):
        note += "; diamond: published, a single run under another recipe"
    draw_estimates(path, panels, note, zero)


def _percent(interval: tuple[float, float] | None) -> tuple[float, float] | None:
    return None if interval is None else (100 * interval[0], 100 * interval[1])


def _estimate(name: str, comparison: Comparison, number: int, measure: str) -> Estimate:
    row, beside = comparison.rows[number], comparison.published[number]
    values = 100 * row.single(measure)
    beside_value = None if beside is None else 100 * float(getattr(beside, measure))
    return Estimate(name, float(values.mean()), _percent(row.interval(measure)), values.tolist(), beside_value)


def _difference_estimate(name: str, comparison: Comparison, number: int, measure: str) -> Estimate:
    found = comparison.differences[number].get(measure)
    if found is None:
        return Estimate(name, None, None, [])
    both = found.both
    return Estimate(name, 100 * found.queries.difference, None if both is None else _percent(both.ci95), [])
