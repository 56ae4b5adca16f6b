"""All diagrams; contact sheets are in sheets.py. The colors by Okabe and Ito also suit color-blind readers."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from slsr.files import write_bytes
from slsr.images.decoding import Pixels

COLORS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000"]
RIGHT, WRONG, QUERY = "#009E73", "#D55E00", "#000000"
DASHES = ["-", "--", "-.", ":"]
DOTS_PER_INCH, PANELS_ACROSS = 110, 3


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG with no clock or version in it, and close it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)
    write_bytes(path, buffer.getvalue())


def draw_clusters(path: Path, points: NDArray[np.float32], clusterings: dict[int, NDArray[np.int32]]) -> None:
    """Draw the paper's Figure 4: the first two principal components of the features, for each k, colored by cluster.

    Parameters
    ----------
    points : [N, 2]
    clusterings : k -> assignments, int32 [N]
    """
    rows = -(-len(clusterings) // PANELS_ACROSS)
    columns = -(-len(clusterings) // rows)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(3.9 * columns, 4.2 * rows),
        squeeze=False,
        sharex=True,
        sharey=True,
        layout="constrained",
    )
    for axis in axes.flat[len(clusterings) :]:
        axis.set_axis_off()
    for axis, (k, assignments) in zip(axes.flat, sorted(clusterings.items()), strict=False):
        for cluster in range(k):
            members = points[assignments == cluster]
            axis.scatter(*members.T, s=8, color=COLORS[cluster % len(COLORS)], label=f"{cluster}: {len(members):,}")
        axis.set_title(f"k = {k}" if k <= len(COLORS) else f"k = {k} (colors repeat)")
        axis.set_xlabel("first principal component")
        axis.tick_params(labelbottom=True)
        if k <= 10:
            axis.legend(
                title="cluster: images",
                fontsize=8,
                title_fontsize=8,
                ncols=3,
                loc="upper center",
                bbox_to_anchor=(0.5, -0.17),
            )
    for axis in axes[:, 0]:
        axis.set_ylabel("second principal component")
    save_figure(figure, path)


Lines = Mapping[str, tuple[NDArray[Any], NDArray[np.float64]]]


def draw_cmc(path: Path, panels: Mapping[str, Mapping[str, NDArray[np.float64]]], title: str) -> None:
    """Draw the paper's Figure 5: the share of queries with a right match among the first k, for several runs.

    Parameters
    ----------
    panels : way of ranking -> name of a run -> CMC at ranks 1, 2, ..., as fractions
    """
    figure, axes = plt.subplots(
        1, len(panels), figsize=(5.4 * len(panels), 4.3), squeeze=False, sharey=True, layout="constrained"
    )
    for axis, (ranking, curves) in zip(axes[0], panels.items(), strict=True):
        named = {f"{100 * curve[0]:.1f} %  {name}": curve for name, curve in curves.items()}
        _draw_lines(axis, {name: (np.arange(1, len(curve) + 1), 100 * curve) for name, curve in named.items()})
        depth = max(len(curve) for curve in curves.values())
        axis.set(xlabel="rank", title=ranking, ylim=(None, 101), xticks=[1, *range(5, depth + 1, 5)])
        axis.legend(title="rank-1", loc="lower right")
    axes[0][0].set_ylabel("queries with a right match up to this rank, %")
    figure.suptitle(title)
    save_figure(figure, path)


def draw_curves(path: Path, panels: Mapping[str, Lines], x_label: str) -> None:
    """Draw curves of several runs, one panel per quantity.

    Parameters
    ----------
    panels : name of the quantity -> name of a run -> x and y, [n] each
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(4.6 * len(panels), 3.8), squeeze=False, layout="constrained")
    for axis, (quantity, lines) in zip(axes[0], panels.items(), strict=True):
        _draw_lines(axis, lines, marker="o", ms=3)
        axis.set(xlabel=x_label, title=quantity)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.legend()
    save_figure(figure, path)


def _draw_lines(axis: Axes, lines: Lines, **style: Any) -> None:
    """Draw each line in its own color and dashes."""
    for number, (name, (x, y)) in enumerate(lines.items()):
        color, dashes = COLORS[number % len(COLORS)], DASHES[number % len(DASHES)]
        axis.plot(x, y, dashes, color=color, lw=2, label=name, **style)
    axis.grid(alpha=0.3)


@dataclass(frozen=True)
class Estimate:
    """One row of a comparison: a value with its interval, single values, and a published value.

    A value is None if the row does not have it.
    """

    name: str
    value: float | None
    interval: tuple[float, float] | None
    single: Sequence[float]
    published: float | None = None


def draw_estimates(path: Path, panels: Mapping[str, Sequence[Estimate]], note: str, zero: Sequence[str] = ()) -> None:
    """Draw rows of estimates, one panel per quantity, two panels side by side; panels in `zero` have a line at 0.

    Parameters
    ----------
    panels : name of the quantity, which labels its axis -> rows, the same in every panel
    """
    rows = next(iter(panels.values()))
    across = min(2, len(panels))
    down = -(-len(panels) // across)
    figure, axes = plt.subplots(
        down,
        across,
        figsize=(2.2 + 3.4 * across, 0.6 + (0.9 + 0.36 * len(rows)) * down),
        squeeze=False,
        sharey=True,
        layout="constrained",
    )
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, (quantity, estimates) in zip(axes.flat, panels.items(), strict=False):
        if quantity in zero:
            axis.axvline(0, color="black", lw=1, ls=":")
        for row, estimate in enumerate(estimates):
            axis.plot(estimate.single, [row] * len(estimate.single), "|", color=COLORS[0], ms=9, alpha=0.6)
            if estimate.interval is not None:
                axis.plot(estimate.interval, [row, row], color=COLORS[0], lw=2)
            if estimate.value is not None:
                axis.plot(estimate.value, row, "o", color=COLORS[0], ms=6)
            if estimate.published is not None:
                axis.plot(estimate.published, row, "D", color=COLORS[5], mfc="none", ms=7, mew=1.5)
        axis.set_xlabel(quantity)
        axis.grid(alpha=0.3, axis="x")
        axis.margins(x=0.08)
    axes[0][0].set_yticks(range(len(rows)), [row.name for row in rows])
    axes[0][0].set_ylim(len(rows) - 0.5, -0.5)
    figure.suptitle(note, fontsize=9)
    save_figure(figure, path)


@dataclass(frozen=True)
class RankedRow:
    """A query and the first images of its ranked gallery: uint8 [H, W, 3], [depth, H, W, 3], bool [depth]."""

    caption: str
    query: Pixels
    gallery: Pixels
    right: NDArray[np.bool_]


def draw_ranked_lists(path: Path, rows: Sequence[RankedRow], title: str) -> None:
    """Draw the paper's Figure 6: queries with ranked galleries; solid frames for right matches, dashed for wrong."""
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


def _framed(axis: Axes, pixels: Pixels, color: str, style: str) -> None:
    axis.imshow(pixels, aspect="auto")
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set(edgecolor=color, linewidth=3, linestyle=style)
