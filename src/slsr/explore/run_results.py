"""What the run measured: the accuracy of its models, and the quality of its generated images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slsr.files import read_json
from slsr.reporting.titles import QUALITY_MEASURES, QUALITY_SPACES, VERDICTS

AGREEMENT = 0.01  # another processor may move a query or two
KEY_MEASURES = ("kernel", "coverage", "precision", "recall", "duplicates", "copies")
BETTER = {"kernel": "lower", "coverage": "higher", "precision": "higher", "recall": "higher"}
ALARM_MEANINGS = {
    "collapse": "few different images",
    "memorization": "copies of training images",
    "unlike": "far from the real images",
    "narrow": "less variety than the real images",
}


@dataclass(frozen=True)
class Score:
    """A share of queries or a mean precision, as a fraction, with its 95 % interval if the run computed one."""

    value: float
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Accuracy:
    """Rank-1 and mAP (trapezoid) of a model; those after re-ranking are None if the run did not measure them."""

    rank1: Score
    mean_precision: Score
    reranked_rank1: Score | None = None
    reranked_mean_precision: Score | None = None


def read_accuracy(model: Path, headline: tuple[float, float] | None) -> Accuracy | None:
    """Read what `evaluate` measured of a trained model; without that, only `headline` is known.

    The metrics of another gallery, of an earlier model, or in another form are not shown: they must agree with the
    headline.

    Parameters
    ----------
    model : the checkpoint; `evaluate` writes to artifacts/evaluate/NAME if it is in artifacts/train/NAME
    headline : rank-1 and mAP (trapezoid) on the queries and the gallery of the page; None if these have no labels

    Raises
    ------
    InputError
        The metrics are damaged.
    """
    if headline is None:
        return None
    computed = Accuracy(Score(headline[0]), Score(headline[1]))
    folder = model.absolute().parent  # not of a file in DVC's cache that the checkpoint may be a link to
    path = folder.parent.parent / "evaluate" / folder.name / "metrics.json"
    if folder.parent.name != "train" or not path.is_file():
        return computed
    metrics = read_json(path)
    plain = _scores(metrics, "single_query")
    if plain is None or any(abs(one.value - own) > AGREEMENT for one, own in zip(plain, headline, strict=True)):
        return computed
    return Accuracy(*plain, *(_scores(metrics, "single_query_rerank") or ()))


def _scores(metrics: Any, ranking: str) -> tuple[Score, Score] | None:
    """Return rank-1 and mAP of a ranking; None if they are missing or of another form."""
    try:
        found = metrics[ranking]
        return _score(found, "rank1"), _score(found, "map_trapezoid")
    except (LookupError, TypeError, ValueError, AttributeError):
        return None


def _score(found: Mapping[str, Any], name: str) -> Score:
    interval = found.get(f"{name}_ci95")
    return Score(float(found[name]), (float(interval[0]), float(interval[1])) if interval else None)


@dataclass(frozen=True)
class Measure:
    """A quality measure in one space: the value, that of real images, and which side is better, as text."""

    title: str
    value: str
    reference: str
    better: str


@dataclass(frozen=True)
class Quality:
    """What is known of the generated images of one cluster, or of all clusters.

    `rows` has the title of each measure and its values in `spaces`, with the references in brackets.
    """

    sizes: str
    verdict: str
    alarms: Sequence[str]
    key_measures: Sequence[Measure]
    key_space: str
    spaces: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str]]]


def read_quality(images: Path, say: Callable[[str], None]) -> Mapping[str, Any] | None:
    """Read quality.json beside the table of generated images; None if the file is absent.

    A file of another form, for example of another version, is not shown either; `say` is told.

    Raises
    ------
    InputError
        The file is damaged.
    """
    path = images.parent / "quality.json"
    if not path.is_file():
        return None
    found = read_json(path)
    if _can_be_shown(found):
        return found  # type: ignore[no-any-return]
    say(f"{path}: not in the form that this version writes; the quality of the generated images is not shown")
    return None


def _can_be_shown(quality: Any) -> bool:
    """Whether every cluster, and all together, can be prepared for reading."""
    try:
        for cluster in (None, *(one["cluster"] for one in quality.get("clusters", []))):
            quality_of(quality, cluster)
        alarms_by_cluster(quality)
    except (LookupError, TypeError, ValueError, AttributeError):
        return False
    return True


def quality_of(quality: Mapping[str, Any], cluster: int | None) -> Quality | None:
    """Prepare the quality of one cluster, or of all clusters together if it is None, for reading.

    The result is None if the cluster was not measured.
    """
    sets = [quality["overall"]] if cluster is None else quality.get("clusters", [])
    found = next((one for one in sets if one.get("cluster") == cluster), None)
    if found is None:
        return None
    spaces = [space for space in QUALITY_SPACES if space in found]
    rows = [
        (title, [_with_reference(found[space].get(name)) for space in spaces])
        for name, title in QUALITY_MEASURES.items()
        if any(name in found[space] for space in spaces)
    ]
    return Quality(
        sizes=f"{found['generated']:,} generated images are compared with {found['real']:,} real images.",
        verdict=VERDICTS.get(found.get("verdict"), VERDICTS[None]),
        alarms=[_alarm(one) for one in quality.get("alarms", []) if one["cluster"] == cluster],
        key_measures=_key_measures(found[spaces[0]]) if spaces else [],
        key_space=QUALITY_SPACES[spaces[0]] if spaces else "",
        spaces=[QUALITY_SPACES[space] for space in spaces],
        rows=rows,
    )


def alarms_by_cluster(quality: Mapping[str, Any] | None) -> dict[int | None, int]:
    """Count the alarms of each cluster; None stands for all clusters together."""
    counts: dict[int | None, int] = {}
    for alarm in (quality or {}).get("alarms", []):
        counts[alarm["cluster"]] = counts.get(alarm["cluster"], 0) + 1
    return counts


def _key_measures(found: Mapping[str, Any]) -> list[Measure]:
    shown = [(name, found.get(name)) for name in KEY_MEASURES]
    return [
        Measure(QUALITY_MEASURES[name], _number(one["value"]), _number(one.get("reference")), BETTER.get(name, "lower"))
        for name, one in shown
        if one is not None and one["value"] is not None
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _with_reference(found: Mapping[str, float | None] | None) -> str:
    if found is None or found["value"] is None:
        return "-"
    reference = found.get("reference")
    return _number(found["value"]) + ("" if reference is None else f" [{reference:.3f}]")


def _alarm(alarm: Mapping[str, Any]) -> str:
    side = "below" if alarm["value"] < alarm["limit"] else "above"
    kind, measure = alarm["alarm"], QUALITY_MEASURES.get(alarm["measure"], alarm["measure"])
    meaning = f" ({ALARM_MEANINGS[kind]})" if kind in ALARM_MEANINGS else ""
    space = QUALITY_SPACES.get(alarm["space"], alarm["space"])
    return f"{kind}{meaning}: {measure} is {alarm['value']:.3f}, {side} the limit {alarm['limit']:.3g} ({space})"
