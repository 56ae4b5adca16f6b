"""The readers by name, and opening an archive with one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from slsr.datasets.archive import Archive, open_archive
from slsr.datasets.collection import Collection
from slsr.datasets.market1501 import read_market1501

READERS: Mapping[str, Callable[[Archive], Collection]] = {"market1501": read_market1501}


@contextmanager
def open_collection(path: Path, name: str) -> Iterator[Collection]:
    """Open an archive as the data set `name`; its images can be read while the block lasts.

    Raises
    ------
    InputError
        The file cannot be read, or is no such data set.
    """
    with open_archive(path) as archive:
        yield READERS[name](archive)
