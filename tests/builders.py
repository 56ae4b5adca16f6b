"""Archives of every layout, with drawn pictures, for the tests."""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml
from PIL import Image

from slsr.datasets.collection import Collection, Entry
from slsr.params.dataset import DatasetVariant
from slsr.params.file import Params, validate_params

ROOT = Path(__file__).parents[1]
MAT_HEADER = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Fri Nov 22 00:00:00 2024 HDF5 schema 1.00 ."


def picture(number: int, width: int = 16, height: int = 32, mode: str = "RGB", form: str = "JPEG") -> bytes:
    """An image of noise around a color that depends on the number."""
    generator = np.random.default_rng(number)
    pixels = generator.integers(0, 256, 3) + generator.normal(0, 20, (height, width, 3))
    buffer = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).convert(mode).save(buffer, form)
    return buffer.getvalue()


def sixteen_bit_picture() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.linspace(0, 65535, 512).reshape(32, 16).astype(np.uint16)).save(buffer, "PNG")
    return buffer.getvalue()


def enormous_png(width: int = 20_000, height: int = 20_000) -> bytes:
    """A PNG of a few bytes whose header gives this many pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    )


def write_zip(path: Path, files: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", compression) as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return path


def write_folder(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def encrypt(path: Path) -> Path:
    """Set the flag that says a zip's entries are encrypted."""
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = content.find(signature)
        while start >= 0:
            content[start + offset] |= 1
            start = content.find(signature, start + 4)
    path.write_bytes(content)
    return path


def market_files(root: str = "Market/") -> dict[str, bytes]:
    """Three training identities (2, 7, 11) of 3 images, two test identities (1, 5), junk, distractors, gt_bbox."""
    files = {f"{root}readme.txt": b"drawn", f"{root}bounding_box_train/Thumbs.db": b"litter"}
    names = [
        f"bounding_box_train/{i:04d}_c{c}s1_{f:06d}_01.jpg" for i in (2, 7, 11) for c, f in ((1, 1), (2, 5), (2, 9))
    ]
    names += [f"query/{i:04d}_c{c}s1_000003_00.jpg" for i in (1, 5) for c in (1, 2)]
    names += [f"bounding_box_test/{i:04d}_c{c}s1_000007_02.jpg" for i in (1, 5) for c in (1, 2, 3)]
    names += ["bounding_box_test/-1_c1s1_000401_03.jpg", "bounding_box_test/0000_c2s1_000451_04.jpg.jpg"]
    names += [f"gt_bbox/{i:04d}_c{c}s1_000003_00.jpg" for i in (1, 2, 5) for c in (1, 2)]
    return files | {root + name: picture(number) for number, name in enumerate(names)}


def duke_files(root: str = "DukeMTMC-reID/") -> dict[str, bytes]:
    """Two training identities, two test identities, and identity 90, which only the gallery has."""
    names = [f"bounding_box_train/{i:04d}_c{c}_f{f:07d}.jpg" for i in (1, 3) for c, f in ((1, 1), (2, 5), (8, 9))]
    names += [f"query/{i:04d}_c{c}_f0000003.jpg" for i in (2, 4) for c in (5, 6)]
    names += [f"bounding_box_test/{i:04d}_c{c}_f0000007.jpg" for i in (2, 4, 90) for c in (5, 6, 7)]
    return {root + name: picture(number, width=14 + number, height=40) for number, name in enumerate(names)}


def viper_names(people: int, root: str = "VIPeR/") -> list[str]:
    places = (("a", 45), ("b", 135))
    return [f"{root}cam_{camera}/{person:03d}_{angle}.bmp" for person in range(people) for camera, angle in places]


def viper_files(people: int = 8) -> dict[str, bytes]:
    return {name: picture(number, 48, 128, form="BMP") for number, name in enumerate(viper_names(people))}


def np_files(root: str = "cuhk03-np/") -> dict[str, bytes]:
    """The folders of CUHK03-NP: detected and labeled, each with two training and two test identities."""
    names = [f"bounding_box_train/{i:04d}_c{c}_{c}.png" for i in (1, 2) for c in (1, 2)]
    names += [f"query/{i:04d}_c{c}_{c}.png" for i in (3, 4) for c in (1, 2)]
    names += [f"bounding_box_test/{i:04d}_c{c}_{c + 2}.png" for i in (3, 4) for c in (1, 2)]
    return {
        f"{root}{boxes}/{name}": picture(number + 100 * (boxes == "labeled"), form="PNG")
        for boxes in ("detected", "labeled")
        for number, name in enumerate(names)
    }


def cuhk03_pixels(number: int) -> np.ndarray:
    """The pixels that an image should have, uint8 [7, 5, 3]."""
    return np.random.default_rng(number).integers(0, 256, (7, 5, 3), dtype=np.uint8)


