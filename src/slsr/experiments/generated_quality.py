"""The quality of the generated images on which compared networks were trained."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slsr.experiments.comparison import SeedGroup
from slsr.markdown import table
from slsr.reporting.titles import QUALITY_MEASURES, QUALITY_SPACES

Quality = Mapping[str, Any]
Values = NDArray[np.float64]
SHOWN = {
    "imagenet": {"kernel": "KID", "coverage": "coverage", "recall": "recall", "duplicates": "duplicates"},
    "handcrafted": {"kernel": "KID", "coverage": "coverage", "copies": "copies"},
    "encoder": {"kernel": "KID", "coverage": "coverage"},
}
NOTE = (
    "The quality of all generated images together (docs/generators.md): the mean over the sets of images on which the "
    "seeds of a row were trained, ± the deviation between sets; in brackets the reference, which is the value of real "
    "images that were left out; and the number of alarms, those of single clusters included."
)


def quality_table(groups: Sequence[SeedGroup], labels: Sequence[str]) -> list[str]:
    """Write the quality of generated images in Markdown, once for all groups that share the images.

    The list is empty if no quality is known.
    """
    names: dict[str, list[str]] = {}
    measured: dict[str, Sequence[Quality]] = {}
    unknown = []
    for group, label in zip(groups, labels, strict=True):
        if found := qualities(group):
            key = json.dumps(found)
            names.setdefault(key, []).append(label)
            measured[key] = found
        elif "generate.images" in group.settings:
            unknown.append(label)
    if not measured:
        return []
    spaces = [space for space in SHOWN if any(space in one["overall"] for found in measured.values() for one in found)]
    titles = [f"{title}, {space}" for space in spaces for title in SHOWN[space].values()]
    lines = [["; ".join(names[key]), *_cells(found, spaces)] for key, found in measured.items()]
    note = NOTE + (f" The cache does not have it for {'; '.join(unknown)}." if unknown else "")
    return [note, table(["generated images of", "sets", *titles, "alarms"], lines)]


def qualities(group: SeedGroup) -> list[Quality]:
    """List the quality of each set of generated images of a group once; empty if one of them is not known."""
    if not all(network.quality for network in group.networks):
        return []
    return list({json.dumps(one.quality): one.quality for one in group.networks if one.quality}.values())


def quality_columns(group: SeedGroup) -> dict[str, object]:
    """Return the mean of every quality measure, as columns of a CSV file."""
    sets = qualities(group)
    found = {(space, name): _values(sets, space, name)[0] for space in QUALITY_SPACES for name in QUALITY_MEASURES}
    return {f"generated_{space}_{name}": float(values.mean()) for (space, name), values in found.items() if len(values)}


def _cells(sets: Sequence[Quality], spaces: Sequence[str]) -> list[str]:
    measures = [_mean_and_reference(*_values(sets, space, name)) for space in spaces for name in SHOWN[space]]
    return [str(len(sets)), *measures, str(sum(len(quality["alarms"]) for quality in sets))]


def _values(sets: Sequence[Quality], space: str, name: str) -> tuple[Values, Values]:
    """Return a measure of each set and its reference, without the sets in which it was not measured."""
    found = [quality["overall"].get(space, {}).get(name) for quality in sets]  # earlier versions had fewer spaces
    pairs = [(one["value"], one.get("reference", one.get("floor"))) for one in found if one is not None]
    known = [pair for pair in pairs if None not in pair]  # `floor`: an earlier name of `reference`
    values, references = np.array(known, np.float64).reshape(-1, 2).T
    return values, references


def _mean_and_reference(values: Values, references: Values) -> str:
    if not len(values):
        return "-"
    deviation = f" ± {values.std(ddof=1):.2f}" if len(values) > 1 else ""
    return f"{values.mean():.2f}{deviation} [{references.mean():.2f}]"
