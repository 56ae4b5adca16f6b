"""Read your own images in folders: `train/`, `query/`, `gallery/` and, optionally, `multi_query/`.

Each has one folder per identity. That folder contains one folder per camera (`query/0007/2/photo.jpg`) or the images
(`query/0007/photo.jpg`). Without cameras, queries get camera 1 and all other images camera 2, so that every image of
the identity in the gallery is a right match.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from slsr.datasets.archive import Archive, count_ignored, is_image
from slsr.datasets.collection import SPLITS, Collection, Entry, Split
from slsr.errors import InputError

NEEDED = {"query", "gallery"}  # to test a model; `prepare` needs `train` too


class Place(NamedTuple):
    """The split, identity and camera that the folders of an image give."""

    split: Split
    identity: str
    camera: str | None
    name: str
    source: str


def read_folder_of_folders(archive: Archive) -> Collection:
    """List the images of `train`, `query`, `gallery` and `multi_query`.

    Identities with whole numbers as names keep their numbers; otherwise they are numbered from 1 by ascending name.

    Raises
    ------
    InputError
        A folder is missing, folders are nested in another way, only some images have a camera's folder, or a camera's
        folder is not named by a whole number.
    """
    root = folder_root(archive)
    places = [_place(archive, root, source, split) for source, split in _images(archive, root)]
    numbers, notes = _number({place.identity for place in places})
    if not _all_with_camera(archive, places):
        notes.append(
            "no folders of cameras: queries get camera 1 and all others camera 2, so that no match is excluded"
        )
    entries = [
        Entry(
            place.split,
            place.name,
            numbers[place.identity],
            _camera(archive, place),
            place.source,
            archive.sizes[place.source],
        )
        for place in places
    ]
    ignored = count_ignored(archive, {entry.source for entry in entries})
    return Collection(str(archive.path), entries, archive.read, ignored=ignored, own=True, notes=notes)


def _all_with_camera(archive: Archive, places: Sequence[Place]) -> bool:
    """Say whether all images are in a camera's folder, or none; a mixture is an error."""
    with_camera = [place for place in places if place.camera is not None]
    if with_camera and len(with_camera) < len(places):
        without = next(place.source for place in places if place.camera is None)
        raise InputError(
            f"{archive.path}: {with_camera[0].source} is in a camera's folder and {without} is not; "
            "use one layout for all images"
        )
    return bool(with_camera)


def folder_root(archive: Archive) -> str:
    """Find the folder that contains `train`, `query` and `gallery`, as a prefix of names."""
    roots = folder_roots(archive)
    if len(roots) == 1:
        return roots[0]
    tops = sorted({PurePosixPath(name).parts[0] for name in archive.sizes})[:8]
    raise InputError(
        f"{archive.path}: expected one place with the folders train/, query/ and gallery/, each with one folder "
        f"per identity; found {len(roots)}, and at the top: {', '.join(tops) or 'nothing'}"
    )


def folder_roots(archive: Archive) -> list[str]:
    """List the places with images in folders below `query` and `gallery`, as prefixes of names."""
    holders: dict[str, set[str]] = {}
    for name in filter(is_image, archive.sizes):
        parts = PurePosixPath(name).parts
        for depth in (0, 1):
            if len(parts) > depth + 2 and parts[depth] in NEEDED:
                holders.setdefault("".join(f"{part}/" for part in parts[:depth]), set()).add(parts[depth])
    return sorted(root for root, folders in holders.items() if folders == NEEDED)


def _images(archive: Archive, root: str) -> list[tuple[str, Split]]:
    return [
        (source, split)
        for source in archive.sizes
        for split in SPLITS
        if source.startswith(f"{root}{split}/") and is_image(source)
    ]


def _place(archive: Archive, root: str, source: str, split: Split) -> Place:
    name = source.removeprefix(root)
    match PurePosixPath(name).parts:
        case (_, identity, _):
            return Place(split, identity, None, name, source)
        case (_, identity, camera, _):
            return Place(split, identity, camera, name, source)
        case _:
            raise InputError(
                f"{archive.path}: {source} is in the wrong place; move it to {split}/IDENTITY/IMAGE or "
                f"{split}/IDENTITY/CAMERA/IMAGE"
            )


def _number(identities: set[str]) -> tuple[Mapping[str, int], list[str]]:
    numbers = {name: int(name) for name in identities if name.removeprefix("-").isdecimal()}
    if len(numbers) == len(identities) and len(set(numbers.values())) == len(numbers):
        return numbers, []
    ordered = sorted(identities)
    note = (
        f"identities are numbered from 1 by ascending folder name: {ordered[0]} is 1, {ordered[-1]} is {len(ordered)}"
    )
    return {name: number for number, name in enumerate(ordered, start=1)}, [note]


def _camera(archive: Archive, place: Place) -> int:
    if place.camera is None:
        return 1 if place.split == "query" else 2
    if not place.camera.isdecimal():
        raise InputError(
            f"{archive.path}: {place.source}: the camera's folder {place.camera!r} is not a whole number; "
            "number the cameras"
        )
    return int(place.camera)
