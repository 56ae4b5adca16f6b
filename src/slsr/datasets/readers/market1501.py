"""Read Market-1501 (Zheng et al., "Scalable person re-identification: a benchmark", ICCV 2015) and its folder layout.

The folders are `bounding_box_train`, `bounding_box_test` (the gallery), `query` and, optionally, `gt_bbox` (the images
of multi-query evaluation). The images have names like `0002_c1s1_000451_03.jpg`: identity 2, camera 1, sequence 1.
DukeMTMC-reID and CUHK03-NP use the same folders with other names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePosixPath

from slsr.datasets.archive import Archive, count_ignored
from slsr.datasets.collection import Collection, Entry, Split
from slsr.datasets.numbering import camera_in_name
from slsr.errors import InputError
from slsr.images.listing import is_image

FOLDERS: dict[str, Split] = {
    "bounding_box_train": "train",
    "query": "query",
    "bounding_box_test": "gallery",
    "gt_bbox": "multi_query",
}
NAME = re.compile(r"(?P<identity>-1|\d+)_c(?P<camera>\d+)s\d+_\d+_\d+(\.[a-z]+)+", re.IGNORECASE)
NAME_EXAMPLE = "0002_c1s1_000451_03.jpg"


def read_market1501(archive: Archive) -> Collection:
    """List the images of Market-1501, or of another archive with the same layout.

    Raises
    ------
    InputError
        A folder is missing, or an image's name does not say its identity and camera.
    """
    collection = read_folders(archive, market_root(archive), NAME, NAME_EXAMPLE)
    if any(entry.split == "multi_query" for entry in collection.entries):
        return collection
    return replace(collection, notes=["no folder gt_bbox: multi-query evaluation is skipped"])


def market_root(archive: Archive) -> str:
    """Find the folder that contains `bounding_box_train` and its siblings, as a prefix of names ("" at the top).

    Raises
    ------
    InputError
        There is no such folder, there are several, or a sibling is missing.
    """
    roots = market_roots(archive)
    if len(roots) == 1:
        return roots[0]
    found = ", ".join(folder + "/" for folder in _top_folders(archive)) or "no folders"
    wanted = "bounding_box_train/, bounding_box_test/ and query/"
    if not roots:
        raise InputError(f"{archive.path}: not the layout of Market-1501: expected {wanted}, found {found}")
    raise InputError(
        f"{archive.path}: {wanted} in several places ({', '.join(roots)}); use an archive with one data set"
    )


def market_roots(archive: Archive) -> list[str]:
    """List every folder with the two folders that testing needs, as prefixes of names."""
    needed = {"bounding_box_test", "query"}
    holders: dict[str, set[str]] = {}
    for name in archive.sizes:
        folder = PurePosixPath(name).parent
        if folder.name in needed:
            holders.setdefault(_prefix(folder.parent), set()).add(folder.name)
    return sorted(root for root, folders in holders.items() if folders == needed)


def read_folders(archive: Archive, root: str, pattern: re.Pattern[str], example: str) -> Collection:
    """List the images in the four folders below `root`; `pattern` has the groups `identity` and `camera`."""
    entries = list(_entries(archive, root, pattern, example))
    ignored = count_ignored(archive, {entry.source for entry in entries})
    return Collection(str(archive.path), entries, archive.read, ignored=ignored)


def _entries(archive: Archive, root: str, pattern: re.Pattern[str], example: str) -> Iterator[Entry]:
    splits = {root + folder: split for folder, split in FOLDERS.items()}
    for source, size in archive.sizes.items():
        folder, _, name = source.rpartition("/")
        if folder not in splits or not is_image(name):
            continue
        match = pattern.fullmatch(name)
        if match is None:
            raise InputError(
                f"{archive.path}: the name {source} does not give identity and camera as in {example}; "
                f"rename or remove the image, or {table_instead(source, splits[folder])}"
            )
        yield Entry(splits[folder], name, int(match["identity"]), int(match["camera"]), source, size)


def table_instead(source: str, split: Split) -> str:
    """Say how a table would describe an image, for a layout that is not read."""
    name = source.rpartition("/")[2]
    identity = re.match(r"-1|\d+", name)
    camera = camera_in_name(name)
    number = "IDENTITY" if identity is None else int(identity[0])
    return (
        "write a table people.csv beside the folders and give that: its first line is `path,identity,camera,split`, "
        f"then one row per image, here `{source},{number},{'CAMERA' if camera is None else camera},{split}`"
    )


def _prefix(folder: PurePosixPath) -> str:
    return "" if folder == PurePosixPath(".") else f"{folder}/"


def _top_folders(archive: Archive, limit: int = 8) -> list[str]:
    folders = sorted({str(PurePosixPath(name).parent) for name in archive.sizes})
    return folders[:limit] + (["..."] if len(folders) > limit else [])
