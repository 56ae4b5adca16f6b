"""Read a zip file or a folder, one file at a time, without unpacking it."""

from __future__ import annotations

import lzma
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import IO

from tqdm import tqdm

from slsr.errors import InputError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".gif"})
MAXIMUM_FILE_BYTES = 256 * 2**20
PIECE = 2**20
DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError, RuntimeError, struct.error)
UNREADABLE = (zipfile.BadZipFile, struct.error, NotImplementedError, ValueError, OverflowError)
OTHER_ARCHIVES = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"7z\xbc\xaf": "7z", b"Rar!": "rar"}


@dataclass(frozen=True)
class Archive:
    """The files of a zip or a folder.

    Attributes
    ----------
    path
        The zip file, the folder or the table, for messages.
    sizes
        The number of bytes of each file, ascending by name. Names are relative and use `/`. Files that operating
        systems leave behind (`.DS_Store`, `__MACOSX/`) are left out.
    read
        A function from a file's name to its bytes; several threads may call it.
    open
        A function from a file's name to a stream, for files that are too large to be read at once.
    """

    path: Path
    sizes: Mapping[str, int]
    read: Callable[[str], bytes]
    open: Callable[[str], IO[bytes]]


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open a zip file or a folder.

    Raises
    ------
    InputError
        The file is missing, not a zip, cut off or protected by a password, it is compressed by an unknown method, or
        a name in it leaves the folder.
    """
    if path.is_dir():
        yield folder_archive(path, path, _folder_sizes(path))
        return
    with _open_zip(path) as packed:
        lock = Lock()
        yield Archive(path, _zip_sizes(path, packed), lambda name: _read_packed(packed, name, lock), packed.open)


def folder_archive(path: Path, folder: Path, sizes: Mapping[str, int]) -> Archive:
    """Treat the named files of a folder as an archive, which messages call `path`."""
    return Archive(path, sizes, lambda name: _read_file(folder / name, name), lambda name: (folder / name).open("rb"))


def copy_out(archive: Archive, name: str, target: Path) -> None:
    """Copy one file of the archive to `target`."""
    try:
        with archive.open(name) as source:
            copy_stream(source, target, archive.sizes[name], f"unpack {PurePosixPath(name).name}")
    except DAMAGE as error:
        raise InputError(f"{archive.path}: {name} is damaged in the zip ({error}); download it again") from error


def copy_stream(source: IO[bytes], target: Path, size: int, title: str) -> None:
    """Copy a stream of `size` bytes to a file, in pieces of 1 MiB, with a progress bar."""
    bar = tqdm(total=size, desc=title, unit="B", unit_scale=True, disable=None)
    with target.open("wb") as file, bar:
        while piece := source.read(PIECE):
            file.write(piece)
            bar.update(len(piece))


def is_image(name: str) -> bool:
    """Say whether a file's name ends like the name of an image."""
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def leaves_folder(name: str) -> bool:
    """Say whether a name in an archive or table is absolute or contains `..`, on any operating system."""
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts or name[1:2] == ":"


def count_ignored(archive: Archive, used: set[str]) -> dict[str, int]:
    """Count the files that are not in `used`: `Thumbs.db` by its name, others by `*` and suffix."""
    unused = (PurePosixPath(name) for name in archive.sizes if name not in used)
    counts = Counter("Thumbs.db" if name.name == "Thumbs.db" else f"*{name.suffix or name.name}" for name in unused)
    return dict(sorted(counts.items()))


def _is_litter(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return "__MACOSX" in parts or any(part.startswith(".") for part in parts)


def _folder_sizes(folder: Path) -> dict[str, int]:
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: files[name].stat().st_size for name in sorted(files) if not _is_litter(name)}


def _read_file(path: Path, name: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror}); replace or remove it") from error


def _open_zip(path: Path) -> zipfile.ZipFile:
    if not path.is_file():
        raise InputError(f"{path}: no such file or folder; correct the path")
    try:
        with path.open("rb") as file:
            start = file.read(6)
        return zipfile.ZipFile(path)
    except PermissionError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); change its permissions") from error
    except UNREADABLE as error:
        if start.startswith(b"PK\x03\x04"):
            raise InputError(f"{path}: the zip is cut off (no directory at its end); download it again") from error
        if other := next((name for magic, name in OTHER_ARCHIVES.items() if start.startswith(magic)), None):
            raise InputError(
                f"{path}: a {other} archive; only zip can be read: unpack it and use the folder instead"
            ) from error
        raise InputError(f"{path}: not a zip file; use the archive as its authors published it, or a folder") from error


def _zip_sizes(path: Path, packed: zipfile.ZipFile) -> dict[str, int]:
    sizes = {}
    for info in packed.infolist():
        if leaves_folder(info.filename):
            raise InputError(
                f"{path}: the entry {info.filename!r} leaves the archive's folder; do not use this archive"
            )
        if info.is_dir() or _is_litter(info.filename):
            continue
        if info.flag_bits & 0x1:
            raise InputError(f"{path}: protected by a password; unpack it and use the folder instead")
        if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA}:
            raise InputError(
                f"{path}: {info.filename} is compressed by method {info.compress_type}, which cannot be read; "
                "unpack the archive and use the folder instead"
            )
        if info.filename in sizes:
            raise InputError(f"{path}: contains {info.filename} twice; unpack it and use the folder instead")
        sizes[info.filename] = info.file_size
    return dict(sorted(sizes.items()))


def _read_packed(packed: zipfile.ZipFile, name: str, lock: Lock) -> bytes:
    """Read one file; the lock guards the zip's count of open files, which is not safe for threads."""
    size = packed.getinfo(name).file_size
    if size > MAXIMUM_FILE_BYTES:
        raise InputError(f"{name}: unpacks to {size:,} bytes, which is too large for an image; replace or remove it")
    try:
        with lock:
            stream = packed.open(name)
        try:
            return stream.read()
        finally:
            with lock:
                stream.close()
    except (*DAMAGE, OSError) as error:
        raise InputError(f"{name}: damaged in the zip ({error}); download the archive again") from error
