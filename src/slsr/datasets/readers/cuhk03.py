"""CUHK03 (Li et al., "DeepReID", CVPR 2014), from `cuhk-03.mat` or from the CUHK03-NP folders.

The .mat file (MATLAB v7.3, which is HDF5) holds `detected` and `labeled`: for each of five pairs of cameras a cell of
M people x 10 images, columns 1-5 of the first camera, 6-10 of the second, some empty; and `testsets`, the test people
(pair, person) of each of 20 splits. Two protocols use it:

`classic`
    1,367 training and 100 test people, 20 splits; each camera's images are searched among the other's, one gallery
    image a person.
`np`
    767 training and 700 test people (Zhong et al., "Re-ranking person re-identification with k-reciprocal encoding",
    CVPR 2017), evaluated as Market-1501. `cuhk03_np.json` holds the published split.

Identities are numbered 1 to 1,467 through the five pairs, as the published split does; cameras are 1 and 2.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from slsr.datasets.archive import Archive, copy_out, open_archive
from slsr.datasets.collection import Collection, Entry, Evaluation, Split
from slsr.datasets.readers.market1501 import market_roots, read_folders
from slsr.errors import InputError

Boxes = Literal["detected", "labeled"]

MAT_NAME = "cuhk-03.mat"
IMAGES_A_PERSON = 10
METADATA_CACHE = 2 * 2**20
NP_NAME = re.compile(r"(?P<identity>\d+)_c(?P<camera>\d+)_\d+\.png", re.IGNORECASE)
NP_NAME_EXAMPLE = "0003_c1_21.png"


class Shot(NamedTuple):
    """One image of the .mat file: its camera pair, person in the pair and column (all from 1), and where it lies."""

    pair: int
    person: int
    number: int
    reference: h5py.Reference
    size: int

    @property
    def name(self) -> str:
        """The name that the published split gives the image."""
        return f"{self.pair}_{self.person:03d}_{self.camera}_{self.number:02d}.png"

    @property
    def camera(self) -> int:
        """1 for the first camera of the pair, 2 for the second."""
        return 1 if self.number <= IMAGES_A_PERSON // 2 else 2


@contextmanager
def open_cuhk03(
    path: Path, protocol: Literal["classic", "np"], boxes: Boxes, split: int | None, scratch: Path
) -> Iterator[Collection]:
    """CUHK03 from the published zip, from the .mat file alone, or (protocol `np`) from the CUHK03-NP zip.

    Parameters
    ----------
    boxes
        Bounding boxes found by a detector, or drawn by hand.
    split
        Which of the 20 test sets of the protocol `classic`, from 1.
    scratch
        A folder for the unpacked .mat file, which is removed again.

    Raises
    ------
    InputError
        The file is cut off, of an old MATLAB version, or not CUHK03.
    """
    if is_mat(path):
        with open_mat(path) as file:
            yield read_mat(path, file, protocol, boxes, split)
        return
    with open_archive(path) as archive:
        if mat := find_mat(archive):
            with unpacked(archive, mat, scratch) as unpacked_path, open_mat(unpacked_path) as file:
                yield read_mat(path, file, protocol, boxes, split)
        else:
            yield read_np_folders(archive, protocol, boxes)


def is_mat(path: Path) -> bool:
    """Whether a file begins as a MATLAB or an HDF5 file."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(8)
    return start.startswith((b"MATLAB", b"\x89HDF"))


def find_mat(archive: Archive) -> str | None:
    """The name of `cuhk-03.mat` in an archive, if it has it."""
    return next((name for name in archive.sizes if PurePosixPath(name).name == MAT_NAME), None)


def np_roots(archive: Archive) -> list[str]:
    """The folders `detected` and `labeled`, as prefixes of names, with Market-1501's folders in them."""
    return [root for root in market_roots(archive) if PurePosixPath(root).name in {"detected", "labeled"}]


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
        raise InputError(f"{path}: not a readable HDF5 file, or cut off ({error}); download it again") from error
    with file:
        _limit_metadata_cache(file)
        yield file


def _limit_metadata_cache(file: h5py.File) -> None:
    """Keep HDF5 from holding what it read of 28,000 images in memory: 32 MB and growing, for nothing."""
    config = file.id.get_mdc_config()
    config.set_initial_size = True
    config.min_size = config.initial_size = METADATA_CACHE // 2
    config.max_size = METADATA_CACHE
    file.id.set_mdc_config(config)


@contextmanager
def unpacked(archive: Archive, name: str, scratch: Path) -> Iterator[Path]:
    """Unpack one file of a zip (HDF5 needs to jump about in it); a folder's file is used where it lies."""
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


