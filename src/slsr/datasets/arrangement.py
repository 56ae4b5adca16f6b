"""Decide which image goes into which table: limits, validation images or people, and labels."""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Collection as Names
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from slsr.datasets.collection import UNKNOWN_CAMERA, Collection, Entry, seen_by_another_camera
from slsr.errors import InputError
from slsr.params.dataset import Validation

TableName = Literal["train", "validation", "query", "gallery", "multi_query"]
TABLES: tuple[TableName, ...] = ("train", "validation", "query", "gallery", "multi_query")

FEWEST_PEOPLE = 2  # of a validation by ranking, and of a classifier

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
    validation_queries
        If people are held out whole: the names of the validation images that are queries; the others are the gallery.
    left_out
        Number of images that are in no table, by reason.
    """

    tables: Mapping[TableName, Sequence[Entry]]
    labels: Mapping[int, int]
    single_image: Sequence[int]
    left_out: Mapping[str, int]
    validation_queries: Names[str] = ()


def arrange(
    collection: Collection, identities: int | None, validation: Validation, seed: int, share: float = 0.0
) -> Arrangement:
    """Sort the images of a collection without problems into tables.

    Parameters
    ----------
    identities
        Keep this many training identities and this many identities with queries, the lowest numbers first, and no junk
        or distractors. None: keep everything.
    validation
        `one-per-identity`: hold out one image (with its group) of each training identity that has several.
        `identities`: hold out all images of some training identities.
    seed
        Draws the validation images of each identity, independently of all other identities.
    share
        The share of the training identities that `identities` holds out.

    Raises
    ------
    InputError
        `identities` leaves too few people on a side.
    """
    kept, left_out = _limit(collection.entries, identities)
    by_split = _by_split(kept)
    held_out, single_image, queries = _hold_out(by_split["train"], validation, seed, share)
    multi_query = _asked(by_split["multi_query"], by_split["query"])
    if unasked := len(by_split["multi_query"]) - len(multi_query):
        left_out["multi_query images of no query's identity and camera"] = unasked
    tables: dict[TableName, Sequence[Entry]] = {
        "train": [entry for entry in by_split["train"] if entry.name not in held_out],
        "validation": [entry for entry in by_split["train"] if entry.name in held_out],
        "query": by_split["query"],
        "gallery": by_split["gallery"],
        "multi_query": multi_query,
    }
    classes = tables["train"] if validation == "identities" else by_split["train"]
    labels = {identity: label for label, identity in enumerate(sorted({entry.identity for entry in classes}))}
    return Arrangement(tables, labels, single_image, left_out, queries)


def _by_split(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    """Divide the images by split, sorted by name."""
    found: dict[str, list[Entry]] = {"train": [], "query": [], "gallery": [], "multi_query": []}
    for entry in sorted(entries, key=lambda entry: entry.name):
        found[entry.split].append(entry)
    return found


def _asked(multi_query: Iterable[Entry], query: Iterable[Entry]) -> list[Entry]:
    """Keep the images with the identity and the known camera of a query."""
    asked = {(entry.identity, entry.camera) for entry in query if entry.camera != UNKNOWN_CAMERA}
    return [entry for entry in multi_query if (entry.identity, entry.camera) in asked]


def _hold_out(
    train: Sequence[Entry], validation: Validation, seed: int, share: float
) -> tuple[set[str], list[int], set[str]]:
    """Return the names of the validation images, the identities with a single one, and the names of the queries."""
    if validation == "none":
        return set(), [], set()
    if validation == "one-per-identity":
        return *draw_validation(train, seed), set()
    people = draw_people(train, seed, share)
    held_out = [entry for entry in train if entry.identity in people]
    return {entry.name for entry in held_out}, [], draw_queries(held_out, seed)


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


def draw_people(train: Iterable[Entry], seed: int, share: float) -> set[int]:
    """Draw the training identities to hold out whole: this share of them, rounded, but at least two.

    Each identity has a place in one order that depends only on the seed and its number; the first ones are held out.

    Raises
    ------
    InputError
        Fewer than two people stay in training, fewer than two of those held out have images of two cameras, or nothing
        says the camera of one of their images.
    """
    cameras: dict[int, set[int]] = defaultdict(set)
    for entry in train:
        cameras[entry.identity].add(entry.camera)
    count = max(FEWEST_PEOPLE, round(share * len(cameras)))
    people = set(sorted(cameras, key=lambda identity: (_draw(2**64, "held out", seed, identity), identity))[:count])
    asked = f"dataset.validation: identities, dataset.validation_share: {share:g}"
    if len(cameras) - count < FEWEST_PEOPLE:
        raise InputError(
            f"{asked}: {count} of {len(cameras)} training people would be held out, and training needs at least "
            f"{FEWEST_PEOPLE}; lower the share, or set dataset.validation: one-per-identity"
        )
    _require_cameras([cameras[identity] for identity in people], asked)
    return people


def _require_cameras(cameras: Sequence[Names[int]], asked: str) -> None:
    """Refuse people who cannot be ranked by camera, from the cameras of each one."""
    if any(UNKNOWN_CAMERA in seen for seen in cameras):
        raise InputError(
            f"{asked}: the cameras of some people held out are not known, and a query is searched in the images of "
            "other cameras; set dataset.validation: one-per-identity"
        )
    if (ranked := sum(len(seen) > 1 for seen in cameras)) < FEWEST_PEOPLE:
        raise InputError(
            f"{asked}: {ranked} of the {len(cameras)} people held out have images of two cameras, and at least "
            f"{FEWEST_PEOPLE} must, because a query is searched in the images of other cameras; raise the share, or "
            "set dataset.validation: one-per-identity"
        )


def draw_queries(held_out: Iterable[Entry], seed: int) -> set[str]:
    """Draw one query of each person and camera, so that each query has a right match by another camera in the rest.

    A person with one camera has no query. If fewer than two cameras have several images of a person, one camera
    with a single image keeps it in the gallery, for the queries of the person's other cameras.
    """
    images: dict[int, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for entry in sorted(held_out, key=lambda entry: entry.name):
        images[entry.identity][entry.camera].append(entry.name)
    queries = set()
    for identity, of_camera in images.items():
        cameras = sorted(of_camera) if len(of_camera) > 1 else []
        single = [camera for camera in cameras if len(of_camera[camera]) == 1]
        if single and len(cameras) - len(single) < 2:
            cameras.remove(single[_draw(len(single), "validation gallery", seed, identity)])
        for camera in cameras:
            names = of_camera[camera]
            queries.add(names[_draw(len(names), "validation query", seed, identity, camera)])
    return queries


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
