"""Paint smooth solids: every body part, bag and object is a solid of revolution, seen from the side and shaded.

World coordinates are in meters, x to the right and y upwards; colors are RGB in 0..1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
Color = tuple[float, float, float]
Texture = Callable[[Array, Array], Array]
"""Maps position along the solid's axis (0..1) and azimuth around it (radians, 0 = its front) to colors [..., 3]."""


@dataclass
class Canvas:
    """Pixels [height, width, 3] with `scale` pixels per meter; the upper left corner is (`left`, `top`)."""

    pixels: Array
    left: float
    top: float
    scale: float


@dataclass(frozen=True)
class Light:
    """The direction of light: `side` from -1 (left) to 1 (right), and `above`. `ambient` light has no direction."""

    side: float = -0.4
    above: float = 0.3
    ambient: float = 0.55


@dataclass(frozen=True)
class Solid:
    """A solid of revolution in the picture plane.

    `knots` (0..1 from start to end) and `radii` (meters) are its outline. `yaw` turns its texture. A solid with a
    greater `depth` is nearer to the viewer.
    """

    start: tuple[float, float]
    end: tuple[float, float]
    knots: Array
    radii: Array
    texture: Texture
    depth: float = 0.0
    yaw: float = 0.0


def plain(color: Color) -> Texture:
    """Return a texture with the same color everywhere."""
    value = np.asarray(color, dtype=np.float32)
    return lambda along, azimuth: np.broadcast_to(value, (*along.shape, 3))


def mix(base: Array | Color, other: Array | Color, weight: Array) -> Array:
    """Mix two colors: `base` if `weight` is 0, `other` if it is 1."""
    weight = np.clip(weight, 0.0, 1.0)[..., None]
    return np.asarray(base, dtype=np.float32) * (1 - weight) + np.asarray(other, dtype=np.float32) * weight


def paint(canvas: Canvas, solids: list[Solid], light: Light) -> None:
    """Paint solids onto the canvas, the farthest first."""
    for solid in sorted(solids, key=lambda solid: solid.depth):
        _paint_solid(canvas, solid, light)


def _paint_solid(canvas: Canvas, solid: Solid, light: Light) -> None:
    window = _window(canvas, solid)
    if window is None:
        return
    rows, columns = window
    x = canvas.left + (np.arange(columns.start, columns.stop, dtype=np.float32) + 0.5) / canvas.scale
    y = canvas.top - (np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] + 0.5) / canvas.scale
    length, axis_x, axis_y = _axis(solid)
    along = ((x - solid.start[0]) * axis_x + (y - solid.start[1]) * axis_y) / length
    across = (x - solid.start[0]) * -axis_y + (y - solid.start[1]) * axis_x
    radius = np.interp(along, solid.knots, solid.radii, left=0.0, right=0.0).astype(np.float32)
    coverage = np.clip((radius - np.abs(across)) * canvas.scale + 0.5, 0.0, 1.0) * (radius > 0)
    bulge = np.clip(across / np.maximum(radius, 1e-4), -1.0, 1.0)
    azimuth = np.arcsin(bulge if axis_y < 0 else -bulge) - solid.yaw
    color = solid.texture(np.clip(along, 0.0, 1.0), azimuth)
    color = np.clip(color * _shade(bulge, -axis_y, axis_x, light)[..., None], 0.0, 1.0)
    target = canvas.pixels[rows, columns]
    target += (color - target) * coverage[..., None]


def _axis(solid: Solid) -> tuple[float, float, float]:
    dx, dy = solid.end[0] - solid.start[0], solid.end[1] - solid.start[1]
    length = float(np.hypot(dx, dy))
    return (length, dx / length, dy / length) if length > 1e-6 else (1e-6, 0.0, -1.0)


def _window(canvas: Canvas, solid: Solid) -> tuple[slice, slice] | None:
    """Return the rows and columns that the solid can touch; None if it is outside."""
    height, width = canvas.pixels.shape[:2]
    margin = float(np.max(solid.radii)) + 2 / canvas.scale
    xs, ys = (solid.start[0], solid.end[0]), (solid.start[1], solid.end[1])
    first_column = max(0, int((min(xs) - margin - canvas.left) * canvas.scale))
    last_column = min(width, int((max(xs) + margin - canvas.left) * canvas.scale) + 1)
    first_row = max(0, int((canvas.top - max(ys) - margin) * canvas.scale))
    last_row = min(height, int((canvas.top - min(ys) + margin) * canvas.scale) + 1)
    if first_column >= last_column or first_row >= last_row:
        return None
    return slice(first_row, last_row), slice(first_column, last_column)


def _shade(bulge: Array, across_x: float, across_y: float, light: Light) -> Array:
    """Apply Lambert's law to the surface of a cylinder, which is brightest where it faces the light."""
    facing = np.sqrt(np.maximum(0.0, 1.0 - bulge**2))
    front = np.sqrt(max(0.0, 1.0 - light.side**2 - light.above**2))
    toward = bulge * (across_x * light.side + across_y * light.above) + facing * front
    lit: Array = light.ambient + (1.12 - light.ambient) * np.maximum(0.0, toward)
    return lit
