"""Which files are images, and which files a folder holds: one answer for every command."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from slsr.errors import InputError
from slsr.images.decoding import is_image_content

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jif", ".jfif", ".jfi", ".pjpeg", ".pjp", ".png", ".apng", ".bmp", ".dib", ".tif"}
    | {".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".pnm", ".gif"}
)
OTHER_IMAGE_SUFFIXES = frozenset(
    {".avif", ".heic", ".heif", ".hif", ".jp2", ".j2k", ".jpf", ".jpx", ".jxl", ".jxr", ".psd", ".tga", ".pcx", ".exr"}
    | {".hdr", ".svg", ".ico", ".eps", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pfm"}
    | {".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v"}
)
ARCHIVE_SUFFIXES = frozenset({".zip", ".tar", ".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".7z", ".rar"})
LITTER = frozenset({"__MACOSX", ".DS_Store", ".git", ".dvc", ".ipynb_checkpoints", ".Spotlight-V100", ".Trashes"})

HIDDEN = "hidden images or folders"
BROKEN = "links that lead nowhere"
CIRCULAR = "links to a folder that they are in"
SPECIAL = "neither files nor folders"
UNUSED = "images that are in no part of the data set"
UNREAD = "files in a format that is not read (convert them to PNG or JPEG)"
PACKED = "archives inside (unpack them)"
LINKED = "links in the zip (unpack it and use the folder instead)"
UNNAMED = "files without an ending"
UNNAMED_IMAGES = "files without an ending, images among them (add .jpg or .png to their names)"
TOLD = (HIDDEN, BROKEN, CIRCULAR, SPECIAL, UNUSED, UNREAD, PACKED, LINKED, UNNAMED, UNNAMED_IMAGES)
TRIED = 20  # files without an ending that are opened, to see whether they are images


@dataclass(frozen=True)
class FolderContent:
    """The files below a folder, and the names of what was passed over, by reason."""

    files: list[Path] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def leave_out(self, reason: str, name: str) -> None:
        """Note a file or folder that is passed over."""
        self.left_out.setdefault(reason, []).append(name)


def is_image(name: str) -> bool:
    """Say whether a file's name ends like the name of an image that can be read."""
    return suffix_of(name) in IMAGE_SUFFIXES


def suffix_of(name: str) -> str:
    """Return the ending of a file's name in lower case, with its dot."""
    return PurePosixPath(name).suffix.lower()


def canonical(name: str) -> str:
    """Write a name with `/` and composed characters (NFC), as every system shows it.

    macOS decomposes `é` into two characters, and old Windows programs write backslashes into zip files.
    """
    return unicodedata.normalize("NFC", name.replace("\\", "/"))


def shown(name: str) -> str:
    """Write a name for a message of one line: quoted, with escapes, if a line break or the like is in it."""
    return name if name.isprintable() else repr(name)


def hidden_part(name: str) -> str | None:
    """Return the first part of a name that is hidden or left behind by a system; None if there is none."""
    return next((part for part in PurePosixPath(name).parts if part.startswith(".") or part in LITTER), None)


def is_litter(part: str) -> bool:
    """Say whether a hidden file or folder is one that systems leave behind, which holds no images of a user."""
    return part in LITTER or part.startswith("._")


def files_below(folder: Path) -> FolderContent:
    """List the files of a folder at any depth, and through symbolic links, ascending by name.

    Raises
    ------
    InputError
        A folder cannot be read.
    """
    found = FolderContent()
    _walk(folder, "", frozenset(), found)
    return found


def _walk(place: Path, prefix: str, around: frozenset[tuple[int, int]], found: FolderContent) -> None:
    try:
        status = place.stat()
        key = (status.st_dev, status.st_ino)
        if key in around:
            return found.leave_out(CIRCULAR, prefix)
        with os.scandir(place) as entries:
            ordered = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"{place}: cannot be read ({error.strerror}); correct its permissions") from error
    for entry in ordered:
        name = prefix + entry.name
        kind = _kind(entry)
        if hidden_part(entry.name):
            if not is_litter(entry.name) and (kind == "folder" or is_image(name)):
                found.leave_out(HIDDEN, name)
        elif kind == "folder":
            _walk(place / entry.name, f"{name}/", around | {key}, found)
        elif kind == "file":
            found.files.append(place / entry.name)
        else:
            found.leave_out(kind, name)
    return None


def _kind(entry: os.DirEntry[str]) -> str:
    """Return `folder` or `file`, also for a link to one, or the reason to leave the entry out."""
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
    except OSError:  # for example a link to itself
        return BROKEN
    return BROKEN if entry.is_symlink() else SPECIAL


def unused_files(
    left_out: Mapping[str, Sequence[str]], names: Iterator[str], stream: Callable[[str], IO[bytes]]
) -> dict[str, list[str]]:
    """Sort the files that nothing uses, and what was left out before, by kind.

    Kinds that a user must know of are sentences; the others are `Thumbs.db` or `*` with the ending of the names.
    `stream` opens a file by its name.
    """
    kinds: dict[str, list[str]] = {reason: list(found) for reason, found in left_out.items()}
    for name in names:
        kinds.setdefault(_kind_of_unused(name), []).append(name)
    if image := next((name for name in kinds.get(UNNAMED, [])[:TRIED] if _holds_image(name, stream)), None):
        kinds[UNNAMED_IMAGES] = [image, *(name for name in kinds.pop(UNNAMED) if name != image)]
    return dict(sorted(kinds.items()))


def _holds_image(name: str, stream: Callable[[str], IO[bytes]]) -> bool:
    try:
        with stream(name) as file:
            return is_image_content(file)
    except OSError:
        return False


def _kind_of_unused(name: str) -> str:
    suffix, last = suffix_of(name), PurePosixPath(name).name
    for kind, suffixes in ((UNUSED, IMAGE_SUFFIXES), (UNREAD, OTHER_IMAGE_SUFFIXES), (PACKED, ARCHIVE_SUFFIXES)):
        if suffix in suffixes:
            return kind
    if not suffix:
        return UNNAMED
    return "Thumbs.db" if last == "Thumbs.db" else f"*{suffix}"


def is_other(kind: str) -> bool:
    """Say whether a kind of unused files is neither images nor hides any."""
    return kind not in TOLD


def described(kinds: Mapping[str, Sequence[str]]) -> list[str]:
    """Write one line for each kind that a user must know of: how many, why, and an example."""
    return [
        f"left out: {len(names):,} {kind}, for example {shown(names[0])}"
        for kind, names in kinds.items()
        if names and not is_other(kind)
    ]
