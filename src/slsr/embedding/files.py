"""Features on disk: the .npz files that `slsr embed` writes, and `slsr score` and `slsr index` read.

A file holds `gallery_features` [N, D], `gallery_names` [N] and, where they are known, `gallery_identities` and
`gallery_cameras` [N]; the same four of the queries where there are queries; and which model they come from. Features
are written as they come and mapped into memory when read, so that a file may be larger than the memory.
"""

from __future__ import annotations

import shutil
import struct
import zipfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from slsr.embedding.npz import read_arrays
from slsr.errors import InputError
from slsr.files import replaced_file

Side = Literal["gallery", "query"]
SIDES: tuple[Side, ...] = ("gallery", "query")
LONG_AGO = (1980, 1, 1, 0, 0, 0)  # no clock enters a file
LOCAL_HEADER = 30  # bytes of a zip entry's header before its name


@dataclass(frozen=True)
class Origin:
    """The model that features come from.

    Attributes
    ----------
    fingerprint
        sha256 of its checkpoint.
    flip
        Whether the features of mirrored images were added.
    model
        Where it lay, as it was given to the command; a hint, trusted only together with the fingerprint.
    """

    fingerprint: str
    flip: bool
    model: str

    def agrees(self, other: Origin) -> bool:
        """Whether features of both can be compared."""
        return (self.fingerprint, self.flip) == (other.fingerprint, other.flip)

    def __str__(self) -> str:
        return f"model {self.fingerprint[:12]}{'' if self.flip else ' without mirrored images'} ({self.model})"


@dataclass(frozen=True, eq=False)
class NamedFeatures:
    """Features float32 [N, D] with the names of their images, and their labels where they are known."""

    features: NDArray[np.float32]
    names: list[str]
    identities: NDArray[np.int64] | None
    cameras: NDArray[np.int64] | None


@dataclass
class _Side:
    raw: IO[bytes]
    path: Path
    dimension: int = 0
    names: list[str] = field(default_factory=list)
    identities: list[int] = field(default_factory=list)
    cameras: list[int] = field(default_factory=list)


def write_features(path: Path, origin: Origin, sides: Mapping[Side, Iterable[NamedFeatures]]) -> dict[Side, int]:
    """Write blocks of features as they come; the file appears under its name only when it is complete.

    Beside the file, its features need their size once more on the disk while it is written.

    Returns
    -------
    How many images of each side were written.

    Raises
    ------
    InputError
        A side has no images, or another process is writing this file.
    """
    written: dict[Side, _Side] = {}
    with ExitStack() as stack:
        partial = stack.enter_context(replaced_file(path))
        for name, blocks in sides.items():
            raw_path = path.with_name(f".{path.name}.{name}.partial")
            stack.callback(raw_path.unlink, missing_ok=True)
            with raw_path.open("wb") as raw:
                written[name] = side = _Side(raw, raw_path)
                for block in blocks:
                    _append(side, block)
            if not side.names:
                raise InputError(f"{path}: not written, since no {name} image could be read")
        _pack(partial, origin, written)
    return {name: len(side.names) for name, side in written.items()}


def _append(side: _Side, block: NamedFeatures) -> None:
    side.raw.write(np.ascontiguousarray(block.features, np.float32).tobytes())
    side.dimension = block.features.shape[1]
    side.names += block.names
    side.identities += [] if block.identities is None else block.identities.tolist()
    side.cameras += [] if block.cameras is None else block.cameras.tolist()


