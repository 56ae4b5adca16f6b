"""Feature spaces in which images are compared."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from slsr.images.color import hsv_stripes
from slsr.images.decoding import Pixels

Features = NDArray[np.float32]

ROWS_AT_ONCE = 256
COMPARED_SIZE = (128, 64)  # in pixels, of the images of which features are computed
HOG_CELL, HOG_BINS, HOG_CLIP = 8, 9, 0.2
# Added to a block's squared length before the root: cells with differences below 4 gray levels, grain, count little.
HOG_FLAT = (4 * HOG_CELL**2) ** 2


def handcrafted(pixels: Pixels) -> Features:
    """Describe images by HSV stripes and HOG of their 128x64 version, each half of unit length, over sqrt 2.

    Parameters
    ----------
    pixels : uint8 [N, H, W, 3], RGB

    Returns
    -------
    float32 [N, 4804], rows of unit length: colors (1,024) and gradients (3,780) weigh the same.
    """
    blocks = [_handcrafted(pixels[start : start + ROWS_AT_ONCE]) for start in range(0, len(pixels), ROWS_AT_ONCE)]
    return np.concatenate(blocks) if blocks else np.empty((0, 4804), np.float32)


def resized(pixels: Pixels) -> Pixels:
    """Resize images to 128x64, bilinear and antialiased: uint8 [N, H, W, 3] to [N, 128, 64, 3]."""
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    if images.shape[2:] != COMPARED_SIZE:
        images = torch.nn.functional.interpolate(images.float(), COMPARED_SIZE, mode="bilinear", antialias=True)
        images = images.round().clamp(0, 255).to(torch.uint8)
    return images.permute(0, 2, 3, 1).contiguous().numpy()


def _handcrafted(pixels: Pixels) -> Features:
    pixels = resized(pixels)
    both: Features = np.concatenate([hsv_stripes(pixels), hog(pixels)], axis=1)
    return both / np.float32(np.sqrt(2))


def hog(pixels: Pixels) -> Features:
    """Compute histograms of oriented gradients (Dalal and Triggs, CVPR 2005).

    Gradients are centered differences in the color channel in which they are strongest. 9 unsigned orientations are
    interpolated linearly. Cells have 8x8 pixels; overlapping blocks of 2x2 cells are normalized, unless they are flat,
    and clipped at 0.2.

    Parameters
    ----------
    pixels : uint8 [N, H, W, 3]; H and W at least 16; pixels beyond a multiple of 8 are left out

    Returns
    -------
    float32 [N, (H//8 - 1) * (W//8 - 1) * 36], 3,780 values for 128x64, rows of unit length.
    """
    height, width = (size // HOG_CELL * HOG_CELL for size in pixels.shape[1:3])
    down, right = _strongest_gradient(pixels)
    cells = _cell_histograms(down[:, :height, :width], right[:, :height, :width])
    rows, columns = cells.shape[1] - 1, cells.shape[2] - 1
    corners = [cells[:, y : y + rows, x : x + columns] for y in (0, 1) for x in (0, 1)]
    blocks = np.concatenate(corners, axis=3)
    normed = blocks / np.sqrt(np.square(blocks).sum(axis=3, keepdims=True) + HOG_FLAT)
    return unit_rows(np.minimum(normed, HOG_CLIP).reshape(len(pixels), -1))


def _strongest_gradient(pixels: Pixels) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Compute differences down and to the right, in the channel in which they are largest, [N, H, W] each."""
    padded = np.pad(pixels, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge").astype(np.int16)
    down = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
    right = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
    strongest = (down.astype(np.int32) ** 2 + right.astype(np.int32) ** 2).argmax(axis=3)[..., None]
    gradients = (np.take_along_axis(part, strongest, axis=3)[..., 0].astype(np.float32) for part in (down, right))
    return next(gradients), next(gradients)


def _cell_histograms(down: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float32]:
    """Compute orientation histograms of cells, [N, H/8, W/8, 9], from gradients [N, H, W]."""
    count, height, width = down.shape
    rows, columns = height // HOG_CELL, width // HOG_CELL
    position = np.arctan2(down, right) % np.pi / np.pi * HOG_BINS - 0.5
    below = np.floor(position).astype(np.int64)
    magnitude, share = np.hypot(down, right), position - below
    row, column = np.arange(height)[:, None] // HOG_CELL, np.arange(width) // HOG_CELL
    cell = (np.arange(count)[:, None, None] * rows + row) * columns + column
    size = count * rows * columns * HOG_BINS
    histogram = np.bincount((cell * HOG_BINS + below % HOG_BINS).ravel(), (magnitude * (1 - share)).ravel(), size)
    histogram += np.bincount((cell * HOG_BINS + (below + 1) % HOG_BINS).ravel(), (magnitude * share).ravel(), size)
    return histogram.reshape(count, rows, columns, HOG_BINS).astype(np.float32)


def unit_rows(features: Features) -> Features:
    """Scale the last axis to unit Euclidean length; zeros stay."""
    length = np.linalg.norm(features, axis=-1, keepdims=True)
    return (features / np.where(length > 0, length, 1)).astype(np.float32)
