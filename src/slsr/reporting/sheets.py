"""Contact sheets, still and moving: images of one size under captions.

They are not in figures.py, so that an edit of a diagram does not make the training of generators stale.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from slsr.files import write_bytes
from slsr.images.decoding import Pixels

PANEL_IMAGE_WIDTH, CAPTION_HEIGHT, PANEL_BACKGROUND = 64, 26, "white"
MILLISECONDS_PER_FRAME, LAST_FRAME_LASTS, WEBP_QUALITY = 250, 8, 60


@dataclass(frozen=True)
class Panel:
    """A captioned grid of images, uint8 [n, H, W, 3]."""

    caption: str
    pixels: Pixels


def draw_panels(path: Path, panels: Sequence[Panel], columns: int) -> None:
    """Draw captioned grids of images of one size, one below the other.

    Each pixel is repeated a whole number of times, so that the width of an image comes closest to 64 pixels.
    """
    buffer = io.BytesIO()
    _sheet(panels, columns).save(buffer, "PNG", optimize=True)
    write_bytes(path, buffer.getvalue())


def animate_panels(path: Path, frames: Sequence[Sequence[Panel]], columns: int) -> None:
    """Draw sheets of one size as an animated WebP that repeats for ever and shows the last sheet longer.

    The WebP is lossy, and a tenth of the size of a GIF or an animated PNG.
    """
    first, *others = (_sheet(panels, columns) for panels in frames)
    durations = [MILLISECONDS_PER_FRAME] * len(others) + [LAST_FRAME_LASTS * MILLISECONDS_PER_FRAME]
    buffer = io.BytesIO()
    first.save(
        buffer, "WEBP", save_all=True, append_images=others, duration=durations, loop=0, quality=WEBP_QUALITY, method=4
    )
    write_bytes(path, buffer.getvalue())


def _sheet(panels: Sequence[Panel], columns: int) -> Image.Image:
    width = panels[0].pixels.shape[2]
    factor = max(1, round(PANEL_IMAGE_WIDTH / width))
    grids = [_grid(panel.pixels, columns).repeat(factor, axis=0).repeat(factor, axis=1) for panel in panels]
    sheet = Image.new(
        "RGB", (columns * width * factor, sum(len(grid) + CAPTION_HEIGHT for grid in grids)), PANEL_BACKGROUND
    )
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=15)
    top = 0
    for panel, grid in zip(panels, grids, strict=True):
        pen.text((4, top + CAPTION_HEIGHT // 2), panel.caption, fill="black", font=font, anchor="lm")
        sheet.paste(Image.fromarray(grid), (0, top + CAPTION_HEIGHT))
        top += CAPTION_HEIGHT + len(grid)
    return sheet


def _grid(pixels: Pixels, columns: int) -> Pixels:
    """Put images in rows of `columns` and fill the last row with white: uint8 [rows * H, columns * W, 3]."""
    count, height, width = pixels.shape[:3]
    rows = -(-count // columns)
    cells = np.full((rows * columns, height, width, 3), 255, np.uint8)
    cells[:count] = pixels
    grid: Pixels = cells.reshape(rows, columns, height, width, 3).swapaxes(1, 2).reshape(rows * height, -1, 3)
    return grid