def _pack(path: Path, origin: Origin, sides: Mapping[Side, _Side]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, side in sides.items():
            with _entry(archive, f"{name}_features") as out, side.path.open("rb") as raw:
                header = {"descr": "<f4", "fortran_order": False, "shape": (len(side.names), side.dimension)}
                np.lib.format.write_array_header_1_0(out, header)
                shutil.copyfileobj(raw, out, 2**20)
            _write(archive, f"{name}_names", np.array(side.names))
            for kind, values in (("identities", side.identities), ("cameras", side.cameras)):
                if len(values) == len(side.names):
                    _write(archive, f"{name}_{kind}", np.array(values, np.int64))
        _write(archive, "model_fingerprint", np.array(origin.fingerprint))
        _write(archive, "model_flip", np.array(origin.flip))
        _write(archive, "model_path", np.array(origin.model))


def _entry(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    return archive.open(zipfile.ZipInfo(f"{name}.npy", LONG_AGO), "w", force_zip64=True)


def _write(archive: zipfile.ZipFile, name: str, array: NDArray[Any]) -> None:
    with _entry(archive, name) as out:
        np.lib.format.write_array(out, array, allow_pickle=False)


def read_origin(path: Path) -> Origin:
    """The model that the features of a file come from.

    Raises
    ------
    InputError
        The file is missing, damaged, or was not written by `slsr embed`.
    """
    names = ("model_fingerprint", "model_flip", "model_path")
    if unmarked := [name for name in names if name not in array_names(path)]:
        raise InputError(f"{path}: no {', '.join(unmarked)}, so the model is unknown; write it with `slsr embed`")
    fingerprint, flip, model = (array[()] for array in read_arrays(path, names).values())
    return Origin(str(fingerprint), bool(flip), str(model))


def array_names(path: Path) -> list[str]:
    """The names of the arrays in an .npz file, empty where it cannot be read as one (`read_arrays` says why)."""
    read_arrays(path, ())
    with zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def read_features(path: Path, side: Side = "gallery") -> NamedFeatures:
    """One side of a file that `write_features` wrote; its features are mapped, not read.

    Raises
    ------
    InputError
        The file is missing, damaged or of another kind, or its arrays do not fit each other.
    """
    present = array_names(path)
    if f"{side}_features" not in present or f"{side}_names" not in present:
        raise InputError(f"{path}: no {side}_features with {side}_names; write it with `slsr embed`")
    labels = [name for name in (f"{side}_identities", f"{side}_cameras") if name in present]
    arrays = read_arrays(path, (f"{side}_names", *labels))
    features = _map(path, f"{side}_features")
    if features.ndim != 2 or 0 in features.shape or features.dtype != np.float32:
        raise InputError(
            f"{path}: {side}_features is {features.dtype} {list(features.shape)}; it must be float32 [N, D]"
        )
    if odd := [name for name, array in arrays.items() if array.shape != features.shape[:1]]:
        raise InputError(f"{path}: {', '.join(odd)} not one an image ({len(features):,}); write it with `slsr embed`")
    names = arrays[f"{side}_names"].astype(str).tolist()
    return NamedFeatures(features, names, arrays.get(f"{side}_identities"), arrays.get(f"{side}_cameras"))


def _map(path: Path, name: str) -> NDArray[Any]:
    """An array of an .npz file mapped into memory where it is stored uncompressed, else read."""
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo(f"{name}.npy")
    if entry.compress_type != zipfile.ZIP_STORED:
        return read_arrays(path, (name,))[name]
    with path.open("rb") as file:
        file.seek(entry.header_offset)
        name_length, extra_length = struct.unpack("<HH", file.read(LOCAL_HEADER)[26:])
        start = entry.header_offset + LOCAL_HEADER + name_length + extra_length
        file.seek(start)
        try:
            shape, fortran, dtype = _header(file)
        except ValueError as error:
            raise InputError(f"{path}: array {name} is not a plain array ({error})") from error
        if dtype.hasobject:
            raise InputError(f"{path}: array {name} holds Python objects, which are not read")
        offset = file.tell()
    if offset + int(np.prod(shape)) * dtype.itemsize != start + entry.file_size:
        raise InputError(f"{path}: array {name} is cut off or damaged; write the file again with `slsr embed`")
    return np.memmap(path, dtype, "r", offset, shape, "F" if fortran else "C")


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    return shape, fortran, dtype
