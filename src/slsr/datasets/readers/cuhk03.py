"""Read CUHK03 (Li et al., "DeepReID", CVPR 2014) from `cuhk-03.mat` or from the CUHK03-NP folders.

The .mat file (MATLAB v7.3, which is HDF5) contains `detected` and `labeled`: for each of five pairs of cameras a cell
of M people x 10 images. Columns 1-5 are of the first camera, columns 6-10 of the second, and some are empty. The file
also contains `testsets`: the test people (pair, person) of each of 20 splits. There are two protocols:

`classic`
    1,367 training people, 100 test people and 20 splits. The images of each camera are searched among those of the
    other one, with one gallery image per person.
`np`
    767 training people and 700 test people (Zhong et al., "Re-ranking person re-identification with k-reciprocal
    encoding", CVPR 2017), evaluated like Market-1501. `cuhk03_np.json` contains the published split.

Identities are numbered from 1 to 1,467 through the five pairs, as in the published split; cameras are 1 and 2.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from slsr.datasets.archive import Archive, copy_out
from slsr.datasets.collection import Collection, Entry, EvaluationProtocol, Split
from slsr.datasets.readers.market1501 import market_roots, read_folders
from slsr.errors import InputError
from slsr.images.listing import is_image
from slsr.params.dataset import DatasetVariant

MAT_NAME = "cuhk-03.mat"
BOXES = ("detected", "labeled")
LABELED_TRAINING_IMAGES = 7368
IMAGES_PER_PERSON = 10
METADATA_CACHE = 2 * 2**20
NP_NAME = re.compile(r"(?P<identity>\d+)_c(?P<camera>\d+)_\d+\.png", re.IGNORECASE)
NP_NAME_EXAMPLE = "0003_c1_21.png"


class MatImage(NamedTuple):
    """One image of the .mat file: its camera pair, person in the pair and column (all from 1), and its reference."""

    pair: int
    person: int
    number: int
    reference: h5py.Reference
    size: int

    @property
    def name(self) -> str:
        """Return the name that the published split gives the image."""
        return f"{self.pair}_{self.person:03d}_{self.camera}_{self.number:02d}.png"

    @property
    def camera(self) -> int:
        """Return 1 for the first camera of the pair, 2 for the second."""
        return 1 if self.number <= IMAGES_PER_PERSON // 2 else 2


@contextmanager
def open_cuhk03(archive: Archive, variant: DatasetVariant, scratch: Path) -> Iterator[Collection]:
    """Open CUHK03 from the published zip or folder, or (protocol `np`) from the CUHK03-NP folders.

    Parameters
    ----------
    scratch
        A folder for the unpacked .mat file, which is removed afterwards.

    Raises
    ------
    InputError
        The file is cut off, of an old MATLAB version, or not CUHK03.
    """
    if mat := find_mat(archive):
        with unpacked(archive, mat, scratch) as path, open_mat(path) as file:
            yield read_mat(archive.path, file, variant)
    else:
        yield read_np_folders(archive, variant)


def is_mat(path: Path) -> bool:
    """Say whether a file begins like a MATLAB or an HDF5 file."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(8)
    return start.startswith((b"MATLAB", b"\x89HDF"))


def find_mat(archive: Archive) -> str | None:
    """Find `cuhk-03.mat` in an archive; None if it has no such file."""
    return next((name for name in archive.sizes if PurePosixPath(name).name == MAT_NAME), None)


def np_roots(archive: Archive) -> list[str]:
    """List the folders `detected` and `labeled` that contain the folders of Market-1501, as prefixes of names.

    Without these, a folder counts whose training images are all named as in CUHK03-NP.
    """
    roots = market_roots(archive)
    named = [root for root in roots if PurePosixPath(root).name in BOXES]
    return named or [root for root in roots if _is_np(archive, root)]


def _is_np(archive: Archive, root: str) -> bool:
    names = [name for name in archive.sizes if name.startswith(f"{root}bounding_box_train/") and is_image(name)]
    return bool(names) and all(NP_NAME.fullmatch(PurePosixPath(name).name) for name in names)


