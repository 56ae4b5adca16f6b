"""Decide which image goes into which table: limits, validation images and labels."""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from slsr.datasets.collection import Collection, Entry, seen_by_another_camera
from slsr.images.tables import UNKNOWN_CAMERA

TableName = Literal["train", "validation", "query", "gallery", "multi_query"]
TABLES: tuple[TableName, ...] = ("train", "validation", "query", "gallery", "multi_query")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Arrangement:
    """The rows of each table, ascending by name, and the labels.

    Attributes
    ----------
    labels
        The label of each training identity: 0 to C-1 by ascending identity.
    single_image
        Training identities with one image (or one group), which stay in training and have no validation image.
    left_out
        Number of images that are in no table, by reason.
    """

    tables: Mapping[TableName, Sequence[Entry]]
    labels: Mapping[int, int]
    single_image: Sequence[int]
    left_out: Mapping[str, int]


def arrange(
    collection: Collection, identities: int | None, validation: Literal["one-per-identity", "none"], seed: int
) -> Arrangement:
    """Sort the images of a collection without problems into tables.

    Parameters
    ----------
    identities
        Keep this many training identities and this many identities with queries, the lowest numbers first, and no junk
        or distractors. None: keep everything.
    validation
        `one-per-identity`: hold out one image (with its group) of each training identity that has several.
    seed
        Draws the validation images of each identity, independently of all other identities.
    """
    kept, left_out = _limit(collection.entries, identities)
    by_split: dict[str, list[Entry]] = {"train": [], "query": [], "gallery": [], "multi_query": []}
    for entry in sorted(kept, key=lambda entry: entry.name):
        by_split[entry.split].append(entry)
    held_out, single_image = (
        draw_validation(by_split["train"], seed) if validation == "one-per-identity" else (set(), [])
    )
    asked = {(entry.identity, entry.camera) for entry in by_split["query"] if entry.camera != UNKNOWN_CAMERA}
    multi_query = [entry for entry in by_split["multi_query"] if (entry.identity, entry.camera) in asked]
    if unasked := len(by_split["multi_query"]) - len(multi_query):
        left_out["multi_query images of no query's identity and camera"] = unasked
    tables: dict[TableName, Sequence[Entry]] = {
        "train": [entry for entry in by_split["train"] if entry.name not in held_out],
        "validation": [entry for entry in by_split["train"] if entry.name in held_out],
        "query": by_split["query"],
        "gallery": by_split["gallery"],
        "multi_query": multi_query,
    }
    ordered = sorted({entry.identity for entry in by_split["train"]})
    return Arrangement(tables, {identity: label for label, identity in enumerate(ordered)}, single_image, left_out)


def draw_validation(train: Iterable[Entry], seed: int) -> tuple[set[str], list[int]]:
    """Draw the images to hold out; return their names, and the identities that have only one image (or group).

    The draw of an identity depends only on the seed, its number and its own images. Adding or removing other
    identities does not change it.
    """
    groups: dict[int, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for entry in sorted(train, key=lambda entry: entry.name):
        unit = f"image {entry.name}" if entry.group is None else f"group {entry.group}"
        groups[entry.identity][unit].append(entry.name)
    held_out: set[str] = set()
    single = []
    for identity, units in sorted(groups.items()):
        if len(units) == 1:
            single.append(identity)
        else:
            held_out.update(list(units.values())[_draw(len(units), "validation", seed, identity)])
    return held_out, single


def queries_without_match(tables: Mapping[TableName, Sequence[Entry]]) -> list[str]:
    """List the queries without a gallery image of the same identity by another camera."""
    matched = seen_by_another_camera(tables["query"], tables["gallery"])
    return [entry.name for entry, found in zip(tables["query"], matched, strict=True) if not found]


def queries_without_pool(tables: Mapping[TableName, Sequence[Entry]]) -> list[str]:
    """List the queries without a multi-query image of the same identity and camera."""
    pooled = {(entry.identity, entry.camera) for entry in tables["multi_query"]}
    return [entry.name for entry in tables["query"] if (entry.identity, entry.camera) not in pooled]


def _draw(count: int, *key: object) -> int:
    """Draw a number below `count` from the key, the same with every version of every library."""
    digest = hashlib.sha256(":".join(map(str, key)).encode()).digest()
    return int.from_bytes(digest[:8], "big") % count


def _limit(entries: Sequence[Entry], identities: int | None) -> tuple[list[Entry], dict[str, int]]:
    if identities is None:
        return list(entries), {}
    train = _first({entry.identity for entry in entries if entry.split == "train"}, identities, "training")
    test = _first({entry.identity for entry in entries if entry.split == "query"}, identities, "test")
    kept = [entry for entry in entries if entry.identity in (train if entry.split == "train" else test)]
    return kept, {f"identities beyond the first {identities}, junk and distractors": len(entries) - len(kept)}


def _first(found: set[int], limit: int, what: str) -> set[int]:
    if len(found) < limit:
        log.warning("dataset.identities is %d, but there are %d %s identities: all are used", limit, len(found), what)
    return set(sorted(found)[:limit])
