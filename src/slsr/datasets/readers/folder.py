"""Read your own images in folders: `train/`, `query/`, `gallery/` and, optionally, `multi_query/`.

Each has one folder per identity. That folder contains one folder per camera (`query/0007/2/photo.jpg`) or the images
(`query/0007/photo.jpg`). Without folders of cameras, the camera is read from names like `0002_c1s1_000451_03.jpg`, as
many programs prepare Market-1501, DukeMTMC-reID and MSMT17; it is unknown where the name does not give it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from slsr.datasets.archive import Archive, count_ignored
from slsr.datasets.collection import UNKNOWN_CAMERA, Collection, Entry, Split, counted
from slsr.datasets.numbering import camera_in_name, is_nothing, number_cameras, number_identities
from slsr.errors import InputError
from slsr.images.listing import is_image

# The names of each part's folder in common preparations; of several, the first one is read.
FOLDERS: Mapping[Split, Sequence[str]] = {
    "train": ("train_all", "train"),
    "query": ("query", "probe"),
    "gallery": ("gallery", "test"),
    "multi_query": ("multi_query", "multi-query", "multiquery"),
}
VALIDATION = ("val", "valid", "validation")
NEEDED: tuple[Split, ...] = ("query", "gallery")  # to test a model; `prepare` needs `train` too
DEEPEST = 3
CAMERA_FOLDER = re.compile(r"cam(era)?[\W_]?\d+", re.IGNORECASE)


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
        A folder is missing, folders are nested in another way or name no person, only some images have a camera's
        folder, or a folder and a name give two cameras.
    """
    root = folder_root(archive)
    splits, copies, notes = _splits(archive, root)
    places = [
        _place(archive, root, source, splits[folder])
        for source in archive.sizes
        if (folder := _folder(root, source)) in splits and is_image(source)
    ]
    _require_people(archive, places)
    identities = number_identities(place.identity for place in places)
    cameras, camera_notes = _cameras(archive, places)
    entries = [
        Entry(
            place.split,
            place.name,
            identities.of[place.identity],
            cameras[place.source],
            place.source,
            archive.sizes[place.source],
        )
        for place in places
    ]
    ignored = count_ignored(archive, {entry.source for entry in entries} | copies)
    notes = [*notes, *identities.notes, *camera_notes]
    return Collection(str(archive.path), entries, archive.read, ignored=ignored, own=True, notes=notes)


def _folder(root: str, source: str) -> str:
    """Return the folder directly below `root` that a file is in; "" if it is elsewhere."""
    return source.removeprefix(root).partition("/")[0] if source.startswith(root) and "/" in source[len(root) :] else ""


def _splits(archive: Archive, root: str) -> tuple[dict[str, Split], set[str], list[str]]:
    """Say which folder is which part; list the files that are copies of others, and what a user should know.

    `train_all` holds the images of `train` and `val` together, so these are not read. Without it, both are read.
    """
    present = {_folder(root, source) for source in archive.sizes if is_image(source)}
    splits = {
        found: split for split, names in FOLDERS.items() if (found := next((n for n in names if n in present), None))
    }
    notes = [f"{folder}/ is read as {split}" for folder, split in splits.items() if folder not in ("train", split)]
    parts = [name for name in ("train", *VALIDATION) if name in present]
    if splits.get("train_all") is None:
        splits |= dict.fromkeys(parts, "train")
        notes += [f"{name}/ is read as train too (dataset.validation draws its own)" for name in parts[1:]]
        return splits, set(), notes
    copies = {source for source in archive.sizes if _folder(root, source) in parts and is_image(source)}
    missing = [one for one in copies if f"{root}train_all/{_below(root, one)}" not in archive.sizes]
    if missing:
        raise InputError(
            f"{archive.path}: {min(missing)} is not in train_all/, which has the images of train/ and val/ in other "
            "preparations; rename or remove one of these folders"
        )
    return splits, copies, notes


def _require_people(archive: Archive, places: Sequence[Place]) -> None:
    """Refuse folders that name a camera, or nothing, where the person is expected."""
    if nameless := next((place for place in places if is_nothing(place.identity)), None):
        raise InputError(
            f"{archive.path}: {nameless.source} has no identity; give its folder the number or name of the person, in "
            "the gallery also -1 (junk) or 0 (distractor)"
        )
    below = [place.camera or "" for place in places]
    if all(CAMERA_FOLDER.fullmatch(place.identity) for place in places) and not any(
        map(CAMERA_FOLDER.fullmatch, below)
    ):
        raise InputError(
            f"{archive.path}: {places[0].source}: the camera's folder is where that of the person is expected; swap "
            f"them, as in {places[0].split}/IDENTITY/CAMERA/IMAGE, or give a table"
        )


def _below(root: str, source: str) -> str:
    return source.removeprefix(root).partition("/")[2]


def _cameras(archive: Archive, places: Sequence[Place]) -> tuple[dict[str, int], list[str]]:
    """Find the camera of each image by its folder, or else by its name; say what a user should know."""
    by_name = {place.source: camera_in_name(PurePosixPath(place.name).name) for place in places}
    if not _all_with_camera(archive, places):
        unknown = [source for source, camera in by_name.items() if camera is None]
        example = next((source for source, camera in by_name.items() if camera is not None), None)
        notes = [f"cameras are read from names: that of {example} gives {by_name[example]}"] if example else []
        notes += (
            [f"the camera of {counted(len(unknown), 'image')} is unknown, for example {unknown[0]}"] if unknown else []
        )
        return {s: UNKNOWN_CAMERA if camera is None else camera for s, camera in by_name.items()}, notes
    numbers = number_cameras(place.camera for place in places if place.camera is not None)
    found = {place.source: numbers.of[place.camera] for place in places if place.camera is not None}
    if all(camera is not None for camera in by_name.values()) and by_name != found:
        other = next(source for source, camera in by_name.items() if camera != found[source])
        raise InputError(
            f"{archive.path}: {other} is in the folder of camera {found[other]}, and its name gives camera "
            f"{by_name[other]}; correct one of them"
        )
    return found, list(numbers.notes)


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
    part_of = {name: split for split, names in FOLDERS.items() for name in names}
    holders: dict[str, set[Split]] = {}
    for name in filter(is_image, archive.sizes):
        parts = PurePosixPath(name).parts
        for depth in range(min(DEEPEST, len(parts) - 2)):
            if split := part_of.get(parts[depth]):
                holders.setdefault("".join(f"{part}/" for part in parts[:depth]), set()).add(split)
    return sorted(root for root, splits in holders.items() if splits >= set(NEEDED))


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
