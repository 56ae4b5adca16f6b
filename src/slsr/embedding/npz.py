"""Arrays of an .npz file, read or mapped into memory."""

from __future__ import annotations

import zipfile
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slsr.errors import InputError


def read_arrays(path: Path, names: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """Read arrays of an .npz file by name; nothing is unpickled.

    Raises
    ------
    InputError
        The file is missing, is damaged, is not an .npz file, lacks an array, or an array holds Python objects.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; give an .npz file that numpy.savez wrote")
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path}: not an .npz file; write one with numpy.savez(path, query_features=..., ...)")
    try:
        with np.load(path, allow_pickle=False) as archive:
            if missing := [name for name in names if name not in archive.files]:
                present = ", ".join(archive.files) or "none"
                raise InputError(f"{path}: no array {', '.join(missing)}; it holds {present}")
            return {name: _read_array(path, archive, name) for name in names}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise InputError(f"{path}: cannot be read ({_first_line(error)}); write it again with numpy.savez") from error


def array_names(path: Path) -> list[str]:
    """List the arrays of an .npz file; empty if it is none, about which `read_arrays` says more."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return []
    with zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def _read_array(path: Path, archive: Any, name: str) -> NDArray[Any]:
    try:
        array = archive[name]
    except MemoryError as error:
        raise InputError(f"{path}: array {name} does not fit into memory ({_first_line(error)})") from error
    except ValueError as error:
        remedy = "write it again as plain numbers, such as numpy.asarray(values, dtype=numpy.int64)"
        raise InputError(f"{path}: array {name} is not a plain array ({_first_line(error)}); {remedy}") from error
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path}: {name} is not an array; write it with numpy.savez")
    return array


def map_array(path: Path, name: str) -> NDArray[Any]:
    """Map an array into memory if it is stored without compression, as `numpy.savez` does; else read it.

    numpy itself maps only .npy files, so the place of the array in the file is found here. Errors as `read_arrays`.
    """
    with (
        suppress(ValueError, RuntimeError, zipfile.BadZipFile),
        path.open("rb") as file,
        zipfile.ZipFile(file) as archive,
    ):
        entry = archive.getinfo(f"{name}.npy")
        with archive.open(entry):
            start = file.tell()  # zipfile has read the header of the entry; its content begins here
        file.seek(start)
        if entry.compress_type == zipfile.ZIP_STORED and np.lib.format.read_magic(file) == (1, 0):
            shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
            size = int(np.prod(shape)) * dtype.itemsize
            if not dtype.hasobject and file.tell() + size == start + entry.file_size:
                return np.memmap(path, dtype, "r", file.tell(), shape, "F" if fortran_order else "C")
    return read_arrays(path, (name,))[name]


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
