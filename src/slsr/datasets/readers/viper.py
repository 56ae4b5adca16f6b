"""Read VIPeR (Gray, Brennan and Tao, "Evaluating appearance models for recognition, reacquisition, and tracking").

`cam_a` and `cam_b` contain one image of each of 632 people, named `NNN_ANGLE.bmp`. The protocol is ten random halves:
316 people for training and 316 for testing. The images of each camera are searched among those of the other one. The
data set comes without halves. By default they are drawn here from the number of the split, the same on every machine.
Halves that authors published (SDALF, MDF-KISS and others) are read from a file.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from slsr.datasets.archive import Archive, count_ignored
from slsr.datasets.collection import Collection, Entry, EvaluationProtocol, Split
from slsr.datasets.readers.halves import read_test_people
from slsr.errors import InputError
from slsr.images.listing import is_image

NAME = re.compile(r"(?P<number>\d+)_\d+\.\w+")
CAMERAS = {"cam_a": 1, "cam_b": 2}


def read_viper(archive: Archive, split: int, halves: Path | None = None) -> Collection:
    """List the images of VIPeR under one of its splits: 1 to 10, or those of a file of published halves.

    An identity is the number before `_` plus one, because identity 0 means a distractor in the other data sets. Every
    test image is both query and gallery image, because the images of each camera are searched among those of the other.

    Raises
    ------
    InputError
        A camera's folder is missing, an image's name does not give its number, or `halves` has no such split.
    """
    root = viper_root(archive)
    images = list(_images(archive, root))
    seen = {camera: {identity for _, identity, of in images if of == camera} for camera in CAMERAS.values()}
    pairs = seen[1] & seen[2]
    test = _test_identities(sorted(pairs), split, halves)
    entries = [
        Entry(part, source.removeprefix(root), identity, camera, source, archive.sizes[source])
        for source, identity, camera in images
        if identity in pairs
        for part in _parts(identity in test)
    ]
    unpaired = len(seen[1] ^ seen[2])
    return Collection(
        str(archive.path),
        entries,
        archive.read,
        evaluation=EvaluationProtocol("single-gallery-shot", "both"),
        ignored=count_ignored(archive, {entry.source for entry in entries}),
        notes=[
            *([f"people seen by one camera only, left out: {unpaired}"] if unpaired else []),
            *([f"the halves are those of split {split} in {halves.name}"] if halves else []),
        ],
    )


def _test_identities(identities: Sequence[int], split: int, halves: Path | None) -> set[int]:
    if halves is None:
        return split_identities(identities, split)
    return {number + 1 for number in read_test_people(halves, split, [identity - 1 for identity in identities])}


def split_identities(identities: Sequence[int], split: int) -> set[int]:
    """Return the test half of the identities: the last ones if ordered by a hash of split and identity."""

    def rank(identity: int) -> bytes:
        return hashlib.sha256(f"viper:{split}:{identity}".encode()).digest()

    return set(sorted(identities, key=rank)[(len(identities) + 1) // 2 :])


def viper_root(archive: Archive) -> str:
    """Find the folder that contains `cam_a` and `cam_b`, as a prefix of names."""
    roots = viper_roots(archive)
    if len(roots) == 1:
        return roots[0]
    raise InputError(
        f"{archive.path}: not the layout of VIPeR: expected one folder with cam_a/ and cam_b/, found {len(roots)}"
    )


def viper_roots(archive: Archive) -> list[str]:
    """List every folder with images in both `cam_a` and `cam_b`, as prefixes of names."""
    folders = {name.rpartition("/")[0] for name in archive.sizes if is_image(name)}
    return sorted(folder.removesuffix("cam_a") for folder in folders if _is_pair(folder, folders))


def _is_pair(folder: str, folders: set[str]) -> bool:
    return PurePosixPath(folder).name == "cam_a" and folder.removesuffix("cam_a") + "cam_b" in folders


def _images(archive: Archive, root: str) -> Iterator[tuple[str, int, int]]:
    """List source, identity and camera of each image."""
    cameras = {root + folder: camera for folder, camera in CAMERAS.items()}
    for source in archive.sizes:
        folder, _, name = source.rpartition("/")
        if folder not in cameras or not is_image(name):
            continue
        match = NAME.fullmatch(name)
        if match is None:
            raise InputError(
                f"{archive.path}: the name {source} does not give person and angle as in 000_45.bmp; "
                "rename the image or remove it"
            )
        yield source, int(match["number"]) + 1, cameras[folder]


def _parts(in_test: bool) -> tuple[Split, ...]:
    return ("query", "gallery") if in_test else ("train",)
