"""The facts of a prepared data set: counts, sizes, duplicates, and the protocol of its evaluation."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any, get_args

import numpy as np

from slsr.datasets.arrangement import TABLES, Arrangement, TableName, queries_without_match, queries_without_pool
from slsr.datasets.collection import (
    CAMERAS_UNKNOWN,
    DISTRACTOR,
    JUNK,
    UNKNOWN_CAMERA,
    Collection,
    Entry,
    ProtocolName,
    counted,
)
from slsr.datasets.inspection import Inspection
from slsr.errors import InputError
from slsr.files import read_json
from slsr.images.listing import described

Inspections = Mapping[TableName, Sequence[Inspection]]

EXAMPLES = 10
FEW_IMAGES = 20  # the published k1 of re-ranking: with this many images, k1 is less
COMPARED: tuple[TableName, ...] = ("train", "validation", "query", "gallery")


def describe(
    collection: Collection, arrangement: Arrangement, inspections: Inspections, skipped: Mapping[str, str]
) -> dict[str, Any]:
    """Collect the content of facts.json.

    Parameters
    ----------
    inspections
        What was found in the images of each table, in row order.
    skipped
        Unreadable images that were left out, with the reason.
    """
    tables = arrangement.tables
    unmatched = queries_without_match(tables)
    unpooled = queries_without_pool(tables)
    modes = Counter(inspection.mode for table in TABLES for inspection in inspections[table])
    splits = {name: describe_table(tables[name], inspections[name]) for name in TABLES}
    if arrangement.validation_queries:
        splits["validation"]["queries"] = len(arrangement.validation_queries)
    return {
        "splits": splits,
        "training_identities": len(arrangement.labels),
        "gallery_identities_without_query": len(_people(tables["gallery"]) - _people(tables["query"])),
        **_held_together(arrangement),
        "queries_without_match": _counted_examples(unmatched),
        "queries_without_multi_query_images": len(unpooled) if tables["multi_query"] else None,
        "duplicates": find_duplicates(tables, inspections, collection.evaluation.protocol == "cross-camera"),
        "skipped_unreadable": dict(sorted(skipped.items())),
        "converted_to_rgb": {mode: count for mode, count in sorted(modes.items()) if mode != "RGB"},
        "left_out": dict(arrangement.left_out),
        "ignored_files": {kind: len(names) for kind, names in collection.ignored.items()},
        "notes": notes_of(collection),
        "evaluation": {**asdict(collection.evaluation), "multi_query": bool(tables["query"]) and not unpooled},
    }


def notes_of(collection: Collection) -> list[str]:
    """Say how the archive was understood, and which of its files are not read."""
    return [*collection.notes, *described(collection.ignored)]


def read_facts(path: Path) -> Mapping[str, Any]:
    """Read facts.json.

    Raises
    ------
    InputError
        `prepare` did not write the file: it does not name the data set, its protocol, and whether it has several boxes
        per query.
    """
    facts: object = read_json(path)
    evaluation = facts.get("evaluation") if isinstance(facts, dict) else None
    if (
        not isinstance(facts, dict)
        or not isinstance(evaluation, dict)
        or evaluation.get("protocol") not in get_args(ProtocolName)
        or not isinstance(facts.get("dataset"), str)
        or not isinstance(evaluation.get("multi_query"), bool)
    ):
        raise InputError(f"{path}: not written by `prepare`; make it again with `dvc repro prepare`")
    return facts


def _held_together(arrangement: Arrangement) -> dict[str, list[int]]:
    """List the training identities that have no validation image: with one image, or with one group of images."""
    images = Counter(entry.identity for entry in arrangement.tables["train"])
    return {
        "identities_with_one_training_image": [one for one in arrangement.single_image if images[one] == 1],
        "identities_with_one_training_group": [one for one in arrangement.single_image if images[one] > 1],
    }


def describe_table(entries: Sequence[Entry], inspections: Sequence[Inspection]) -> dict[str, Any]:
    """Count the images, identities and cameras of one table, and measure the images."""
    people = Counter(entry.identity for entry in entries if entry.identity not in {JUNK, DISTRACTOR})
    cameras = Counter(entry.camera for entry in entries if entry.camera != UNKNOWN_CAMERA)
    return {
        "images": len(entries),
        "identities": len(people),
        "cameras": len(cameras),
        "images_per_camera": {str(camera): count for camera, count in sorted(cameras.items())},
        "junk": sum(entry.identity == JUNK for entry in entries),
        "distractors": sum(entry.identity == DISTRACTOR for entry in entries),
        "images_per_identity": _range(list(people.values())),
        "height": _range([inspection.height for inspection in inspections]),
        "width": _range([inspection.width for inspection in inspections]),
    }


def _people(entries: Sequence[Entry]) -> set[int]:
    return {entry.identity for entry in entries} - {JUNK, DISTRACTOR}


def find_duplicates(
    tables: Mapping[TableName, Sequence[Entry]], inspections: Inspections, compare_query_and_gallery: bool
) -> dict[str, Any]:
    """Find images with the same bytes in two tables, or in one table under two identities.

    Multi-query images are not compared, because each query is one of them by design. If one image is used as query
    and as gallery image, `compare_query_and_gallery` is false, and these two are not compared either.
    """
    copies: dict[bytes, dict[TableName, list[Entry]]] = defaultdict(lambda: defaultdict(list))
    for name in COMPARED:
        for entry, inspection in zip(tables[name], inspections[name], strict=True):
            copies[inspection.digest][name].append(entry)
    across: dict[str, list[str]] = defaultdict(list)
    disagreeing = []
    for places in copies.values():
        for first, second in combinations(places, 2):
            if compare_query_and_gallery or {first, second} != {"query", "gallery"}:
                across[f"{first} and {second}"].append(f"{places[first][0].name} = {places[second][0].name}")
        for name, entries in places.items():
            if other := next((entry for entry in entries if entry.identity != entries[0].identity), None):
                disagreeing.append(f"{entries[0].name} = {other.name} ({name})")
    return {
        "across_splits": {pair: _counted_examples(names) for pair, names in sorted(across.items())},
        "of_two_identities": _counted_examples(disagreeing),
    }


def own_image_problem(facts: Mapping[str, Any]) -> str | None:
    """Say that the image of a query is in the gallery, where it would be its own match, if cameras are unknown."""
    pairs = facts["duplicates"]["across_splits"].get("query and gallery")
    if facts["evaluation"]["cameras"] == "known" or pairs is None:
        return None
    return (
        f"{counted(pairs['count'], 'image')} both in query and gallery ({pairs['examples'][0]}), which without cameras "
        "would be right matches of themselves; remove them from one of the two"
    )


def _counted_examples(names: Sequence[str]) -> dict[str, Any]:
    return {"count": len(names), "examples": sorted(names)[:EXAMPLES]}


def _range(values: Sequence[int]) -> dict[str, float] | None:
    if not values:
        return None
    return {"min": min(values), "max": max(values), "mean": round(float(np.mean(values)), 2)}


def summarize(facts: Mapping[str, Any]) -> list[str]:
    """List what a user should know about the facts, one line each."""
    lines = [CAMERAS_UNKNOWN] if facts["evaluation"].get("cameras") == "unknown" else []
    lines += facts["notes"]
    if single := facts["identities_with_one_training_image"]:
        lines.append(f"training identities with one image, which stays in training: {_shown(single)}")
    if single := facts["identities_with_one_training_group"]:
        lines.append(f"training identities with one group of images, which stays in training: {_shown(single)}")
    if count := facts["queries_without_multi_query_images"]:
        lines.append(f"{_queries(count)} without multi-query images: multi-query evaluation is skipped")
    tested = sum(facts["splits"][name]["images"] for name in ("query", "gallery"))
    if facts["evaluation"]["protocol"] == "cross-camera" and tested <= FEW_IMAGES:
        lines.append(f"only {tested} query and gallery images: re-ranking compares at most {tested - 1} neighbors (k1)")
    if count := facts["queries_without_match"]["count"]:
        lines.append(f"{_queries(count)} without a right match by another camera: evaluation leaves them out")
    for pair, found in facts["duplicates"]["across_splits"].items():
        lines.append(f"the same image in {pair}: {found['count']}, for example {found['examples'][0]}")
    if count := facts["duplicates"]["of_two_identities"]["count"]:
        lines.append(f"{counted(count, 'image')} under two identities")
    if skipped := facts["skipped_unreadable"]:
        lines.append(f"{counted(len(skipped), 'unreadable image')} skipped")
    for mode, count in facts["converted_to_rgb"].items():
        lines.append(f"{counted(count, 'image')} of mode {mode}, converted to RGB when used")
    for reason, count in facts["left_out"].items():
        lines.append(f"{counted(count, 'image')} left out: {reason}")
    return lines


def _queries(count: int) -> str:
    return counted(count, "query", "queries")


def _shown(values: Sequence[int]) -> str:
    return ", ".join(map(str, values[:EXAMPLES])) + (", ..." if len(values) > EXAMPLES else "")
