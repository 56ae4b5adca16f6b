"""Output files of commands, which are checked before any work is done."""

from __future__ import annotations

import tempfile
from pathlib import Path

from slsr.errors import InputError


def check_output(target: Path | None, *suffixes: str, replace: bool) -> None:
    """Refuse an output file that cannot be written, or that must not be.

    Parameters
    ----------
    target
        The file; None if it was not asked for.
    suffixes
        Those that its name may have; none for any.
    replace
        Whether it may exist already.

    Raises
    ------
    InputError
        It has another suffix, is a folder or in none, exists already, is an output of a stage, or cannot be created.
    """
    if target is None:
        return
    if suffixes and target.suffix.lower() not in suffixes:
        raise InputError(f"{target}: the suffix must be {' or '.join(suffixes)}; name the file so")
    if target.is_dir() or not target.parent.is_dir():
        raise InputError(f"{target}: {'a folder' if target.is_dir() else 'its folder does not exist'}; name a file")
    if target.exists() and not replace:
        raise InputError(f"{target}: exists already; name another file, or replace it with --force")
    if target.exists() and _is_output_of_stage(target):
        raise InputError(f"{target}: is an output of the pipeline; name another file")
    check_writable(target.parent)


def _is_output_of_stage(target: Path) -> bool:
    """Tell whether dvc.lock of the project in this folder lists the file, or a folder that it is in."""
    from slsr.project.lock import LOCK, outputs, parse_lock

    lock = Path(LOCK)
    if not lock.is_file():
        return False
    found = target.resolve()
    stages = parse_lock(lock.read_bytes(), LOCK)
    return any(found.is_relative_to(Path(path).resolve()) for entry in stages.values() for path in outputs(entry))


def check_writable(folder: Path) -> None:
    """Refuse a folder, existing or new, in which no file can be created."""
    place = next((one for one in (folder, *folder.parents) if one.exists()), folder)
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(f"{folder}: no file can be created in {place} ({reason}); name another folder") from error
