"""Open an archive as one of the data sets, or recognize which one it is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from slsr.datasets.archive import MARKER, Archive, open_archive
from slsr.datasets.collection import Collection, Split
from slsr.datasets.readers.cuhk03 import find_mat, is_mat, np_boxes, np_roots, open_cuhk03, open_mat, read_mat
from slsr.datasets.readers.dukemtmc import NAME as DUKE_NAME
from slsr.datasets.readers.dukemtmc import read_dukemtmc
from slsr.datasets.readers.folder import folder_roots, read_folder_of_folders
from slsr.datasets.readers.market1501 import FOLDERS as MARKET_FOLDERS
from slsr.datasets.readers.market1501 import market_roots, read_market1501, table_instead
from slsr.datasets.readers.msmt17 import msmt17_roots, read_msmt17
from slsr.datasets.readers.table import is_own_table, is_table_file, open_table_file, read_table_of_images, table_names
from slsr.datasets.readers.viper import read_viper, viper_roots
from slsr.errors import InputError
from slsr.images.listing import ARCHIVE_SUFFIXES, is_image, suffix_of
from slsr.params.dataset import DatasetName, DatasetVariant

SIMPLE_READERS: Mapping[str, Callable[[Archive], Collection]] = {
    "market1501": read_market1501,
    "dukemtmc": read_dukemtmc,
    "msmt17": read_msmt17,
    "table": read_table_of_images,
    "folder": read_folder_of_folders,
}
FIRST_SPLIT: Mapping[str, Mapping[str, Any]] = {
    "cuhk03": {"protocol": "classic", "boxes": "detected", "split": 1},
    "viper": {"split": 1},
}


@contextmanager
def open_collection(
    path: Path, variant: DatasetVariant, scratch: Path, halves: Path | None = None
) -> Iterator[Collection]:
    """Open an archive as a data set; its images can be read inside the `with` block.

    Parameters
    ----------
    path
        A zip file or a folder; for CUHK03 also a .mat file, for your own images also the table itself.
    variant
        Which data set, and which split of it: what `recognize` returns, or the block `dataset` of params.yaml.
    scratch
        An existing folder for temporary files, which are removed afterwards.
    halves
        A file of halves of VIPeR that authors published; None: those of `variant.split` are drawn.

    Raises
    ------
    InputError
        The file cannot be read, or is not this data set.
    """
    if is_mat(path):
        if variant.name != "cuhk03":
            raise InputError(
                f"{path}: a .mat file, which is read as CUHK03 only; correct dataset.name or dataset.archive"
            )
        with open_mat(path) as file:
            yield read_mat(path, file, variant)
        return
    with open_source(path) as archive:
        _require_packed_as(variant, archive, path)
        if variant.name == "cuhk03":
            with open_cuhk03(archive, variant, scratch) as collection:
                yield collection
        elif variant.split:
            yield read_viper(archive, variant.split, halves)
        else:
            yield SIMPLE_READERS[variant.name](archive).marked()


def _require_packed_as(variant: DatasetVariant, archive: Archive, path: Path) -> None:
    if (packed := read_marker(archive)) and packed.name != variant.name:
        raise InputError(
            f"{path}: `slsr data add` packed this as {packed.name}, and not as {variant.name}; set dataset.name: "
            f"{packed.name}"
        )


@contextmanager
def open_source(path: Path) -> Iterator[Archive]:
    """Open a zip file, a folder, or a table with the images that it names."""
    with open_table_file(path) if is_table_file(path) else open_archive(path) as archive:
        yield archive


def recognize(path: Path) -> DatasetVariant:
    """Recognize which data set an archive contains, by its content; the split is the one that the presets begin with.

    Raises
    ------
    InputError
        The archive cannot be read, or it is not a data set that is known; the message says what was found.
    """
    if is_mat(path):
        return first_variant("cuhk03")
    if is_table_file(path):
        return first_variant("table")
    with open_archive(path) as archive:
        if packed := read_marker(archive):
            return packed
        if is_own_table(archive):  # a table says more than the names of the folders beside it
            return first_variant("table")
        if found := _published(archive) or _own(archive):
            return found
        raise InputError(f"{path}: none of the data sets that can be read (`slsr data list`): {_describe(archive)}")


def _published(archive: Archive) -> DatasetVariant | None:
    if find_mat(archive):
        return first_variant("cuhk03")
    if roots := np_roots(archive):
        return choose(first_variant("cuhk03"), protocol="np", boxes=np_boxes(archive, roots[0]))
    if market_roots(archive):
        return first_variant("dukemtmc" if _is_duke(archive) else "market1501")
    if msmt17_roots(archive):
        return first_variant("msmt17")
    return first_variant("viper") if viper_roots(archive) else None


def _own(archive: Archive) -> DatasetVariant | None:
    if table_names(archive):
        return first_variant("table")
    return first_variant("folder") if folder_roots(archive) else None


def marker_of(variant: DatasetVariant) -> bytes:
    """Write down what a packed archive is, for `read_marker`."""
    return (json.dumps(variant.model_dump(include=set(DatasetVariant.model_fields)), sort_keys=True) + "\n").encode()


def read_marker(archive: Archive) -> DatasetVariant | None:
    """Read which data set `slsr data add` packed; None if something else wrote the archive.

    Raises
    ------
    InputError
        The marker is damaged, or of a data set that this version does not know.
    """
    if archive.marker is None:
        return None
    try:
        return DatasetVariant.model_validate(json.loads(archive.marker))
    except ValueError as error:
        raise InputError(
            f"{archive.path}: {MARKER} in it names no data set that this version reads; pack it again with "
            "`slsr data add`"
        ) from error


def first_variant(name: DatasetName) -> DatasetVariant:
    """Return the variant of a data set that its preset begins with."""
    nothing = {"protocol": None, "boxes": None, "split": None}
    return DatasetVariant.model_validate({"name": name, **nothing, **FIRST_SPLIT.get(name, {})})


def choose(
    variant: DatasetVariant, protocol: str | None = None, boxes: str | None = None, split: int | None = None
) -> DatasetVariant:
    """Choose another split of a data set; what is None stays as it is.

    Raises
    ------
    InputError
        The data set has no such split.
    """
    asked: dict[str, Any] = {"protocol": protocol, "boxes": boxes, "split": split}
    changes = {key: value for key, value in asked.items() if value is not None}
    if protocol == "np":
        changes.setdefault("split", None)
    chosen = variant.model_copy(update=changes)
    if problem := chosen.problem():
        raise InputError(problem)
    return chosen


def _is_duke(archive: Archive) -> bool:
    """Say whether the first image in a folder of Market-1501's layout is named as in DukeMTMC-reID."""
    folders = {root + folder for root in market_roots(archive) for folder in MARKET_FOLDERS}
    names = (name.rpartition("/") for name in archive.sizes if is_image(name))
    return DUKE_NAME.fullmatch(next((name for folder, _, name in names if folder in folders), "")) is not None


def _describe(archive: Archive) -> str:
    images = [name for name in archive.sizes if is_image(name)]
    packed = [name for name in archive.sizes if suffix_of(name) in ARCHIVE_SUFFIXES]
    if packed and not images:
        if archive.path.is_dir():
            return f"it contains an archive: give {archive.path / packed[0]}"
        return f"it contains another archive, {packed[0]}: unpack it and use that one"
    folders = sorted({name.rpartition("/")[0] or "." for name in archive.sizes})
    shown = ", ".join(folders[:6]) + (", ..." if len(folders) > 6 else "")
    found = f"{len(archive.sizes)} files, {len(images)} of them images, in {shown or 'no folder'}"
    return f"{found}; {table_instead(images[0], _split_of(images[0]))}" if images else found


def _split_of(source: str) -> Split:
    """Guess the part of an image from its folder, for an example."""
    words = source.lower()
    return "query" if "query" in words else "gallery" if "test" in words or "gallery" in words else "train"
