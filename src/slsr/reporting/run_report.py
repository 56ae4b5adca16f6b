"""The report of a run, metrics/report.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slsr.datasets.collection import CAMERAS_UNKNOWN
from slsr.markdown import table
from slsr.params.dataset import Dataset
from slsr.params.generate import Generate
from slsr.params.recipe import Image, Recipe
from slsr.reporting.published import published_silhouettes
from slsr.reporting.titles import (
    QUALITY_MEASURES,
    QUALITY_SPACES,
    RANKINGS,
    RETRIEVAL_MEASURES,
    VERDICTS,
    describe_verdict,
    title_of,
)

ARTIFACTS = "artifacts"
SEEN = (
    "The discriminator saw features of the network of the ImageNet space, so the generator was trained to deceive this "
    "network. Therefore another network, EfficientNet-Lite1, measures the same images; the verdict is the worse of the "
    "two."
)
SPLITS = ("train", "validation", "query", "gallery", "multi_query")


@dataclass(frozen=True)
class ReportParameters:
    """The blocks of params.yaml that the report names."""

    dataset: Dataset
    image: Image
    encoder: Recipe
    train: Recipe
    generate: Generate


@dataclass(frozen=True)
class Report:
    """The results of all stages, as they wrote them, and the parameters."""

    parameters: ReportParameters
    dataset: dict[str, Any]
    floors: dict[str, Any]
    clusters: dict[str, Any]
    generated: dict[str, Any]
    runs: dict[str, dict[str, Any]]
    comparison: dict[str, Any]


def rankings_of(runs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """List the ways of ranking by which the runs were measured, the plain one first."""
    measured = next(iter(runs.values()))
    return [name for name in RANKINGS if name in measured]


def render(report: Report) -> str:
    """Write the report in Markdown."""
    parts = [
        "# Baseline, LSRO and SLSR, trained with the same recipe",
        _setting(report),
        *_rankings(report),
        "## Differences",
        _differences(report),
        "![CMC curves, Figure 5 of the paper](cmc.png)",
        "## Training",
        "![Training loss and validation](curves.png)",
        "## Clusters",
        _clusters(report.clusters, _published_silhouettes(report)),
        "![Mean silhouette for each k, Table 1 of the paper](silhouettes.png)",
        "## Generated images",
        _generated(report.generated),
        "## Pictures of people",
        _pictures(list(report.runs)),
    ]
    return "\n\n".join(parts) + "\n"


def ranking_table(methods: Mapping[str, Mapping[str, Any]], ranking: str, measures: Iterable[str]) -> str:
    """Write one way of ranking as a table: a row for each floor and method, with the interval of each measure."""
    rows = {name: found[ranking] for name, found in methods.items() if ranking in found}
    keys = [key for key in measures if key in next(iter(rows.values()))]
    body = [[title_of(name), *(_with_interval(found, key) for key in keys)] for name, found in rows.items()]
    return table(["", *(RETRIEVAL_MEASURES[key] for key in keys)], body)


def _setting(report: Report) -> str:
    parameters, splits = report.parameters, report.dataset["splits"]
    train, recipe = splits["train"], parameters.train
    length = f"{recipe.epochs} epochs" if recipe.steps is None else f"{recipe.steps:,} steps"
    control = (
        "The baseline does not see these images, so its epochs have fewer images and its training has fewer steps: a "
        "gain over the baseline is a gain of images, labels and steps together."
        if recipe.steps is None and recipe.sampler == "shuffle"
        else "The baseline does not see these images; it is trained for as many steps, under the same schedule."
    )
    counts = ", ".join(f"{splits[name]['images']:,} {name.replace('_', '-')}" for name in SPLITS)
    return (
        f"`{parameters.dataset.archive}`: {counts} images; {train['identities']} training identities. "
        f"{recipe.backbone}, {parameters.image.height}x{parameters.image.width} pixels, weights {recipe.weights}, "
        f"{length}, {recipe.optimizer.name}, {recipe.schedule.name} schedule, seed {recipe.seed}; "
        f"{parameters.generate.images:,} generated images from {report.clusters['chosen_k']} clusters for LSRO and "
        "SLSR. All methods are trained with the same recipe; LSRO and SLSR differ only in the labels of the generated "
        f"images. {control}\n\n"
        "Values are percentages; in brackets is the 95 % interval of a bootstrap over people with all their queries. "
        "The interval covers the choice of people, but not the seed of the training, nor the processor: another seed, "
        "and the same seed on another processor, change every row."
    )


def _rankings(report: Report) -> list[str]:
    """Write one section for each way of ranking."""
    parts = []
    for ranking in rankings_of(report.runs):
        methods = report.floors | report.runs
        found = next(each[ranking] for each in methods.values() if ranking in each)
        size = f"{found['queries']:,} queries of {found['people']:,} people, {found['gallery']:,} gallery images"
        if found.get("queries_without_match"):
            size += f"; {found['queries_without_match']:,} queries without a correct match are left out"
        if report.dataset["evaluation"].get("cameras") == "unknown":
            size += f". **{CAMERAS_UNKNOWN.rstrip('.')}**"
        parts += [f"## {RANKINGS[ranking]}", f"{size}.", ranking_table(methods, ranking, RETRIEVAL_MEASURES)]
    return parts


def _with_interval(found: Mapping[str, Any], key: str) -> str:
    if found[f"{key}_ci95"] is None:
        return f"{100 * found[key]:.1f} (one person: no interval)"
    low, high = found[f"{key}_ci95"]
    return f"{100 * found[key]:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _differences(report: Report) -> str:
    rows, keys = [], [key for key in ("rank1", "map_trapezoid") if _compared(report, key)]
    for pair, rankings in report.comparison.items():
        second, first = pair.split("_minus_")
        for ranking in (name for name in RANKINGS if name in rankings):
            cells = [_difference(rankings[ranking][key]) for key in keys]
            rows.append([f"{title_of(second)} - {title_of(first)}, {RANKINGS[ranking].lower()}", *cells])
    if not rows:
        return "There is only one method, so there is nothing to compare."
    note = (
        "**This is one run, and nothing here is a finding about the methods.** Another seed changes every row, and so "
        "does the same seed on another processor; the order of the methods can change, too. One run cannot tell which "
        "differences would remain. Several seeds can: `slsr study regularizers --seeds 1-5`, then `slsr compare`; "
        "docs/results.md shows this for the sample.\n\n"
        "Differences are in points and paired over the same queries, with the 95 % interval of a bootstrap over people "
        "with all their queries. If the interval contains 0, this run shows no difference between the two. If it does "
        "not, other people would probably show a difference of the same sign between these two networks; other "
        "networks of the same two methods may not."
    )
    return f"{note}\n\n{table(['this run only', *(RETRIEVAL_MEASURES[key] for key in keys)], rows)}"


def _compared(report: Report, key: str) -> bool:
    return any(key in found for rankings in report.comparison.values() for found in rankings.values())


def _difference(found: Mapping[str, Any]) -> str:
    if found["ci95"] is None:
        return f"{100 * found['difference']:+.1f} (one person: no interval)"
    low, high = found["ci95"]
    return f"{100 * found['difference']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def _published_silhouettes(report: Report) -> Mapping[int, float]:
    parameters = report.parameters
    return published_silhouettes(
        parameters.dataset.name,
        parameters.encoder.backbone,
        parameters.encoder.weights,
        parameters.image.height,
        report.clusters["make_up"]["training_identities"],
    )


def _clusters(clusters: Mapping[str, Any], published: Mapping[int, float]) -> str:
    rows = [
        [
            f"{row['k']}{' (used)' if row['k'] == clusters['chosen_k'] else ''}",
            _silhouette(row["silhouette_full_dimension"]),
            _silhouette(row["silhouette_two_components"]),
            *([f"{published[row['k']]:.2f} %" if row["k"] in published else "-"] if published else []),
        ]
        for row in clusters["sweep"]
    ]
    header = ["k", "silhouette, full dimension", "silhouette, two principal components"]
    header += ["published, two principal components (Table 1)"] if published else []
    make_up = clusters["make_up"]
    sizes = ", ".join(
        f"{images:,} images of {identities} identities"
        for images, identities in zip(make_up["images"][:10], make_up["identities"][:10], strict=True)
    )
    more = ", ..." if len(make_up["images"]) > 10 else ""
    sampled = clusters["silhouette_images"]
    note = (
        f"\n\nSilhouettes are computed from {sampled:,} images drawn at random."
        if sampled < sum(make_up["images"])
        else ""
    )
    if published:
        note += (
            "\n\nThe published column is a single run of the paper's own training, which used the validation images "
            "too; it is shown for comparison and is not a target."
        )
    return (
        table(header, rows)
        + f"{note}\n\nClusters: {sizes}{more}. {make_up['straddling_identities']} of {make_up['training_identities']} "
        f"identities have images in several clusters; purity {make_up['purity']:.3f}."
    )


def _silhouette(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"


def _pictures(runs: Sequence[str]) -> str:
    """Name the pictures that show images of the data set, and so stay out of git; a link would be broken there."""
    shown = {
        "Clusters on the first two principal components (Figure 4)": f"{ARTIFACTS}/clusters/clusters.png",
        "Members of each cluster (Figure 3)": f"{ARTIFACTS}/clusters/members.png",
        "Generated images above real images of their cluster (Figure 2)": f"{ARTIFACTS}/generated/sheet.png",
    }
    for run in runs:
        for name, how in (("ranked_lists", "ranked"), ("ranked_lists_rerank", "re-ranked")):
            title = f"{title_of(run)}: gallery images {how} for some queries (Figure 6)"
            shown[title] = f"{ARTIFACTS}/evaluate/{run}/{name}.png"
    note = (
        "Git never has these pictures, because real data sets show real people. DVC caches them: after `dvc pull` or "
        "`dvc repro`, the page of `dvc plots show --open` shows them all, and these files have them:"
    )
    return "\n".join([note, "", *(f"- {title}: `{path}`" for title, path in shown.items())])


def _generated(quality: Mapping[str, Any]) -> str:
    overall = quality["overall"]
    spaces = [space for space in QUALITY_SPACES if space in overall]
    rows = [
        [title, *(_measured(overall[space].get(name)) for space in spaces)]
        for name, title in QUALITY_MEASURES.items()
        if any(name in overall[space] for space in spaces)
    ]
    consistency = quality["cluster_consistency"]
    note = (
        f"{overall['generated']:,} generated images are compared with {overall['real']:,} real images. "
        f"**{describe_verdict(quality)}**{_verdicts_by_cluster(quality)}"
    )
    explained = (
        "The verdict follows from the ImageNet space, pooled features of EfficientNet-Lite0; docs/generators.md has "
        "its rules. The handcrafted space has colors and edges; the encoder space was clustered. The reference is in "
        f"brackets: the same measure of real images compared with real images. {_percent(consistency['value'])} of the "
        "generated images are nearest to the centroid of their own cluster (real images: "
        f"{_percent(consistency['reference'])})."
    )
    seen = [SEEN] if quality.get("discriminator_saw") else []
    sheet = f"The sheet of generated images above real ones is `{ARTIFACTS}/generated/sheet.png`."
    measures = table(["", *(QUALITY_SPACES[space] for space in spaces)], rows)
    support = _label_support(quality["label_support"]["overall"])
    return "\n\n".join([note, sheet, measures, explained, *seen, support, _alarms(quality["alarms"])])


def _verdicts_by_cluster(quality: Mapping[str, Any]) -> str:
    """Count the verdicts on single clusters, as a sentence; an empty one if no cluster has a verdict."""
    counts = Counter(each.get("verdict") for each in quality.get("clusters", []))
    found = [f"{counts[verdict]} {verdict}" for verdict in VERDICTS if verdict is not None and counts[verdict]]
    return f" By cluster: {', '.join(found)}." if found else ""


def _label_support(found: Mapping[str, Mapping[str, float]]) -> str:
    """Say how much of the encoder's prediction is on the identities of the labels."""
    shares = {
        name: f"{_percent(one['value'])} (real images: {_percent(one['reference'])}; chance: {_percent(one['chance'])})"
        for name, one in found.items()
    }
    return (
        f"How well the labels fit: of the encoder's prediction for a generated image, {shares['slsr']} is on the "
        f"identities of its cluster, the label of SLSR, and {shares['slsr-nearest']} on the identities of its nearest "
        "training images, the label of `slsr-nearest`. These are nearest in the same encoder's space, so the second "
        "share is not independent evidence."
    )


