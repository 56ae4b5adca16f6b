"""The input of `train_gan` and `generate`: the training images, and the cluster of each."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slsr.errors import InputError
from slsr.images.decoding import Pixels, decode_resized
from slsr.images.tables import column_numpy, read_table

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClusteredImages:
    """Training images, uint8 [N, H, W, 3], and their clusters, int32 [N]."""

    pixels: Pixels
    clusters: NDArray[np.int32]

    def of(self, cluster: int) -> Pixels:
        """Return the images of one cluster, in the order of the table."""
        own: Pixels = self.pixels[self.clusters == cluster]
        return own


def evenly(pixels: Pixels, count: int) -> Pixels:
    """Return at most `count` images, spread evenly over all."""
    chosen: Pixels = pixels[evenly_spaced(len(pixels), count)]
    return chosen


def evenly_spaced(length: int, count: int) -> NDArray[np.int64]:
    """Return at most `count` positions, spread evenly over a length."""
    return np.unique(np.linspace(0, length - 1, count).astype(np.int64))


def load_clustered(train_table: Path, assignments_table: Path, height: int, width: int) -> ClusteredImages:
    """Decode the train table, resized to height x width, beside the assignments.

    Raises
    ------
    InputError
        A table is missing, or the two do not list the same images.
    """
    train = read_table(train_table, ["image", "name"])
    assignments = read_table(assignments_table, ["name", "cluster"])
    names = train.column("name").to_pylist()
    if assignments.column("name").to_pylist() != names:
        raise InputError(
            f"{assignments_table}: its {len(assignments)} images are not the {len(train)} of {train_table}; "
            "run `dvc repro`"
        )
    pixels = decode_resized(train.column("image").to_pylist(), height, width, names=names)
    clusters: NDArray[np.int32] = column_numpy(assignments, "cluster")
    log.info("read %s: %s images in %d clusters", train_table, f"{len(pixels):,}", len(np.unique(clusters)))
    return ClusteredImages(pixels, clusters)
