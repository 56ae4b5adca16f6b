"""What `train_gan` and `generate` read: the training images, and the cluster of each."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slsr.errors import InputError
from slsr.images.decoding import Pixels, decode_resized
from slsr.records import column_numpy, read_table
from slsr.stages.paths import ASSIGNMENTS, TRAIN_TABLE

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClusteredImages:
    """Training images, uint8 [N, H, W, 3], and their clusters, int32 [N]."""

    pixels: Pixels
    clusters: NDArray[np.int32]

    def of(self, cluster: int) -> Pixels:
        """The images of one cluster, in the order of the table."""
        own: Pixels = self.pixels[self.clusters == cluster]
        return own


def load_clustered(height: int, width: int) -> ClusteredImages:
    """Decode the train table, resized to height x width, beside the assignments.

    Raises
    ------
    InputError
        A table is missing, or the two do not list the same images.
    """
    train = read_table(TRAIN_TABLE, ["image", "name"])
    assignments = read_table(ASSIGNMENTS, ["name", "cluster"])
    names = train.column("name").to_pylist()
    if assignments.column("name").to_pylist() != names:
        raise InputError(
            f"{ASSIGNMENTS}: its {len(assignments)} images are not the {len(train)} of {TRAIN_TABLE}; run `dvc repro`"
        )
    pixels = decode_resized(train.column("image").to_pylist(), height, width, names=names)
    clusters: NDArray[np.int32] = column_numpy(assignments, "cluster")
    log.info("read %s: %s images in %d clusters", TRAIN_TABLE, f"{len(pixels):,}", len(np.unique(clusters)))
    return ClusteredImages(pixels, clusters)