def read_mat(
    path: Path, file: h5py.File, protocol: Literal["classic", "np"], boxes: Boxes, split: int | None
) -> Collection:
    """The images of an open .mat file under one of the protocols."""
    try:
        shots, sizes = list_shots(path, file, boxes)
        tests = list_test_sets(file) if protocol == "classic" else []
    except (LookupError, ValueError, TypeError, AttributeError, RuntimeError, OSError) as error:
        raise InputError(f"{path}: not laid out as {MAT_NAME} ({error}); download it again") from error
    first = np.cumsum([0, *sizes])
    references = {shot.name: shot.reference for shot in shots}
    if protocol == "np":
        parts = np_parts(path, shots, first, boxes)
        evaluation = Evaluation()
    else:
        parts = classic_parts(path, shots, tests, split)
        evaluation = Evaluation("single-gallery-shot", "both")
    entries = [
        Entry(part, shot.name, int(first[shot.pair - 1]) + shot.person, shot.camera, shot.name, shot.size)
        for shot in shots
        for part in parts[shot.name]
    ]
    return Collection(str(path), entries, lambda name: encode_cell(file, references[name], name), evaluation)


def list_shots(path: Path, file: h5py.File, boxes: Boxes) -> tuple[list[Shot], list[int]]:
    """The images of every pair in order, and the number of people of each pair."""
    shots = []
    sizes = []
    for pair, reference in enumerate(file[boxes][()].ravel(), start=1):
        cell = file[reference][()]
        if cell.shape[0] != IMAGES_A_PERSON:
            raise InputError(f"{path}: {boxes}, pair {pair}: {cell.shape[0]} images a person, not {IMAGES_A_PERSON}")
        sizes.append(cell.shape[1])
        for person, column in np.ndindex(cell.shape[1], IMAGES_A_PERSON):
            dataset = file[cell[column, person]]
            if dataset.ndim == 3:
                shots.append(Shot(pair, person + 1, column + 1, cell[column, person], dataset.nbytes))
    return shots, sizes


def list_test_sets(file: h5py.File) -> list[set[tuple[int, int]]]:
    """The test people, (pair, person) from 1, of each of the 20 splits."""
    pairs = (np.asarray(file[reference][()], dtype=np.int64) for reference in file["testsets"][()].ravel())
    return [{(int(pair), int(person)) for pair, person in zip(*columns, strict=True)} for columns in pairs]


def classic_parts(
    path: Path, shots: Sequence[Shot], tests: Sequence[set[tuple[int, int]]], split: int | None
) -> dict[str, tuple[Split, ...]]:
    """What each image is for in one of the 20 splits; a test image is both query and gallery image."""
    if split is None or not 1 <= split <= len(tests):
        raise InputError(f"dataset.split: {split}, but {path} has the test sets 1 to {len(tests)}")
    test = tests[split - 1]
    return {shot.name: ("query", "gallery") if (shot.pair, shot.person) in test else ("train",) for shot in shots}


def np_parts(path: Path, shots: Sequence[Shot], first: NDArray[np.int64], boxes: Boxes) -> dict[str, tuple[Split, ...]]:
    """What each image is for in the new protocol.

    Raises
    ------
    InputError
        The file does not hold exactly the images that the published split names.
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
            f"{path}: {first[-1]} people, of whom {differing} have other {boxes} images than the published split "
            f"names for its {len(held)}; download the file again, or use dataset.protocol: classic"
        )
    return parts


def load_np_split() -> Mapping[str, Mapping[str, list[int]]]:
    """The published split of the new protocol.

    Of `detected` and `labeled`, by identity from 1: `images`, ten bits that say which images there are (bit 0 for
    column 1), and `query`, those of them that are queries. A person without queries is a training person; the other
    images of a test person are the gallery.
    """
    text = resources.files("slsr.datasets").joinpath("cuhk03_np.json").read_text(encoding="utf-8")
    split: Mapping[str, Mapping[str, list[int]]] = json.loads(text)["boxes"]
    return split


def encode_cell(file: h5py.File, reference: h5py.Reference, name: str) -> bytes:
    """One image of the .mat file (MATLAB keeps it as columns) as PNG."""
    try:
        pixels = file[reference][()]
    except OSError as error:
        raise InputError(f"{name}: damaged in the .mat file ({error}); download it again") from error
    if pixels.dtype != np.uint8 or pixels.shape[0] != 3:
        raise InputError(f"{name}: {pixels.dtype} of shape {pixels.shape} in the .mat file, not 3 x W x H bytes")
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.transpose(2, 1, 0))).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def read_np_folders(archive: Archive, protocol: Literal["classic", "np"], boxes: Boxes) -> Collection:
    """The images of the CUHK03-NP zip, which is already split."""
    roots = [root for root in np_roots(archive) if PurePosixPath(root).name == boxes]
    if len(roots) != 1:
        raise InputError(
            f"{archive.path}: not CUHK03: expected {MAT_NAME}, or one folder {boxes}/ with bounding_box_train/, "
            f"bounding_box_test/ and query/ in it; found {len(roots)} such folders"
        )
    if protocol == "classic":
        raise InputError(
            f"dataset.protocol: classic needs {MAT_NAME}; {archive.path} holds the split of the new protocol alone: "
            "use dataset.protocol: np"
        )
    return read_folders(archive, roots[0], NP_NAME, NP_NAME_EXAMPLE)
