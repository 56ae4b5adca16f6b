"""Show a comparison of experiments as Markdown, as CSV and as a picture."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slsr.experiments.comparison import Difference, ExperimentComparison, SeedGroup
from slsr.experiments.generated_quality import quality_columns, quality_table
from slsr.experiments.networks import CODE, DATA
from slsr.experiments.splits import SplitGroup
from slsr.markdown import table
from slsr.reporting.published import NOTE, Published
from slsr.reporting.titles import title_of

THOUSANDS = re.compile(r"(?<=\d),(?=\d)")
MEASURES = {"rank1": "rank-1", "map_trapezoid": "mAP"}
SEEDS = {
    "training": "Within a row, a seed changes only the training of the re-ID network: encoder, clusters and generators "
    "stay the same.",
    "pipeline": "Each seed has its own encoder, clusters, generators, generated images and training.",
}
OVER = {
    "seeds": "Mean over seeds ± standard deviation (n - 1) between seeds. Differences are in points and paired by seed "
    "and query, with the 95 % interval for other seeds and other people, and a two-sided p.",
    "splits": "Mean over splits ± standard deviation (n - 1) between splits; a split with several seeds is the mean "
    "over them. Differences are in points and paired by split, seed and query, with the 95 % interval and the "
    "two-sided p of the corrected resampled t-test (Nadeau and Bengio 2003); approximate, because splits share people.",
}
UNEQUAL = (
    "A difference marked `unequal` is between trainings of different length (row vs baseline: the number of steps, the "
    "sum of the backbone's learning rate), so a part of it may come from that alone. `slsr study NAME --steps equal` "
    "runs them with equal steps and an equal schedule. The length is unknown if the cache lacks the curves of a "
    "training (`dvc exp pull`), or if they are of an earlier version."
)
SHORT = {
    "train.backbone": "backbone",
    "train.epochs": "epochs",
    "cluster.k": "K",
    "generate.images": "N",
    "dataset.archive": "data",
}


def varying_settings(groups: Sequence[SeedGroup]) -> dict[str, list[str]]:
    """Return the settings that differ between groups, with one text per group; `-` if it does not depend on one.

    Different data, or different code, is shown by the first digits of a hash.
    """
    keys = sorted({key for group in groups for key in group.settings})
    varying = [key for key in keys if len({json.dumps(one.settings[key]) for one in groups if key in one.settings}) > 1]
    columns = {
        key: [_text(group.settings[key]) if key in group.settings else "-" for group in groups]
        for key in varying
        if not key.startswith((DATA, CODE))
    }
    for prefix in (DATA, CODE):
        if hashed := [key for key in varying if key.startswith(prefix)]:
            columns[prefix[:-1]] = [_short_hash([str(group.settings.get(key)) for key in hashed]) for group in groups]
    return columns


def _text(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _short_hash(parts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:6]


def render_markdown(comparison: ExperimentComparison) -> str:
    """Write two tables: differences to the baseline over seeds and people, and the same over people only."""
    settings = varying_settings(comparison.groups)
    parts = [_searched(comparison), _main_table(comparison, settings), _legend(comparison)]
    parts += [UNEQUAL] if any(comparison.unequal) else []
    parts += _table_over_people(comparison, settings)
    parts += quality_table(comparison.groups, _labels(comparison, settings))
    if any(comparison.published):
        parts.append(NOTE)
    return "\n\n".join(parts) + "\n"


def _searched(comparison: ExperimentComparison) -> str:
    """Say what was searched for, and among how many images."""
    networks = [network for group in comparison.groups for network in group.networks]
    tested = [network.values.people_count for network in networks if network.values is not None]
    people = f" of {_range(tested)} people" if tested else ""
    return (
        f"{comparison.ranking.replace('_', ' ')}: {_range([one.metrics['queries'] for one in networks])} queries"
        f"{people}, {_range([one.metrics['gallery'] for one in networks])} gallery images"
    )


def _legend(comparison: ExperimentComparison) -> str:
    """Say what the numbers of the main table are."""
    text = f"{OVER[comparison.over]} {SEEDS[comparison.seeds_of]}"
    if comparison.against is not None:
        names = ", ".join(network.experiment for network in comparison.against.networks)
        text += f" Differences are to {names}, whatever else differs in the row."
    return text


def _range(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _main_table(comparison: ExperimentComparison, settings: Mapping[str, Sequence[str]]) -> str:
    measures = _shown_measures(comparison)
    with_published = any(comparison.published)
    with_steps = any(group.networks[0].training for group in comparison.groups)
    header = ["", *_short(settings), comparison.over, *(["steps"] if with_steps else [])]
    header += [f"{MEASURES[key]}, %" for key in measures]
    header += [f"{MEASURES[key]} - {_baseline(comparison, settings)}" for key in measures]
    header += ["published: rank-1 / mAP"] if with_published else []
    lines = []
    for number, group in enumerate(comparison.groups):
        found = comparison.differences[number]
        cells = [*_first_cells(group, settings, number), str(group.size)]
        cells += [_steps(group)] if with_steps else []
        cells += [_mean_and_deviation(group, measure) for measure in measures]
        cells += [_over_seeds_and_people(found.get(measure)) + _mark(comparison, number) for measure in measures]
        cells += [_published(comparison.published[number])] if with_published else []
        lines.append(cells)
    return table(header, lines, _numbers_right(settings, len(header)))


def _numbers_right(settings: Mapping[str, Sequence[str]], columns: int) -> list[bool]:
    """Align what says which row it is to the left, and the other columns to the right."""
    return [column > len(settings) for column in range(columns)]


def _table_over_people(comparison: ExperimentComparison, settings: Mapping[str, Sequence[str]]) -> list[str]:
    measures = _shown_measures(comparison)
    lines = [
        [
            *_first_cells(group, settings, number),
            *(_over_people(found[measure]) + _mark(comparison, number) for measure in measures),
        ]
        for number, (group, found) in enumerate(zip(comparison.groups, comparison.differences, strict=True))
        if found
    ]
    if not lines or comparison.over == "splits":
        return []
    header = ["", *_short(settings), *(MEASURES[key] for key in measures)]
    return [
        "The same differences by a paired bootstrap over people with all their queries, for these seeds only (another "
        "seed may differ):",
        table(header, lines, _numbers_right(settings, len(header))),
    ]


def _shown_measures(comparison: ExperimentComparison) -> list[str]:
    return [measure for measure in MEASURES if measure in comparison.measures]


def _short(settings: Mapping[str, Sequence[str]]) -> list[str]:
    return [SHORT.get(key, key) for key in settings]


def _first_cells(group: SeedGroup, settings: Mapping[str, Sequence[str]], number: int) -> list[str]:
    return [title_of(group.regularizer), *(column[number] for column in settings.values())]


def _labels(comparison: ExperimentComparison, settings: Mapping[str, Sequence[str]]) -> list[str]:
    """Name each group by its regularizer and the settings in which groups differ."""
    labels = []
    for number, group in enumerate(comparison.groups):
        varying = (f"{SHORT.get(key, key)} {one[number]}" for key, one in settings.items() if one[number] != "-")
        labels.append(", ".join([title_of(group.regularizer), *varying]))
    return labels


def _baseline(comparison: ExperimentComparison, settings: Mapping[str, Sequence[str]]) -> str:
    if comparison.against is None:
        return title_of(comparison.baseline)
    number = next(number for number, group in enumerate(comparison.groups) if group is comparison.against)
    return _labels(comparison, settings)[number]


def _steps(group: SeedGroup) -> str:
    training = group.training()
    return "-" if training is None else f"{training.steps:,.0f}"


def _mark(comparison: ExperimentComparison, number: int) -> str:
    """Mark a difference between trainings of different length."""
    said = comparison.unequal[number] if comparison.unequal else ""
    return f" ({said})" if said else ""


def _mean_and_deviation(group: SeedGroup, measure: str) -> str:
    values = 100 * group.measured(measure)
    return f"{values.mean():.1f}" + (f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else "")


def _over_seeds_and_people(found: Difference | None) -> str:
    if found is None:
        return "-"
    if found.both is None:
        reason = "one seed" if len(found.seeds) == 1 else "one person"
        return f"{100 * found.mean:+.1f} ({reason}: no interval)"
    return _points(found.both.mean, found.both.ci95, found.both.p)


def _over_people(found: Difference) -> str:
    if found.people is None:
        return "-"
    return _points(found.people.difference, found.people.ci95, found.people.p)


def _points(mean: float, ci95: tuple[float, float] | None, p: float | None) -> str:
    if ci95 is None or p is None:
        return f"{100 * mean:+.1f} (one person: no interval)"
    chance = f"p = {p:.3f}" if p >= 0.001 else "p < 0.001"
    return f"{100 * mean:+.1f} [{100 * ci95[0]:+.1f}, {100 * ci95[1]:+.1f}], {chance}"


def _published(row: Published | None) -> str:
    return "-" if row is None else f"{100 * row.rank1:.2f} / {100 * row.map_trapezoid:.2f} ({row.source})"


def render_csv(comparison: ExperimentComparison) -> str:
    """Write one line per group: every measure as a fraction, with deviations, intervals and published values."""
    settings = varying_settings(comparison.groups)
    lines = []
    for number, group in enumerate(comparison.groups):
        line: dict[str, object] = {"regularizer": group.regularizer, "ranking": comparison.ranking}
        line |= {key: THOUSANDS.sub("", column[number]) for key, column in settings.items()}
        line |= {
            **({"splits": " ".join(map(str, group.splits))} if isinstance(group, SplitGroup) else {}),
            "seeds": " ".join(map(str, dict.fromkeys(group.seeds))),
            "experiments": " ".join(network.experiment for network in group.networks),
        }
        if training := group.training():
            line |= {
                "steps": round(training.steps),
                "rate_sum": training.rate_sum,
                "unequal": comparison.unequal[number] if comparison.unequal else "",
            }
        for measure in comparison.measures:
            line |= _measure_columns(group, measure, comparison.differences[number].get(measure))
        line |= quality_columns(group)
        if row := comparison.published[number]:
            line |= {f"published_{key}": getattr(row, key) for key in ("rank1", "map_trapezoid", "source")}
        lines.append(line)
    columns = list(dict.fromkeys(key for line in lines for key in line))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return buffer.getvalue()


def _measure_columns(group: SeedGroup, measure: str, found: Difference | None) -> dict[str, object]:
    values, interval = group.measured(measure), group.interval(measure)
    line: dict[str, object] = {f"{measure}_mean": float(values.mean())}
    if len(values) > 1:
        line[f"{measure}_deviation"] = float(values.std(ddof=1))
    if interval is not None:
        line |= {f"{measure}_low": interval[0], f"{measure}_high": interval[1]}
    if found is None:
        return line
    both, people = found.both, found.people
    if both is not None:
        line |= _difference_columns(f"{measure}_difference", both.mean, both.ci95, both.p)
    if people is not None:
        line |= _difference_columns(f"{measure}_difference_people", people.difference, people.ci95, people.p)
    return line


def _difference_columns(name: str, mean: float, ci95: tuple[float, float] | None, p: float | None) -> dict[str, object]:
    low, high = (None, None) if ci95 is None else ci95
    return {name: mean, f"{name}_low": low, f"{name}_high": high, f"{name}_p": p}


def draw_comparison(path: Path, comparison: ExperimentComparison) -> None:
    """Draw means with the values of single seeds, and differences to the baseline, each with its interval."""
    from slsr.reporting.figures import Estimate, draw_estimates  # loads matplotlib, which no table needs

    settings = varying_settings(comparison.groups)
    names = [
        f"{name} (unequal)" if _mark(comparison, number).startswith(" (unequal") else name
        for number, name in enumerate(_labels(comparison, settings))
    ]
    panels: dict[str, list[Estimate]] = {}
    zero = []
    for measure in _shown_measures(comparison):
        panels[f"{MEASURES[measure]}, %"] = [
            Estimate(name, *_estimate(comparison, number, measure)) for number, name in enumerate(names)
        ]
        if any(comparison.differences):
            zero.append(f"{MEASURES[measure]} minus {_baseline(comparison, settings)}, points")
            panels[zero[-1]] = [
                Estimate(name, *_difference_estimate(found.get(measure)))
                for name, found in zip(names, comparison.differences, strict=True)
            ]
    note = {
        "seeds": "dot: mean over seeds; bar: 95 % interval over seeds and people; tick: one seed",
        "splits": "dot: mean over splits; bar: 95 % interval over splits, which share people; tick: one split",
    }[comparison.over]
    if any(comparison.published):
        note += "; diamond: published, a single run with another recipe"
    draw_estimates(path, panels, note, zero)


def _percent(interval: tuple[float, float] | None) -> tuple[float, float] | None:
    return None if interval is None else (100 * interval[0], 100 * interval[1])


def _estimate(
    comparison: ExperimentComparison, number: int, measure: str
) -> tuple[float, tuple[float, float] | None, list[float], float | None]:
    """Return mean, interval, values of single seeds and published value of a row, in percent."""
    group, row = comparison.groups[number], comparison.published[number]
    values = 100 * group.measured(measure)
    published_value = None if row is None else 100 * float(getattr(row, measure))
    return float(values.mean()), _percent(group.interval(measure)), values.tolist(), published_value


def _difference_estimate(
    found: Difference | None,
) -> tuple[float | None, tuple[float, float] | None, list[float]]:
    """Return mean and interval of a difference, in points, without values of single seeds."""
    if found is None:
        return None, None, []
    interval = None if found.both is None else _percent(found.both.ci95)
    return 100 * found.mean, interval, []
