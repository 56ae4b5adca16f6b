"""Small files written whole or not at all."""

from __future__ import annotations

import fcntl
import io
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slsr.errors import InputError

METRICS = Path("metrics")  # the folder with what git keeps of a run


def write_bytes(path: Path, content: bytes) -> None:
    """Write under a temporary name in the same folder, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """JSON with sorted keys and a final newline; not-a-number is refused."""
    write_bytes(path, (json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises
    ------
    InputError
        The file is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; run `dvc repro` to make it, or `dvc pull` to fetch it") from error
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error}); make it again with `dvc repro`") from error


def write_npy(path: Path, array: NDArray[Any]) -> None:
    """One array as .npy."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_bytes(path, buffer.getvalue())


def read_npy(path: Path) -> NDArray[Any]:
    """Read one array; pickled objects are refused.

    Raises
    ------
    InputError
        The file is missing or not a plain array.
    """
    try:
        with path.open("rb") as file:
            array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; run `dvc repro` to make it, or `dvc pull` to fetch it") from error
    except (ValueError, EOFError, TokenError) as error:
        raise InputError(f"{path}: not a plain .npy array ({error}); make it again with `dvc repro`") from error
    return array


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """A fresh folder to write into, which takes the place of `folder` only when the block ends well.

    Raises
    ------
    InputError
        Another process is writing it.
    """
    building, old = folder.with_name(f".{folder.name}.partial"), folder.with_name(f".{folder.name}.old")
    building.mkdir(parents=True, exist_ok=True)
    lock = _locked(building, folder)
    try:
        for leftover in building.iterdir():
            shutil.rmtree(leftover) if leftover.is_dir() and not leftover.is_symlink() else leftover.unlink()
        shutil.rmtree(old, ignore_errors=True)
        yield building
        if folder.exists():
            folder.rename(old)
        building.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    finally:
        os.close(lock)


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to, which takes its place only when the block ends well.

    Raises
    ------
    InputError
        Another process is writing it.
    """
    partial = path.with_name(f".{path.name}.partial")
    lock = _locked(partial, path, os.O_RDWR | os.O_CREAT)
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    finally:
        os.close(lock)


def _locked(building: Path, target: Path, flags: int = os.O_RDONLY) -> int:
    """The descriptor of a file or folder that is now this process's alone; it is free when the process ends."""
    descriptor = os.open(building, flags, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        remedy = "wait until it has ended, or end it, and run again"
        raise InputError(f"{target}: another process is writing it; {remedy}") from error
    except OSError:
        pass  # a file system without locks
    if not _is_still(descriptor, building):  # the other one has just published it
        os.close(descriptor)
        raise InputError(f"{target}: another process has just written it; run again")
    return descriptor


def _is_still(descriptor: int, path: Path) -> bool:
    """Whether a path leads to what was opened."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
