"""Read MSMT17 (Wei et al., "Person transfer GAN to bridge domain gap for person re-identification", CVPR 2018).

Four lists, `list_train.txt`, `list_val.txt`, `list_query.txt` and `list_gallery.txt`, name the images below `train` and
`test`, one per line: `0000/0000_000_01_0303morning_0015_0.jpg 0`. The third number of a name is the camera. Both halves
number their people from 0. Here training people are 1 to 1,041, and the test people follow. The validation list belongs
to the 32,621 published training images.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from slsr.datasets.archive import Archive, count_ignored
from slsr.datasets.collection import UNKNOWN_CAMERA, Collection, Entry, Split
from slsr.datasets.numbering import camera_in_name
from slsr.errors import InputError

LISTS: dict[str, Split] = {
    "list_train.txt": "train",
    "list_val.txt": "train",
    "list_query.txt": "query",
    "list_gallery.txt": "gallery",
}
FOLDERS = {"train": ("train", "mask_train_v2"), "test": ("test", "mask_test_v2")}


def read_msmt17(archive: Archive) -> Collection:
    """List the images of MSMT17.

    Raises
    ------
    InputError
        There are not exactly one set of lists, a line is no name with a number, or an image is missing.
    """
    roots = msmt17_roots(archive)
    if len(roots) != 1:
        raise InputError(
            f"{archive.path}: not the layout of MSMT17: expected one folder with {', '.join(LISTS)}, found {len(roots)}"
        )
    rows = [(name, *row) for name in LISTS for row in _rows(archive, roots[0], name)]
    people = 1 + max((identity for name, _, identity in rows if LISTS[name] == "train"), default=0)
    entries = [
        Entry(
            LISTS[name],
            source.removeprefix(roots[0]),
            identity + 1 + (0 if LISTS[name] == "train" else people),
            _camera(source),
            source,
            archive.sizes[source],
        )
        for name, source, identity in rows
    ]
    used = {entry.source for entry in entries} | {roots[0] + name for name in LISTS}
    note = f"people are numbered from 1; those for testing follow from {people + 1}, because both halves begin with 0"
    return Collection(str(archive.path), entries, archive.read, ignored=count_ignored(archive, used), notes=[note])


def msmt17_roots(archive: Archive) -> list[str]:
    """List every folder with the four lists, as prefixes of names."""
    firsts = [name.removesuffix("list_train.txt") for name in archive.sizes if name.endswith("list_train.txt")]
    return sorted(root for root in firsts if all(root + name in archive.sizes for name in LISTS))


def _rows(archive: Archive, root: str, name: str) -> Iterator[tuple[str, int]]:
    """Yield the source and the identity of each line of a list."""
    folders = FOLDERS["train" if LISTS[name] == "train" else "test"]
    lines = archive.read(root + name).decode("utf-8", "replace").splitlines()
    for number, line in enumerate(lines, start=1):
        place = f"{archive.path}: {root}{name}, line {number}"
        if not line.strip():
            continue
        path, _, identity = line.strip().rpartition(" ")
        if not path or not identity.isdecimal():
            raise InputError(f"{place}: {line.strip()!r} is not the name of an image and a number; restore the list")
        source = next((s for folder in folders if (s := f"{root}{folder}/{path}") in archive.sizes), None)
        if source is None:
            raise InputError(f"{place}: no file {path} in {folders[0]}/; restore the image, or remove the line")
        yield source, int(identity)


def _camera(source: str) -> int:
    camera = camera_in_name(PurePosixPath(source).name)
    return UNKNOWN_CAMERA if camera is None else camera
