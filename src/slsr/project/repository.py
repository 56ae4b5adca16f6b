"""The DVC repository of a clone: opened, configured, and the folders in which it keeps objects."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slsr.errors import InputError, one_line

if TYPE_CHECKING:
    from dvc.repo import Repo


def require_repository(root: Path) -> None:
    """Raise if a folder is not the root of a DVC repository."""
    if not (root / ".dvc").is_dir():
        raise InputError(f"{root.resolve()}: no DVC repository; run this in the root of the project")


@contextmanager
def opened(root: Path) -> Iterator[Repo]:
    """Open the repository; an error of DVC becomes an InputError with its words and its cause."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    require_repository(root)
    try:
        with Repo(str(root)) as repo:
            yield repo
    except DvcException as error:
        cause = f": {one_line(error.__cause__)}" if error.__cause__ else ""
        raise InputError(f"{root.resolve()}: DVC failed: {one_line(error)}{cause}") from error


def load_config(root: Path) -> dict[str, Any]:
    """Read DVC's configuration with all its levels.

    Raises
    ------
    InputError
        The configuration cannot be read.
    """
    from dvc.config import Config, ConfigError

    try:
        return dict(Config(str(root / ".dvc")))
    except (ConfigError, OSError, UnicodeDecodeError) as error:
        raise InputError(f"the DVC configuration cannot be read: {one_line(error.__cause__ or error)}") from error


def cache_folder(root: Path, config: dict[str, Any]) -> Path:
    """Return DVC's cache, wherever the configuration puts it."""
    return Path(config.get("cache", {}).get("dir") or root / ".dvc" / "cache")


@cache
def local_stores(root: Path, remote: str | None = None) -> tuple[Path, ...]:
    """Return the folders on this machine that hold DVC's objects: the cache, and a remote if it is a folder.

    Raises
    ------
    InputError
        There is no DVC repository, or its configuration cannot be read.
    """
    require_repository(root)
    config = load_config(root)
    url = str(config.get("remote", {}).get(remote, {}).get("url", "")) if remote else ""
    remotes = [root / ".dvc" / url] if url and "://" not in url else []
    return (cache_folder(root, config), *remotes)


def stored_object(root: Path, md5: str, remote: str | None = None) -> Path | None:
    """Return the object of this hash, to be read only; None if no folder on this machine has it.

    Raises
    ------
    InputError
        What is there has another content than the hash says: it was cut off or overwritten.
    """
    places = [store / "files" / "md5" / md5[:2] / md5[2:] for store in local_stores(root, remote)]
    there = [place for place in places if place.is_file()]
    for place in there:
        with place.open("rb") as file:
            found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if found == md5.removesuffix(".dir"):
            return place
    if there:
        raise InputError(
            f"{there[0]}: damaged, because its md5 is {found}; remove this file, then `dvc pull`, or "
            "`dvc repro --force` of the stage that wrote it"
        )
    return None
