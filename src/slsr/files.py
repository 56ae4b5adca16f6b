"""Files and folders that are written completely or not at all."""

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
    """Write a file under a temporary name in the same folder, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys and a final newline; NaN and infinity raise a ValueError."""
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
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error}); make it again with `dvc repro`") from error


def write_npy(path: Path, array: NDArray[Any]) -> None:
    """Write one array as .npy."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_bytes(path, buffer.getvalue())


def read_npy(path: Path) -> NDArray[Any]:
    """Read one array from .npy; a pickled object is an error and is never loaded.

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


def require_readable(folder: Path) -> None:
    """Raise an OSError if a folder, or one below it, is there and cannot be listed.

    `Path.glob`, `os.walk` and DVC pass over such folders without a word, so that what lies in them is taken for absent.
    """

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    for _ in os.walk(folder, onerror=refuse):
        pass


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """Give an empty folder to write into; it replaces `folder` when the block ends without an error.

    Raises
    ------
    InputError
        Another process is writing the folder.
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
    """Give a path in the same folder to write to; it replaces `path` when the block ends without an error.

    Raises
    ------
    InputError
        Another process is writing the file.
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
    """Open and lock a file or folder for this process; the lock ends with the process at the latest."""
    descriptor = os.open(building, flags, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        remedy = "wait until it has ended, or stop it, and run again"
        raise InputError(f"{target}: another process is writing it; {remedy}") from error
    except OSError:
        pass  # a file system without locks
    if not _leads_to(building, descriptor):  # the other process has just renamed it
        os.close(descriptor)
        raise InputError(f"{target}: another process has just written it; run again")
    return descriptor


def _leads_to(path: Path, descriptor: int) -> bool:
    """Tell whether a path still leads to the file or folder that was opened."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