def write_cuhk03_mat(
    path: Path,
    cells: Mapping[str, Sequence[np.ndarray]],
    test_sets: Sequence[Sequence[tuple[int, int]]],
    images: int = 40,
) -> Path:
    """Write a cuhk-03.mat like MATLAB does.

    `cells` has, for `detected` and `labeled`, one boolean array [people, 10] per pair, which says where an image is.
    Image j, in the order of pair, person and column, is `cuhk03_pixels(j % images)`, so that the file stays small.
    """
    with h5py.File(path, "w", userblock_size=512) as file:
        store = file.create_group("#refs#")
        drawn = [store.create_dataset(f"i{n}", data=cuhk03_pixels(n).transpose(2, 1, 0)) for n in range(images)]
        empty = store.create_dataset("empty", data=np.zeros(2, dtype=np.uint64))
        empty.attrs["MATLAB_empty"] = np.uint8(1)
        for boxes, pairs in cells.items():
            outer = file.create_dataset(boxes, (1, len(pairs)), dtype=h5py.ref_dtype)
            number = 0
            for pair, present in enumerate(pairs):
                cell = store.create_dataset(f"{boxes}{pair}", (10, len(present)), dtype=h5py.ref_dtype)
                references = np.empty((10, len(present)), dtype=h5py.ref_dtype)
                for person, column in np.ndindex(*present.shape):
                    references[column, person] = drawn[number % images].ref if present[person, column] else empty.ref
                    number += bool(present[person, column])
                cell[...] = references
                outer[0, pair] = cell.ref
        outer = file.create_dataset("testsets", (1, len(test_sets)), dtype=h5py.ref_dtype)
        for number, people in enumerate(test_sets):
            outer[0, number] = store.create_dataset(f"t{number}", data=np.array(people, dtype=np.float64).T).ref
    with path.open("r+b") as start:
        start.write(MAT_HEADER.ljust(124) + b"\x00\x02IM")
    return path


def entry(
    split: Any, identity: int, camera: int = 1, number: int = 0, group: str | None = None, name: str | None = None
) -> Entry:
    name = name or f"{identity:04d}_c{camera}_{number}.jpg"
    return Entry(split, name, identity, camera, f"{split}/{name}", 1000, group)


BASE_ENTRIES = [
    *(entry("train", identity, camera) for identity in (20, 3, 7) for camera in (1, 2, 3)),
    *(entry("query", identity, 1) for identity in (5, 11)),
    *(entry("gallery", identity, 2) for identity in (5, 11, 30, 0, -1)),
    *(entry("multi_query", identity, camera) for identity in (5, 20) for camera in (1, 2)),
]


def entry_collection(entries: Sequence[Entry], own: bool = False) -> Collection:
    return Collection("data/x.zip", entries, lambda source: b"", own=own)


def variant(
    name: str, protocol: str | None = None, boxes: str | None = None, split: int | None = None
) -> DatasetVariant:
    """A data set and its split, in one line."""
    return DatasetVariant.model_validate({"name": name, "protocol": protocol, "boxes": boxes, "split": split})


def small_cells() -> list[np.ndarray]:
    """Cells of `write_cuhk03_mat`: pairs of 3, 1 and 2 people; person 2 of the first pair lacks columns 1 and 7."""
    cells = [np.ones((people, 10), dtype=bool) for people in (3, 1, 2)]
    cells[0][1, [0, 6]] = False
    return cells


def params(dataset: Mapping[str, Any], **blocks: Mapping[str, Any]) -> Params:
    """The default parameters with differences, and a sweep that fits a tiny training set."""
    values = yaml.safe_load((ROOT / "presets/defaults.yaml").read_text())
    values["cluster"] |= {"k": 2, "sweep": [2]}
    for name, block in {"dataset": dataset, **blocks}.items():
        values[name] |= block
    return validate_params(values, "params.yaml")


def real_archive() -> Path:
    """The real Market-1501 archive; the test is skipped if it is missing."""
    folder = Path(os.environ.get("SLSR_REAL_DATA", ROOT.parent / "shared/data"))
    path = folder / "market1501/Market-1501-v15.09.15.zip"
    if not path.is_file():
        pytest.skip(f"no real archive at {path}; SLSR_REAL_DATA names the folder")
    return path


def golden(name: str) -> Path:
    """A file of golden values; the test is skipped if it is missing."""
    path = Path(os.environ.get("SLSR_GOLDEN", ROOT.parent / "shared/golden")) / name
    if not path.is_file():
        pytest.skip(f"no golden values at {path}; SLSR_GOLDEN names the folder")
    return path
