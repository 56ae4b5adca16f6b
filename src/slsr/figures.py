"""Every picture. Colours are those of Okabe and Ito, which colour-blind readers can tell apart."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from slsr.files import write_bytes
from slsr.images.decoding import Pixels

COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000"]
RIGHT, WRONG, QUERY = "#009E73", "#D55E00", "#000000"
DOTS_AN_INCH = 110
PANEL_IMAGE_WIDTH, CAPTION_HEIGHT, PANEL_BACKGROUND = 64, 26, "white"


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG with no clock or version in it, and close it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_AN_INCH, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)
    write_bytes(path, buffer.getvalue())


def draw_clusters(path: Path, points: NDArray[np.float32], clusterings: dict[int, NDArray[np.int32]]) -> None:
    """The paper's Figure 4: the features' first two principal components, once for each k, coloured by cluster.

    Parameters
    ----------
    points : [N, 2]
    clusterings : k -> assignments, int32 [N]
    """
    figure, axes = plt.subplots(
        1, len(clusterings), figsize=(3.6 * len(clusterings), 3.6), squeeze=False, sharey=True, layout="constrained"
    )
    for axis, (k, assignments) in zip(axes[0], sorted(clusterings.items()), strict=True):
        for cluster in range(k):
            members = points[assignments == cluster]
            axis.scatter(*members.T, s=8, color=COLOURS[cluster % len(COLOURS)], label=f"{cluster}: {len(members):,}")
        axis.set_title(f"k = {k}")
        axis.set_xlabel("first principal component")
        if k <= 10:
            axis.legend(
                title="cluster: images",
                fontsize=8,
                title_fontsize=8,
                ncols=2,
                loc="upper center",
                bbox_to_anchor=(0.5, -0.2),
            )
    axes[0][0].set_ylabel("second principal component")
    save_figure(figure, path)


def draw_cmc(path: Path, curves: dict[str, NDArray[np.float64]], title: str) -> None:
    """The paper's Figure 5: the share of queries with a right match among the first k, for several runs.

    Parameters
    ----------
    curves : name of a run -> CMC at ranks 1, 2, ..., as fractions
    """
    figure, axis = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    styles = ["-", "--", "-.", ":"]
    for number, (name, curve) in enumerate(curves.items()):
        ranks = np.arange(1, len(curve) + 1)
        axis.plot(
            ranks,
            100 * curve,
            styles[number % len(styles)],
            color=COLOURS[number % len(COLOURS)],
            lw=2,
            label=f"{100 * curve[0]:.1f} %  {name}",
        )
    axis.set(xlabel="rank", ylabel="queries with a right match up to this rank, %", title=title, ylim=(None, 101))
    axis.grid(alpha=0.3)
    axis.legend(title="rank-1", loc="lower right")
    save_figure(figure, path)


@dataclass(frozen=True)
class SheetRow:
    """A row of a contact sheet: its caption and its images, uint8 [n, H, W, 3]."""

    caption: str
    pixels: Pixels


def draw_sheet(path: Path, rows: Sequence[SheetRow], title: str) -> None:
    """A contact sheet: one captioned row of images for each entry."""
    columns = max(len(row.pixels) for row in rows)
    height, width = rows[0].pixels.shape[1:3]
    cell_width = 0.55
    cell_height = cell_width * height / width
    figure, axes = plt.subplots(
        len(rows),
        columns,
        figsize=(cell_width * columns + 1.8, cell_height * len(rows) + 0.5),
        squeeze=False,
        gridspec_kw={"wspace": 0.04, "hspace": 0.04},
    )
    for row, line in zip(rows, axes, strict=True):
        for column, axis in enumerate(line):
            axis.set_axis_off()
            if column < len(row.pixels):
                axis.imshow(row.pixels[column], aspect="auto")
        line[0].text(-0.15, 0.5, row.caption, ha="right", va="center", fontsize=9, transform=line[0].transAxes)
    figure.suptitle(title, fontsize=10, y=0.97)
    save_figure(figure, path)


@dataclass(frozen=True)
class Panel:
    """A captioned grid of images, uint8 [n, H, W, 3]."""

    caption: str
    pixels: Pixels


def draw_panels(path: Path, panels: Sequence[Panel], columns: int) -> None:
    """Captioned grids of images of one size, one below the other, pixel for pixel.

    Small images are enlarged by the whole factor that brings their width closest to 64 pixels.
    """
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
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    write_bytes(path, buffer.getvalue())


def _grid(pixels: Pixels, columns: int) -> Pixels:
    """Images in rows of `columns`, the last row filled with white: uint8 [rows * H, columns * W, 3]."""
    count, height, width = pixels.shape[:3]
    rows = -(-count // columns)
    cells = np.full((rows * columns, height, width, 3), 255, np.uint8)
    cells[:count] = pixels
    grid: Pixels = cells.reshape(rows, columns, height, width, 3).swapaxes(1, 2).reshape(rows * height, -1, 3)
    return grid


@dataclass(frozen=True)
class RankedRow:
    """One query and the first of its ranked gallery: uint8 [H, W, 3], [depth, H, W, 3], bool [depth]."""

    caption: str
    query: Pixels
    gallery: Pixels
    right: NDArray[np.bool_]


def draw_ranked_lists(path: Path, rows: Sequence[RankedRow], title: str) -> None:
    """The paper's Figure 6: queries with their ranked galleries; right matches framed solid, wrong ones dashed."""
    depth = max(len(row.gallery) for row in rows)
    figure, axes = plt.subplots(
        len(rows), depth + 1, figsize=(0.72 * (depth + 1) + 1.6, 1.45 * len(rows) + 0.8), squeeze=False
    )
    figure.subplots_adjust(wspace=0.12, hspace=0.12)
    for row, line in zip(rows, axes, strict=True):
        _framed(line[0], row.query, QUERY, "solid")
        line[0].text(-0.2, 0.5, row.caption, ha="right", va="center", fontsize=9, transform=line[0].transAxes)
        for rank, axis in enumerate(line[1:]):
            if rank < len(row.gallery):
                right = bool(row.right[rank])
                _framed(axis, row.gallery[rank], RIGHT if right else WRONG, "solid" if right else "dashed")
            else:
                axis.set_axis_off()
    for column, axis in enumerate(axes[0]):
        axis.set_title("query" if column == 0 else str(column), fontsize=9)
    figure.suptitle(f"{title}\nsolid green: right person; dashed orange: wrong", fontsize=10, y=1.0)
    save_figure(figure, path)


def _framed(axis: Axes, pixels: Pixels, colour: str, style: str) -> None:
    axis.imshow(pixels, aspect="auto")
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set(edgecolor=colour, linewidth=3, linestyle=style)
