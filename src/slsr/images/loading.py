"""Image tables as tensors in memory."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from slsr.images.decoding import decode_resized
from slsr.params import Image
from slsr.records import read_table

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelledImages:
    """Decoded images of a training table: uint8 [N, H, W, 3] and int64 [N]."""

    pixels: Tensor
    labels: Tensor


def load_pixels(path: Path, image: Image) -> Tensor:
    """Decode the images of a table once, resized: uint8 [N, resize_height, resize_width, 3]."""
    table = read_table(path, ["image", "name"])
    pixels = decode_resized(
        table.column("image").to_pylist(),
        image.resize_height,
        image.resize_width,
        image.interpolation,
        table.column("name").to_pylist(),
    )
    log.info("read %s: %s images", path, f"{len(pixels):,}")
    return torch.from_numpy(pixels)


def load_labelled(path: Path, image: Image) -> LabelledImages:
    """Decode the images of a training table, with their labels."""
    labels = read_table(path, ["label"]).column("label").to_numpy().astype("int64")
    return LabelledImages(load_pixels(path, image), torch.from_numpy(labels))
