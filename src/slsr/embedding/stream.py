"""Features of many images, streamed into a file: the command `slsr embed`."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from slsr.embedding.encoder import LoadedEncoder
from slsr.embedding.files import NamedFeatures, Origin, Side, write_features
from slsr.embedding.pictures import ImageLike
from slsr.embedding.protocol import DataProtocol
from slsr.embedding.sources import ImageSources, SourceImage
from slsr.errors import InputError

NAMED = 5  # the first unreadable images are named in the log, the others only counted

log = logging.getLogger(__name__)


class Skipped:
    """Counts unreadable images and logs the first of them."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, error: InputError) -> None:
        self.count += 1
        if self.count <= NAMED:
            log.warning("skipped: %s", error)
        elif self.count == NAMED + 1:
            log.warning("skipped: more unreadable images, which are not named here")


def origin_of(encoder: LoadedEncoder, model: Path) -> Origin:
    """Say where features come from that an encoder computes, which was loaded from `model`."""
    return Origin(encoder.fingerprint, encoder.flip, model.as_posix())


def embed_sources(
    encoder: LoadedEncoder, sources: ImageSources, *, batch_size: int, skipped: Skipped | None, title: str = "embed"
) -> Iterator[NamedFeatures]:
    """Compute named features of all images batch by batch, with a progress bar on stderr.

    Parameters
    ----------
    skipped
        Is called with the error of an image that cannot be read, which is then left out; None raises the error.
    """
    seen: list[SourceImage] = []

    def named() -> Iterator[tuple[str, ImageLike]]:
        for source in sources:
            seen.append(replace(source, image=b""))  # the image may be large, and is no longer needed
            yield source.name, source.image

    done = 0
    with tqdm(total=sources.count, desc=title, unit="image", leave=False, disable=None) as bar:
        for rows, features in encoder.stream(named(), batch_size=batch_size, unreadable=skipped):
            batch = [seen[row - done] for row in rows]
            del seen[: rows[-1] + 1 - done]
            bar.update(rows[-1] + 1 - done)
            done = rows[-1] + 1
            names = [source.name for source in batch]
            labels = _labels(batch) if sources.labeled else (None, None)
            yield NamedFeatures(features, names, *labels)


def _labels(batch: Iterable[SourceImage]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    pairs = []
    for source in batch:
        if source.identity is None or source.camera is None:
            raise InputError(f"{source.name}: no identity or camera, though its table has both columns; fill them in")
        pairs.append((source.identity, source.camera))
    identities, cameras = np.array(pairs, np.int64).T
    return identities, cameras


def embed_into(
    path: Path,
    encoder: LoadedEncoder,
    origin: Origin,
    sides: dict[Side, ImageSources],
    *,
    batch_size: int = 64,
    strict: bool = False,
    protocol: DataProtocol | None = None,
) -> dict[Side, int]:
    """Write the features of images into a file; see `write_features`.

    Returns
    -------
    How many images of each side were written. Unreadable images are logged; with `strict` the first one is an error.
    """
    skipped = Skipped()
    blocks = {
        side: embed_sources(encoder, sources, batch_size=batch_size, skipped=None if strict else skipped, title=side)
        for side, sources in sides.items()
    }
    counts = write_features(path, origin, blocks, protocol)
    if skipped.count:
        log.warning("skipped %d unreadable images of %d", skipped.count, skipped.count + sum(counts.values()))
    return counts
