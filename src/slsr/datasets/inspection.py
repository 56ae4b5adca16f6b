"""Decode every image once, and note its size, its mode and whether it can be read."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from tqdm import tqdm

from slsr.datasets.collection import Collection, Entry
from slsr.errors import InputError
from slsr.images.decoding import open_image, to_rgb
from slsr.images.listing import shown

CHUNK = 32
CHUNK_BYTES = 2 * 2**20

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was found by decoding one image.

    Attributes
    ----------
    mode
        Pillow's name of its pixel format. Other modes than RGB are converted when the image is used.
    digest
        SHA-256 of the encoded bytes, shortened to 16 bytes.
    """

    width: int
    height: int
    mode: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Why an image cannot be used."""

    reason: str


def inspect_images(
    entries: Sequence[Entry], read: Callable[[str], bytes], workers: int | None = None
) -> Iterator[tuple[Entry, bytes, Inspection | Unreadable]]:
    """Read and decode each image on several threads, in order, at most a fixed number ahead of the consumer.

    Parameters
    ----------
    workers
        The number of threads; None: one for each core that this process may use, at most 8.
    """

    def inspect_chunk(chunk: Sequence[Entry]) -> list[tuple[Entry, bytes, Inspection | Unreadable]]:
        return [(entry, *inspect_image(entry, read)) for entry in chunk]

    for results in map_in_order(inspect_chunk, _chunks(entries), workers or min(8, usable_cores())):
        yield from results


def inspect_collection(collection: Collection) -> tuple[dict[Entry, Inspection], dict[str, str]]:
    """Decode every image; return what was found, and the sources of the unreadable images with the reason."""
    found: dict[Entry, Inspection] = {}
    unreadable: dict[str, str] = {}
    results = inspect_images(collection.entries, collection.read)
    for entry, _, result in tqdm(results, "check", len(collection.entries), unit="image", disable=None):
        if isinstance(result, Unreadable):
            unreadable[entry.source] = result.reason
        else:
            found[entry] = result
    return found, unreadable


def usable_cores() -> int:
    """Count the CPU cores that this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _chunks(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Divide the entries into chunks of at most 32 images and about 2 MiB."""
    chunk: list[Entry] = []
    size = 0
    for entry in entries:
        chunk.append(entry)
        size += entry.size
        if len(chunk) == CHUNK or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def inspect_image(entry: Entry, read: Callable[[str], bytes]) -> tuple[bytes, Inspection | Unreadable]:
    """Read and decode one image."""
    try:
        encoded = read(entry.source)
        image = open_image(encoded, shown(entry.source))
        to_rgb(image, shown(entry.source))
    except InputError as error:
        return b"", Unreadable(str(error))
    digest = hashlib.sha256(encoded).digest()[:16]
    return encoded, Inspection(image.width, image.height, image.mode, digest)


def map_in_order(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int, ahead: int = 4
) -> Iterator[Result]:
    """Apply a function to each item on several threads, at most `ahead` items per thread before the consumer."""
    with ThreadPoolExecutor(workers) as pool:
        waiting = iter(items)
        running = deque(pool.submit(function, item) for item in islice(waiting, workers * ahead))
        try:
            while running:
                yield running.popleft().result()
                running.extend(pool.submit(function, item) for item in islice(waiting, 1))
        finally:
            pool.shutdown(cancel_futures=True)
