"""The .npz files of features that `slsr embed` writes and that `slsr score` and `slsr index` read.

A file holds `gallery_features` [N, D], `gallery_names` [N] and, if they are known, `gallery_identities` and
`gallery_cameras` [N]. If there are queries, it holds the same four arrays of the queries, and says by which protocol
the data set is evaluated if that is known. It also says which model the features come from. Features are written block
by block, and mapped into memory when they are read, so that a file may be larger than the memory.
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from slsr.embedding.npz import array_names, map_array, read_arrays
from slsr.embedding.protocol import DataProtocol
from slsr.errors import InputError
from slsr.files import replaced_file

Side = Literal["gallery", "query"]
LONG_AGO = (1980, 1, 1, 0, 0, 0)  # no clock enters a file


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
        The path that was given to the command. It is a hint, which is trusted only if the fingerprint is right.
    """

    fingerprint: str
    flip: bool
    model: str

    def agrees(self, other: Origin) -> bool:
        """Tell whether features of both origins can be compared."""
        return (self.fingerprint, self.flip) == (other.fingerprint, other.flip)

    def __str__(self) -> str:
        return f"model {self.fingerprint[:12]}{'' if self.flip else ' without mirrored images'} ({self.model})"


@dataclass(frozen=True, eq=False)
class NamedFeatures:
    """Features float32 [N, D] with the names of their images, and with identities and cameras if they are known."""

    features: NDArray[np.float32]
    names: list[str]
    identities: NDArray[np.int64] | None
    cameras: NDArray[np.int64] | None


def write_features(
    path: Path,
    origin: Origin,
    sides: Mapping[Side, Iterable[NamedFeatures]],
    protocol: DataProtocol | None = None,
) -> dict[Side, int]:
    """Write blocks of features as they come; the file appears under its name only when it is complete.

    While it is written, the features of a side need their size on the disk a second time.

    Returns
    -------
    How many images of each side were written.

    Raises
    ------
    InputError
        A side has no images, or another process is writing this file.
    """
    counts: dict[Side, int] = {}
    with replaced_file(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        for side, blocks in sides.items():
            counts[side] = _write_side(archive, side, blocks, path.parent)
            if not counts[side]:
                raise InputError(f"{path}: not written, because no {side} image could be read")
        for name, value in (protocol.arrays() if protocol else {}).items():
            _write(archive, name, value)
        _write(archive, "model_fingerprint", origin.fingerprint)
        _write(archive, "model_flip", origin.flip)
        _write(archive, "model_path", origin.model)
    return counts


def _write_side(archive: zipfile.ZipFile, side: Side, blocks: Iterable[NamedFeatures], folder: Path) -> int:
    """Write the arrays of one side; its features wait in a temporary file until their number is known."""
    names: list[str] = []
    labels: dict[str, list[int]] = {"identities": [], "cameras": []}
    dimension = 0
    with tempfile.TemporaryFile(dir=folder) as waiting:
        for block in blocks:
            waiting.write(np.ascontiguousarray(block.features, "<f4").tobytes())
            dimension = block.features.shape[1]
            names += block.names
            for kind, values in (("identities", block.identities), ("cameras", block.cameras)):
                labels[kind] += [] if values is None else values.tolist()
        waiting.seek(0)
        with _entry(archive, f"{side}_features") as out:
            header = {"descr": "<f4", "fortran_order": False, "shape": (len(names), dimension)}
            np.lib.format.write_array_header_1_0(out, header)
            shutil.copyfileobj(waiting, out, 2**20)
    _write(archive, f"{side}_names", names)
    for kind, known in labels.items():
        if len(known) == len(names):
            _write(archive, f"{side}_{kind}", np.array(known, np.int64))
    return len(names)


def _entry(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    return archive.open(zipfile.ZipInfo(f"{name}.npy", LONG_AGO), "w", force_zip64=True)


def _write(archive: zipfile.ZipFile, name: str, value: Any) -> None:
    with _entry(archive, name) as out:
        np.lib.format.write_array(out, np.asarray(value), allow_pickle=False)


def read_origin(path: Path) -> Origin:
    """Read which model the features of a file come from.

    Raises
    ------
    InputError
        The file is missing, damaged, or was not written by `slsr embed`.
    """
    names = ("model_fingerprint", "model_flip", "model_path")
    if missing := set(names) - set(array_names(path)):
        raise InputError(
            f"{path}: no {', '.join(sorted(missing))}, so the model is unknown; write it with `slsr embed`"
        )
    fingerprint, flip, model = (array[()] for array in read_arrays(path, names).values())
    return Origin(str(fingerprint), bool(flip), str(model))


def read_features(path: Path, side: Side = "gallery") -> NamedFeatures:
    """Read one side of a file that `write_features` wrote; its features are mapped into memory.

    Raises
    ------
    InputError
        The file is missing, damaged or of another kind, or its arrays have different lengths.
    """
    present = array_names(path)
    if f"{side}_features" not in present or f"{side}_names" not in present:
        raise InputError(f"{path}: no {side}_features with {side}_names; write the file with `slsr embed`")
    labels = [name for name in (f"{side}_identities", f"{side}_cameras") if name in present]
    arrays = read_arrays(path, (f"{side}_names", *labels))
    features = map_array(path, f"{side}_features")
    if features.ndim != 2 or 0 in features.shape or features.dtype != np.float32:
        raise InputError(
            f"{path}: {side}_features is {features.dtype} {list(features.shape)}; it must be float32 [N, D]"
        )
    if odd := [name for name, array in arrays.items() if array.shape != features.shape[:1]]:
        raise InputError(
            f"{path}: {', '.join(odd)} must have one value per image ({len(features):,}); write it with `slsr embed`"
        )
    names = arrays[f"{side}_names"].astype(str).tolist()
    return NamedFeatures(features, names, arrays.get(f"{side}_identities"), arrays.get(f"{side}_cameras"))
