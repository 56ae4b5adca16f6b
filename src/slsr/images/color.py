"""A handcrafted description of a person's colors, as a baseline and for judging generated images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from slsr.images.decoding import Pixels


def hsv_stripes(pixels: Pixels, stripes: int = 8, bins: tuple[int, int, int] = (8, 4, 4)) -> NDArray[np.float32]:
    """Compute square-rooted HSV histograms of horizontal stripes.

    The Euclidean distance of square-rooted histograms is the Hellinger distance. The bins of each stripe are joint bins
    of hue, saturation and value, as in the ensemble of localized features of Gray and Tao (ECCV 2008).

    Parameters
    ----------
    pixels : uint8 [N, H, W, 3], RGB
    stripes : horizontal stripes of (nearly) equal height
    bins : of hue, saturation and value

    Returns
    -------
    float32 [N, stripes * prod(bins)], rows of unit Euclidean length.
    """
    count, height = pixels.shape[:2]
    cells = int(np.prod(bins))
    stripe = np.arange(height) * stripes // height
    features = np.empty((count, stripes * cells), dtype=np.float32)
    for row, image in enumerate(pixels):
        cell = _hsv_cells(image, bins) + stripe[:, None] * cells
        histogram = np.bincount(cell.ravel(), minlength=stripes * cells).reshape(stripes, cells)
        features[row] = np.sqrt(histogram / histogram.sum(axis=1, keepdims=True) / stripes).ravel()
    return features


def _hsv_cells(image: Pixels, bins: tuple[int, int, int]) -> NDArray[np.int64]:
    """Number the joint hue, saturation and value bin of each pixel, [H, W]."""
    red, green, blue = (image[..., channel].astype(np.float32) / 255 for channel in range(3))
    value = np.max(image, axis=-1).astype(np.float32) / 255
    chroma = value - np.min(image, axis=-1).astype(np.float32) / 255
    safe = np.where(chroma > 0, chroma, 1)
    hue = np.where(
        value == red, (green - blue) / safe, np.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe)
    )
    channels = ((hue / 6) % 1.0, np.where(value > 0, chroma / np.where(value > 0, value, 1), 0), value)
    hue_bin, saturation_bin, value_bin = (
        np.minimum((channel * size).astype(np.int64), size - 1) for channel, size in zip(channels, bins, strict=True)
    )
    cells: NDArray[np.int64] = (hue_bin * bins[1] + saturation_bin) * bins[2] + value_bin
    return cells
