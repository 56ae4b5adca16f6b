"""Arrays of an .npz file."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slsr.errors import InputError


def read_arrays(path: Path, names: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """Arrays of an .npz file by name; nothing is unpickled.

    Raises
    ------
    InputError
        The file is missing, is not npz, is damaged, lacks an array or holds Python objects in one.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; give the .npz file that numpy.savez wrote")
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path}: not an .npz file; write one with numpy.savez(path, query_features=..., ...)")
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [name for name in names if name not in archive.files]
            if missing:
                raise InputError(
                    f"{path}: no array {', '.join(missing)}; it holds {', '.join(archive.files) or 'none'}"
                )
            return {name: _read_array(path, archive, name) for name in names}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise InputError(f"{path}: cannot be read ({_first_line(error)}); write it again with numpy.savez") from error


def _read_array(path: Path, archive: Any, name: str) -> NDArray[Any]:
    try:
        array = archive[name]
    except MemoryError as error:
        raise InputError(f"{path}: array {name} does not fit into memory ({_first_line(error)})") from error
    except ValueError as error:
        remedy = "store plain numbers, such as numpy.asarray(values, dtype=numpy.int64)"
        raise InputError(f"{path}: array {name} is not a plain array ({_first_line(error)}); {remedy}") from error
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path}: {name} is not an array; write it with numpy.savez")
    return array


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