def _measured(found: Mapping[str, float | None] | None) -> str:
    if found is None or found["value"] is None:
        return "-"
    reference = "" if found["reference"] is None else f" [{found['reference']:.3f}]"
    return f"{found['value']:.3f}{reference}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _alarms(alarms: Sequence[Mapping[str, Any]]) -> str:
    """Write one line for each kind of alarm: where it was raised, with the value there."""
    if not alarms:
        return "There is no alarm."
    kinds: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for alarm in alarms:
        kinds.setdefault((alarm["alarm"], alarm["measure"], alarm["space"]), []).append(alarm)
    lines = [
        f"- **{kind}**, {QUALITY_SPACES[space]}: {measure} beyond {_limits(found)} in {_places(found)}"
        for (kind, measure, space), found in kinds.items()
    ]
    return "\n".join(["Alarms:", "", *lines])


def _limits(alarms: Sequence[Mapping[str, Any]]) -> str:
    """Write the limit, or the range of limits that depend on the real images of each cluster."""
    lowest, highest = (f"{choose(one['limit'] for one in alarms):.3g}" for choose in (min, max))
    return lowest if lowest == highest else f"{lowest} to {highest}"


def _places(alarms: Sequence[Mapping[str, Any]]) -> str:
    names = ["all clusters together" if one["cluster"] is None else f"cluster {one['cluster']}" for one in alarms]
    shown = [f"{name} ({one['value']:.3f})" for name, one in zip(names[:8], alarms, strict=False)]
    return ", ".join(shown) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
