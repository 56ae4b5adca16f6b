"""Image tables as tensors in memory."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from slsr.images.decoding import decode_resized
from slsr.images.tables import column_numpy, read_table
from slsr.params.recipe import Image

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabeledImages:
    """Decoded images of a training table: uint8 [N, H, W, 3] and int64 [N]."""

    pixels: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> LabeledImages:
        """Copy the images to a device."""
        return LabeledImages(self.pixels.to(device), self.labels.to(device))


def load_pixels(paths: Sequence[Path], image: Image) -> Tensor:
    """Decode and resize the images of some tables, one table after the other.

    Returns
    -------
    uint8 [N, resize_height, resize_width, 3]
    """
    encoded: list[bytes] = []
    names: list[str] = []
    for path in paths:
        table = read_table(path, ["image", "name"])
        encoded += table.column("image").to_pylist()
        names += table.column("name").to_pylist()
        log.info("read %s: %s images", path, f"{len(table):,}")
    pixels = decode_resized(encoded, image.resize_height, image.resize_width, image.interpolation, names)
    return torch.from_numpy(pixels)


def read_labels(path: Path) -> Tensor:
    """Read the labels of a training table, int64 [N]."""
    return torch.from_numpy(column_numpy(read_table(path, ["label"]), "label").astype("int64"))


def load_labeled(path: Path, image: Image) -> LabeledImages:
    """Decode the images of a training table and read their labels."""
    return LabeledImages(load_pixels([path], image), read_labels(path))
