"""Read a zip file or a folder, one file at a time, without unpacking it."""

from __future__ import annotations

import lzma
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import IO

from tqdm import tqdm

from slsr.errors import InputError
from slsr.images.listing import HIDDEN, LINKED, canonical, files_below, hidden_part, is_image, is_litter, unused_files

MARKER = "slsr-dataset.json"
MAXIMUM_FILE_BYTES = 256 * 2**20
PIECE = 2**20
UTF8_FLAG = 0x800
DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError, RuntimeError, struct.error)
UNREADABLE = (zipfile.BadZipFile, struct.error, NotImplementedError, ValueError, OverflowError)
OTHER_ARCHIVES = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"7z\xbc\xaf": "7z",
    b"Rar!": "rar",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x1f\x9d": "compress",
}
TAR = slice(257, 262)  # where a tar file has the word `ustar`
NOT_ARCHIVES = {
    b"<": "not a zip file but a web page; the download needs a browser, or a confirmation there",
    b"version https://git-lfs": "a pointer of Git LFS, not the archive; run `git lfs pull` where it comes from",
    b"": "an empty file (0 bytes); download it again",
}


@dataclass(frozen=True)
class Archive:
    """The files of a zip or a folder.

    Attributes
    ----------
    path
        The zip file, the folder or the table, for messages.
    sizes
        The number of bytes of each file, ascending by name. Names are relative, use `/` and composed characters (NFC).
        Files that operating systems leave behind (`.DS_Store`, `__MACOSX/`) are left out.
    read
        A function from a file's name to its bytes; several threads may call it.
    open
        A function from a file's name to a stream, for files that are too large to be read at once.
    left_out
        The names of what was passed over, by reason: hidden images, links that lead nowhere.
    marker
        The content of `MARKER`, in which `slsr data add` says what it packed; it is not one of the files.
    """

    path: Path
    sizes: Mapping[str, int]
    read: Callable[[str], bytes]
    open: Callable[[str], IO[bytes]]
    left_out: Mapping[str, Sequence[str]] = field(default_factory=dict)
    marker: bytes | None = None


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
        found = files_below(path)
        yield folder_archive(path, _by_name(path, found.files), found.left_out)
        return
    with _open_zip(path) as packed:
        lock = Lock()
        entries, left_out = _zip_entries(path, packed)
        yield _archive(
            path,
            {name: info.file_size for name, info in entries.items()},
            lambda name: _read_packed(packed, entries[name], name, lock),
            lambda name: packed.open(entries[name]),
            left_out,
        )


def folder_archive(
    path: Path, files: Mapping[str, Path], left_out: Mapping[str, Sequence[str]] | None = None
) -> Archive:
    """Treat files as an archive, which messages call `path`."""
    sizes = {name: file.stat().st_size for name, file in files.items()}
    return _archive(
        path, sizes, lambda name: _read_file(files[name], name), lambda name: files[name].open("rb"), left_out or {}
    )


def _archive(
    path: Path,
    sizes: Mapping[str, int],
    read: Callable[[str], bytes],
    stream: Callable[[str], IO[bytes]],
    left_out: Mapping[str, Sequence[str]],
) -> Archive:
    """Order the files by name, and set the marker apart."""
    markers = [name for name in sizes if name.rpartition("/")[2] == MARKER and name.count("/") <= 1]
    marker = read(markers[0]) if len(markers) == 1 else None
    ordered = {name: sizes[name] for name in sorted(sizes) if marker is None or name != markers[0]}
    return Archive(path, ordered, read, stream, left_out, marker)


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


def leaves_folder(name: str) -> bool:
    """Say whether a name in an archive or table is absolute or contains `..`, on any operating system."""
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts or name[1:2] == ":"


def count_ignored(archive: Archive, used: set[str]) -> dict[str, list[str]]:
    """List what a reader does not use by kind; see `unused_files`."""
    return unused_files(archive.left_out, (name for name in archive.sizes if name not in used), archive.open)


