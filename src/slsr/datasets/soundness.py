"""Find what makes a split unusable, from the names and numbers of its images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal

from slsr.datasets.collection import (
    DISTRACTOR,
    JUNK,
    LARGEST_CAMERA,
    LARGEST_IDENTITY,
    UNKNOWN_CAMERA,
    Collection,
    counted,
    seen_by_another_camera,
)
from slsr.errors import InputError


def find_problems(collection: Collection, training: bool = True) -> list[str]:
    """List every problem of the numbers, the names and the split, one sentence each.

    Without `training`, images to train on are not needed.
    """
    return [*_bad_entries(collection), *_names_twice(collection), *_bad_split(collection, training)]


def require_sound(collection: Collection, training: bool = True) -> None:
    """Raise InputError with the first problem and the name of the archive, if there is a problem."""
    for problem in find_problems(collection, training):
        raise InputError(f"{collection.origin}: {problem}")


def require_cameras(collection: Collection, cameras: Literal["unknown"] | None, option: str) -> None:
    """Refuse test images of unknown cameras unless the user accepts that, and the acceptance if all are known.

    Parameters
    ----------
    option
        What a user writes to accept it, for the message.
    """
    unknown = collection.without_camera()
    if unknown and cameras is None:
        raise InputError(f"{cameras_unknown(collection)}; {option} accepts that and marks them")
    if cameras == "unknown" and not unknown:
        raise InputError(f"{option}, but the camera of every test image is known; leave it out (null)")


def cameras_unknown(collection: Collection) -> str:
    """Say how many test images have no camera, and what that means."""
    unknown = collection.without_camera()
    tests = sum(entry.split != "train" for entry in collection.entries)
    return (
        f"{collection.origin}: nothing says the camera of {counted(len(unknown), 'test image')} of {tests:,}, for "
        f"example {unknown[0].source}; images of the query's own camera would count as right matches, so that every "
        "number is too high: name the cameras (a folder per camera, the column camera, or names "
        "like 0002_c1s1_000451_03.jpg)"
    )


def _bad_entries(collection: Collection) -> Iterator[str]:
    for entry in collection.entries:
        if not JUNK <= entry.identity <= LARGEST_IDENTITY:
            yield f"{entry.source} has identity {entry.identity}, not within -1..{LARGEST_IDENTITY}; renumber it"
        if not UNKNOWN_CAMERA <= entry.camera <= LARGEST_CAMERA:
            yield f"{entry.source} has camera {entry.camera}, not within 0..{LARGEST_CAMERA}; renumber it"
        if entry.split in {"train", "query"} and entry.identity in {JUNK, DISTRACTOR}:
            yield (
                f"{entry.source} ({entry.split}) has identity {entry.identity}, which only gallery images may have "
                "(-1 junk, 0 distractor); number people from 1"
            )


def _names_twice(collection: Collection) -> Iterator[str]:
    counts = Counter((entry.split, entry.name) for entry in collection.entries)
    if twice := [key for key, count in counts.items() if count > 1]:
        split, name = min(twice)
        yield (
            f"{counted(len(twice), 'name')} used more than once, for example {name} in {split}; "
            "rename or remove the images"
        )


def _bad_split(collection: Collection, training: bool) -> Iterator[str]:
    train, query, gallery = (
        {entry.identity for entry in collection.entries if entry.split == split}
        for split in ("train", "query", "gallery")
    )
    for split, identities in (("train", train), ("query", query), ("gallery", gallery)):
        if not identities and training:
            yield f"no {split} images; train, query and gallery all need images"
        elif not identities and split != "train":
            yield f"no {split} images; query and gallery need images"
    if training and len(train) == 1:
        yield "only 1 training identity; at least 2 are needed"
    if both := sorted(train & (query | gallery)):
        yield (
            f"{_listed(both)} both in training and test, so that the results would be invalid; "
            "move each identity to one side"
        )
    if collection.own and gallery and (absent := sorted(query - gallery)):
        yield f"{_listed(absent)} in query but not in gallery; add gallery images, or remove the queries"
    elif query and gallery and not _any_query_has_a_match(collection):
        yield (
            "no query has a right match, which is a gallery image of its identity by another camera; nothing could be "
            "measured, so add gallery images or correct the numbers of identities and cameras"
        )


def _any_query_has_a_match(collection: Collection) -> bool:
    gallery = [entry for entry in collection.entries if entry.split == "gallery"]
    queries = [entry for entry in collection.entries if entry.split == "query"]
    return any(seen_by_another_camera(queries, gallery))


def _listed(identities: Sequence[int], limit: int = 5) -> str:
    shown = ", ".join(map(str, identities[:limit])) + (", ..." if len(identities) > limit else "")
    return f"identity {shown} is" if len(identities) == 1 else f"{len(identities)} identities ({shown}) are"