def np_boxes(archive: Archive, root: str) -> str:
    """Say which boxes a folder has: by its name, or else by the number of its training images."""
    if (name := PurePosixPath(root).name) in BOXES:
        return name
    images = sum(name.startswith(f"{root}bounding_box_train/") and is_image(name) for name in archive.sizes)
    return "labeled" if images == LABELED_TRAINING_IMAGES else "detected"


@contextmanager
def open_mat(path: Path) -> Iterator[h5py.File]:
    """Open a v7.3 .mat file."""
    with path.open("rb") as start:
        header = start.read(19)
    if header.startswith(b"MATLAB 5.0 MAT-file"):
        raise InputError(
            f"{path}: a .mat file of MATLAB v5 to v7; CUHK03 comes as v7.3 (HDF5): download {MAT_NAME} again, or save "
            "it in MATLAB with the option -v7.3"
        )
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"{path}: cut off, or not a readable HDF5 file ({error}); download it again") from error
    with file:
        _limit_metadata_cache(file)
        yield file


def _limit_metadata_cache(file: h5py.File) -> None:
    """Limit the memory in which HDF5 keeps notes on the 28,000 images, which would grow beyond 32 MB without use."""
    config = file.id.get_mdc_config()
    config.set_initial_size = True
    config.min_size = config.initial_size = METADATA_CACHE // 2
    config.max_size = METADATA_CACHE
    file.id.set_mdc_config(config)


@contextmanager
def unpacked(archive: Archive, name: str, scratch: Path) -> Iterator[Path]:
    """Unpack one file of a zip, because HDF5 needs random access; the file of a folder is used in place."""
    if archive.path.is_dir():
        yield archive.path / name
        return
    free = shutil.disk_usage(scratch).free
    if archive.sizes[name] > free:
        raise InputError(
            f"{scratch}: {archive.sizes[name] / 1e6:,.0f} MB are needed to unpack {MAT_NAME} and {free / 1e6:,.0f} MB "
            "are free; free some (`dvc gc -w` drops unused cache)"
        )
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        path = Path(folder) / MAT_NAME
        copy_out(archive, name, path)
        yield path


def read_mat(path: Path, file: h5py.File, variant: DatasetVariant) -> Collection:
    """List the images of an open .mat file under one of the protocols."""
    boxes = variant.boxes or "detected"
    try:
        shots, sizes = list_images(path, file, boxes)
        tests = list_test_sets(file) if variant.protocol == "classic" else []
    except (LookupError, ValueError, TypeError, AttributeError, RuntimeError, OSError) as error:
        raise InputError(f"{path}: not laid out as {MAT_NAME} ({error}); download it again") from error
    first = np.cumsum([0, *sizes])
    references = {shot.name: shot.reference for shot in shots}
    if variant.protocol == "np":
        parts = np_parts(path, shots, first, boxes)
        evaluation = EvaluationProtocol()
    else:
        parts = classic_parts(path, shots, tests, variant.split)
        evaluation = EvaluationProtocol("single-gallery-shot", "both")
    entries = [
        Entry(part, shot.name, int(first[shot.pair - 1]) + shot.person, shot.camera, shot.name, shot.size)
        for shot in shots
        for part in parts[shot.name]
    ]
    return Collection(str(path), entries, lambda name: encode_cell(file, references[name], name), evaluation)


def list_images(path: Path, file: h5py.File, boxes: str) -> tuple[list[MatImage], list[int]]:
    """List the images of every pair in order, and the number of people of each pair."""
    shots = []
    sizes = []
    for pair, reference in enumerate(file[boxes][()].ravel(), start=1):
        cell = file[reference][()]
        if cell.shape[0] != IMAGES_PER_PERSON:
            raise InputError(
                f"{path}: {boxes}, pair {pair}: {cell.shape[0]} images per person, not {IMAGES_PER_PERSON}"
            )
        sizes.append(cell.shape[1])
        for person, column in np.ndindex(cell.shape[1], IMAGES_PER_PERSON):
            dataset = file[cell[column, person]]
            if dataset.ndim == 3:
                shots.append(MatImage(pair, person + 1, column + 1, cell[column, person], dataset.nbytes))
    return shots, sizes


def list_test_sets(file: h5py.File) -> list[set[tuple[int, int]]]:
    """List the test people, (pair, person) from 1, of each of the 20 splits."""
    pairs = (np.asarray(file[reference][()], dtype=np.int64) for reference in file["testsets"][()].ravel())
    return [{(int(pair), int(person)) for pair, person in zip(*columns, strict=True)} for columns in pairs]


