"""Project parts of a body: from points in the axes of the body to solids in the picture plane."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from slsr.sample.paint import Array, Solid, Texture

Outline = tuple[tuple[float, float, float], ...]
"""Cross sections of an upright part: place from top (0) to bottom (1), half width sideways, half width forwards."""


@dataclass(frozen=True)
class View:
    """How a camera sees a person.

    `yaw` is 0 from the front and pi/2 if the person walks to the right. `pitch` is how far the camera looks down. `x`
    and `y` are the position of the point between the feet in the picture plane.
    """

    yaw: float
    pitch: float = 0.12
    x: float = 0.0
    y: float = 0.0

    def project(self, point: Array) -> tuple[float, float, float]:
        """Return x and y in the picture plane, and the nearness, of a point of the body."""
        sine, cosine = np.sin(self.yaw), np.cos(self.yaw)
        x = point[0] * cosine + point[2] * sine
        z = point[2] * cosine - point[0] * sine
        return float(self.x + x), float(self.y + point[1] * np.cos(self.pitch) - z * np.sin(self.pitch)), float(z)

    def half_width(self, sideways: Array | float, forwards: Array | float) -> Array:
        """Return half the width in the picture of an ellipse around the body."""
        width: Array = np.hypot(np.asarray(sideways) * np.cos(self.yaw), np.asarray(forwards) * np.sin(self.yaw))
        return width


def limb(
    view: View, start: Array, end: Array, radii: tuple[float, float], texture: Texture, nearer: float = 0.0
) -> Solid:
    """Build a limb with round ends that tapers from one radius to the other."""
    x0, y0, z0 = view.project(start)
    x1, y1, z1 = view.project(end)
    length = max(float(np.hypot(x1 - x0, y1 - y0)), 1e-3)
    ux, uy = (x1 - x0) / length, (y1 - y0) / length
    first, last = radii
    total = length + first + last
    turn = np.linspace(0.0, np.pi / 2, 6)
    knots = np.concatenate([first * (1 - np.cos(turn)), total - last * (1 - np.cos(turn[::-1]))]) / total
    outline = np.concatenate([first * np.sin(turn), last * np.sin(turn[::-1])])
    tip, tail = (x0 - ux * first, y0 - uy * first), (x1 + ux * last, y1 + uy * last)
    return Solid(tip, tail, knots, outline, texture, (z0 + z1) / 2 + nearer, view.yaw)


def barrel(view: View, top: Array, bottom: Array, outline: Outline, texture: Texture, nearer: float = 0.0) -> Solid:
    """Build an upright part with elliptical cross sections."""
    x0, y0, z0 = view.project(top)
    x1, y1, z1 = view.project(bottom)
    knots, sideways, forwards = np.array(outline).T
    fine = np.linspace(0.0, 1.0, 33)
    radii = _smooth(fine, knots, view.half_width(sideways, forwards))
    return Solid((x0, y0), (x1, y1), fine, radii, texture, (z0 + z1) / 2 + nearer, view.yaw)


def ball(view: View, center: Array, radii: tuple[float, float, float], texture: Texture, nearer: float = 0.0) -> Solid:
    """Build an ellipsoid; `radii` are its half axes sideways, upwards and forwards."""
    x, y, z = view.project(center)
    angle = np.linspace(0.0, np.pi, 17)
    width = view.half_width(radii[0], radii[2])
    knots, outline = (1 - np.cos(angle)) / 2, width * np.sin(angle)
    return Solid((x, y + radii[1]), (x, y - radii[1]), knots, outline, texture, z + nearer, view.yaw)


def _smooth(at: Array, knots: Array, values: Array) -> Array:
    """Interpolate with flattened tangents at the knots, so that outlines have no sharp corners."""
    index = np.clip(np.searchsorted(knots, at, side="right") - 1, 0, len(knots) - 2)
    share = (at - knots[index]) / (knots[index + 1] - knots[index])
    blend = 0.5 * share + 0.5 * share * share * (3 - 2 * share)
    smooth: Array = values[index] * (1 - blend) + values[index + 1] * blend
    return smooth
