"""Opening an archive as one of the data sets, and telling which one it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from slsr.datasets.archive import Archive, is_image, open_archive
from slsr.datasets.catalog import CATALOG, Name
from slsr.datasets.collection import Collection
from slsr.datasets.readers.cuhk03 import find_mat, is_mat, np_roots, open_cuhk03
from slsr.datasets.readers.dukemtmc import NAME as DUKE_NAME
from slsr.datasets.readers.dukemtmc import read_dukemtmc
from slsr.datasets.readers.folder import folder_roots, read_folder_of_folders
from slsr.datasets.readers.market1501 import market_roots, read_market1501
from slsr.datasets.readers.table import is_table_file, open_table_file, read_table_of_images, table_names
from slsr.datasets.readers.viper import read_viper, viper_roots
from slsr.errors import InputError
from slsr.params.dataset import split_problem

SIMPLE_READERS: Mapping[str, Callable[[Archive], Collection]] = {
    "market1501": read_market1501,
    "dukemtmc": read_dukemtmc,
    "table": read_table_of_images,
    "folder": read_folder_of_folders,
}


@dataclass(frozen=True)
class Choice:
    """Which data set, and which of its splits.

    Attributes
    ----------
    protocol, boxes
        Of CUHK03; None for every other data set.
    split
        1 to 20 for CUHK03's protocol `classic`, 1 to 10 for VIPeR; None for every other.
    """

    name: Name
    protocol: Literal["classic", "np"] | None = None
    boxes: Literal["detected", "labeled"] | None = None
    split: int | None = None


DEFAULT_CHOICES: Mapping[Name, Choice] = {
    **{name: Choice(name) for name in CATALOG},
    "cuhk03": Choice("cuhk03", "classic", "detected", 1),
    "viper": Choice("viper", split=1),
}


@contextmanager
def open_collection(path: Path, choice: Choice, scratch: Path) -> Iterator[Collection]:
    """Open an archive as a data set; its images can be read while the block lasts.

    Parameters
    ----------
    path
        A zip file or a folder; for CUHK03 also a .mat file, for one's own images also the table itself.
    scratch
        An existing folder for what has to be unpacked; left as it was.

    Raises
    ------
    InputError
        The file cannot be read, or is no such data set.
    """
    if problem := split_problem(choice.name, choice.protocol, choice.boxes, choice.split):
        raise InputError(problem)
    if choice.protocol and choice.boxes:
        with open_cuhk03(path, choice.protocol, choice.boxes, choice.split, scratch) as collection:
            yield collection
        return
    if is_mat(path):
        raise InputError(f"{path}: a .mat file, which is read as CUHK03 only; mend dataset.name or dataset.archive")
    with open_table_file(path) if is_table_file(path) else open_archive(path) as archive:
        if choice.split:
            yield read_viper(archive, choice.split)
        else:
            yield SIMPLE_READERS[choice.name](archive)


def recognize(path: Path) -> Choice:
    """Which data set an archive holds, by its content, with the split that the presets begin with.

    Raises
    ------
    InputError
        It cannot be read, or is none of them; the message says what was found.
    """
    if is_mat(path):
        return DEFAULT_CHOICES["cuhk03"]
    if is_table_file(path):
        return DEFAULT_CHOICES["table"]
    with open_archive(path) as archive:
        if find_mat(archive):
            return DEFAULT_CHOICES["cuhk03"]
        if roots := np_roots(archive):
            return Choice("cuhk03", "np", "detected" if roots[0].endswith("detected/") else "labeled")
        if market_roots(archive):
            return DEFAULT_CHOICES["dukemtmc" if _is_duke(archive) else "market1501"]
        if viper_roots(archive):
            return DEFAULT_CHOICES["viper"]
        if table_names(archive):
            return DEFAULT_CHOICES["table"]
        if folder_roots(archive):
            return DEFAULT_CHOICES["folder"]
        raise InputError(f"{path}: none of the data sets that can be read ({_describe(archive)}); see `slsr data list`")


def choose(
    recognized: Choice, protocol: str | None = None, boxes: str | None = None, split: int | None = None
) -> Choice:
    """Another split of the data set than the one its preset begins with; what is None stays.

    Raises
    ------
    InputError
        The data set has no such split.
    """
    asked: dict[str, Any] = {"protocol": protocol, "boxes": boxes, "split": split}
    changes = {key: value for key, value in asked.items() if value is not None}
    if protocol == "np":
        changes.setdefault("split", None)
    choice = replace(recognized, **changes)
    if problem := split_problem(choice.name, choice.protocol, choice.boxes, choice.split):
        raise InputError(problem)
    return choice


def _is_duke(archive: Archive) -> bool:
    """Whether the first image below `bounding_box_train` is named as DukeMTMC-reID names them."""
    names = (name.rpartition("/") for name in archive.sizes if is_image(name))
    first = next((name for folder, _, name in names if folder.endswith("bounding_box_train")), "")
    return DUKE_NAME.fullmatch(first) is not None


def _describe(archive: Archive) -> str:
    folders = sorted({name.rpartition("/")[0] or "." for name in archive.sizes})
    images = sum(map(is_image, archive.sizes))
    shown = ", ".join(folders[:6]) + (", ..." if len(folders) > 6 else "")
    return f"{len(archive.sizes)} files, {images} of them images, in {shown or 'no folder'}"