def classic_parts(
    path: Path, shots: Sequence[MatImage], tests: Sequence[set[tuple[int, int]]], split: int | None
) -> dict[str, tuple[Split, ...]]:
    """Say what each image is used for in one of the 20 splits; a test image is both query and gallery image."""
    if split is None or not 1 <= split <= len(tests):
        raise InputError(f"dataset.split: {split}, but {path} has the test sets 1 to {len(tests)}")
    test = tests[split - 1]
    return {shot.name: ("query", "gallery") if (shot.pair, shot.person) in test else ("train",) for shot in shots}


def np_parts(
    path: Path, shots: Sequence[MatImage], first: NDArray[np.int64], boxes: str
) -> dict[str, tuple[Split, ...]]:
    """Say what each image is used for in the new protocol.

    Raises
    ------
    InputError
        The file does not contain exactly the images that the published split names.
    """
    published = load_np_split()[boxes]
    parts: dict[str, tuple[Split, ...]] = {}
    held = [0] * len(published["images"])
    for shot in shots:
        identity = int(first[shot.pair - 1]) + shot.person
        bit = 1 << (shot.number - 1)
        if identity > len(held):
            break
        held[identity - 1] |= bit
        query = published["query"][identity - 1]
        parts[shot.name] = ("train",) if not query else ("query",) if query & bit else ("gallery",)
    if int(first[-1]) != len(held) or held != published["images"]:
        differing = sum(one != other for one, other in zip(held, published["images"], strict=True))
        raise InputError(
            f"{path}: {first[-1]} people, of whom {differing} have other {boxes} images than in the published split "
            f"of {len(held)} people; download the file again, or use dataset.protocol: classic"
        )
    return parts


def load_np_split() -> Mapping[str, Mapping[str, list[int]]]:
    """Load the published split of the new protocol.

    For `detected` and `labeled` it has two lists by identity from 1. `images` has ten bits that say which images exist
    (bit 0 for column 1), and `query` has ten bits that say which of them are queries. A person without queries is a
    training person. The other images of a test person are the gallery.
    """
    text = resources.files("slsr.datasets").joinpath("cuhk03_np.json").read_text(encoding="utf-8")
    split: Mapping[str, Mapping[str, list[int]]] = json.loads(text)["boxes"]
    return split


def encode_cell(file: h5py.File, reference: h5py.Reference, name: str) -> bytes:
    """Encode one image of the .mat file, which MATLAB stores column by column, as PNG."""
    try:
        pixels = file[reference][()]
    except OSError as error:
        raise InputError(f"{name}: damaged in the .mat file ({error}); download it again") from error
    if pixels.dtype != np.uint8 or pixels.shape[0] != 3:
        raise InputError(f"{name}: {pixels.dtype} of shape {pixels.shape} in the .mat file, not 3 x W x H bytes")
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.transpose(2, 1, 0))).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def read_np_folders(archive: Archive, variant: DatasetVariant) -> Collection:
    """List the images of CUHK03-NP, which is already split."""
    roots = [root for root in np_roots(archive) if PurePosixPath(root).name in {variant.boxes, *_unnamed(root)}]
    if len(roots) != 1:
        raise InputError(
            f"{archive.path}: not CUHK03: expected {MAT_NAME}, or one folder {variant.boxes}/ with "
            f"bounding_box_train/, bounding_box_test/ and query/ in it; found {len(roots)} such folders"
        )
    if variant.protocol == "classic":
        raise InputError(
            f"dataset.protocol: classic needs {MAT_NAME}; {archive.path} has only the split of the new protocol: "
            "use dataset.protocol: np"
        )
    collection = read_folders(archive, roots[0], NP_NAME, NP_NAME_EXAMPLE)
    if not _unnamed(roots[0]):
        return collection
    note = f"no folder says whether the boxes are detected or labeled: they are taken as {variant.boxes}"
    return replace(collection, notes=[note])


def _unnamed(root: str) -> set[str]:
    """Return the folder's name if it is neither `detected` nor `labeled`."""
    return {PurePosixPath(root).name} - set(BOXES)
