"""Every diagram; contact sheets are in sheets.py. The colours, Okabe and Ito's, suit colour-blind readers too."""

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

from slsr.files import write_bytes
from slsr.images.decoding import Pixels

COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000"]
RIGHT, WRONG, QUERY = "#009E73", "#D55E00", "#000000"
DOTS_AN_INCH = 110


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
        axis.set_title(f"k = {k}" if k <= len(COLOURS) else f"k = {k} (colours repeat)")
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
    axis.set_xticks([1, *range(5, len(ranks) + 1, 5)])
    axis.grid(alpha=0.3)
    axis.legend(title="rank-1", loc="lower right")
    save_figure(figure, path)


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
    height = figure.get_size_inches()[1]
    figure.subplots_adjust(wspace=0.12, hspace=0.12, bottom=0.01, top=1 - 0.75 / height)
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
    figure.suptitle(f"{title}\nsolid green: right person; dashed orange: wrong", fontsize=10, y=1 - 0.1 / height)
    save_figure(figure, path)


def _framed(axis: Axes, pixels: Pixels, colour: str, style: str) -> None:
    axis.imshow(pixels, aspect="auto")
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set(edgecolor=colour, linewidth=3, linestyle=style)