def _by_name(folder: Path, paths: Sequence[Path]) -> dict[str, Path]:
    """Map the name of each file, as `canonical` writes it, to its path; tables hold names as UTF-8."""
    files: dict[str, Path] = {}
    for path in paths:
        name = canonical(path.relative_to(folder).as_posix())
        try:
            name.encode()
        except UnicodeEncodeError as error:  # Python keeps bytes that are not UTF-8 as lone surrogates
            raise InputError(f"{folder}: the name {os.fsencode(name)!r} is not UTF-8; rename the file") from error
        if name in files:
            raise InputError(f"{folder}: two files have the name {name}, written in two ways; remove one")
        files[name] = path
    return files


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
            start = file.read(512)
        return zipfile.ZipFile(path)
    except PermissionError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); change its permissions") from error
    except UNREADABLE as error:
        raise InputError(_reason(path, start)) from error


def _reason(path: Path, start: bytes) -> str:
    """Say from its first bytes why a file is not a readable zip."""
    if start.startswith(b"PK\x03\x04"):
        return f"{path}: the zip is cut off (no directory at its end); download it again"
    kind = next((name for magic, name in OTHER_ARCHIVES.items() if start.startswith(magic)), None)
    if kind or start[TAR] == b"ustar":
        return f"{path}: a {kind or 'tar'} archive; only zip can be read: unpack it and use the folder instead"
    known = next((text for magic, text in NOT_ARCHIVES.items() if magic and start.lstrip().startswith(magic)), None)
    if known or not start:
        return f"{path}: {known or NOT_ARCHIVES[b'']}"
    return f"{path}: not a zip file; use the archive as its authors published it, or a folder"


def _zip_entries(path: Path, packed: zipfile.ZipFile) -> tuple[dict[str, zipfile.ZipInfo], dict[str, list[str]]]:
    """Map the name of each file to its entry, and list the hidden images and the links."""
    entries: dict[str, zipfile.ZipInfo] = {}
    left_out: dict[str, list[str]] = {}
    for info in packed.infolist():
        name = canonical(_decoded(info))
        if leaves_folder(name):
            raise InputError(f"{path}: the entry {name!r} leaves the archive's folder; do not use this archive")
        if name.endswith("/"):
            continue
        name = PurePosixPath(name).as_posix()  # without `./`
        if part := hidden_part(name):
            if not is_litter(part) and is_image(name):
                left_out.setdefault(HIDDEN, []).append(name)
            continue
        if stat.S_ISLNK(info.external_attr >> 16):  # the mode of the file, of Unix
            left_out.setdefault(LINKED, []).append(name)
            continue
        _check_entry(path, info, name)
        if name in entries:
            raise InputError(f"{path}: contains {name} twice; unpack it and use the folder instead")
        entries[name] = info
    return entries, left_out


def _decoded(info: zipfile.ZipInfo) -> str:
    """Return the name of an entry; some programs, such as that of macOS, write UTF-8 without saying so."""
    if not info.flag_bits & UTF8_FLAG:
        with suppress(UnicodeError):
            return info.filename.encode("cp437").decode("utf-8")
    return info.filename


def _check_entry(path: Path, info: zipfile.ZipInfo, name: str) -> None:
    if info.flag_bits & 0x1:
        raise InputError(f"{path}: protected by a password; unpack it and use the folder instead")
    if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA}:
        raise InputError(
            f"{path}: {name} is compressed by method {info.compress_type}, which cannot be read; "
            "unpack the archive and use the folder instead"
        )


def _read_packed(packed: zipfile.ZipFile, info: zipfile.ZipInfo, name: str, lock: Lock) -> bytes:
    """Read one file; the lock guards the zip's count of open files, which is not safe for threads."""
    if info.file_size > MAXIMUM_FILE_BYTES:
        raise InputError(
            f"{name}: unpacks to {info.file_size:,} bytes, which is too large for an image; replace or remove it"
        )
    try:
        with lock:
            stream = packed.open(info)
        try:
            return stream.read()
        finally:
            with lock:
                stream.close()
    except (*DAMAGE, OSError) as error:
        raise InputError(f"{name}: damaged in the zip ({error}); download the archive again") from error
