"""Paint a backdrop for each camera, and objects between the camera and the person."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from slsr.sample.paint import Array, Color, Solid, mix, plain

WIDE, HIGH, HORIZON = 24.0, 3.6, 1.35
"""Width and height of a backdrop, and the height of the horizon, in meters."""

PIXELS_PER_METER = 80
MUTED = 0.6
"""The share of one common gray in every backdrop, like the same haze over all four places."""


@dataclass(frozen=True)
class Backdrop:
    """A wide picture of a place, drawn once; pictures show small windows of it."""

    image: Image.Image

    def window(self, left: float, top: float, width: float, height: float, size: tuple[int, int]) -> Array:
        """Return the part with the upper left corner (`left`, `top`), in meters, as floats [size[1], size[0], 3]."""
        left = float(np.clip(left, 0.0, WIDE - width))
        top = float(np.clip(top, height, HIGH))
        box = (*_pixel(left, top), *_pixel(left + width, top - height))
        pixels = self.image.resize(size, Image.Resampling.BICUBIC, box=box)
        return np.asarray(pixels, dtype=np.float32) / 255.0


class _Brush:
    """Draw shapes in meters, with y upwards."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.image = Image.new("RGB", (int(WIDE * PIXELS_PER_METER), int(HIGH * PIXELS_PER_METER)))
        self._draw = ImageDraw.Draw(self.image)

    def box(self, left: float, bottom: float, right: float, top: float, color: Color, round_: float = 0.0) -> None:
        corners = (*_pixel(left, top), *_pixel(right, bottom))
        self._draw.rounded_rectangle(corners, radius=round_ * PIXELS_PER_METER, fill=_bytes(color))

    def ball(self, x: float, y: float, radius: float, color: Color, flat: float = 1.0) -> None:
        self._draw.ellipse(
            (*_pixel(x - radius, y + radius * flat), *_pixel(x + radius, y - radius * flat)), fill=_bytes(color)
        )

    def shape(self, corners: Sequence[tuple[float, float]], color: Color) -> None:
        self._draw.polygon([_pixel(x, y) for x, y in corners], fill=_bytes(color))

    def ramp(self, bottom: float, top: float, low: Color, high: Color) -> None:
        """Fill the full width between two heights, from one color to another."""
        for step in np.linspace(0.0, 1.0, 48):
            height = bottom + (top - bottom) * step
            color = tuple(np.add(low, np.subtract(high, low) * step))
            self.box(0.0, height, WIDE, top, (float(color[0]), float(color[1]), float(color[2])))

    def between(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def tint(self, color: Color, spread: float = 0.06) -> Color:
        """Draw a color that is a little lighter or darker and of a slightly different hue."""
        light = self.between(-spread, spread)
        red, green, blue = (part + light + self.between(-spread, spread) / 3 for part in color)
        return red, green, blue


def _pixel(x: float, y: float) -> tuple[float, float]:
    return x * PIXELS_PER_METER, (HIGH - y) * PIXELS_PER_METER


def _bytes(color: Color) -> tuple[int, int, int]:
    red, green, blue = (int(255 * min(1.0, max(0.0, part))) for part in color)
    return red, green, blue


def _tiles(brush: _Brush, color: Color, aslant: float, across: float) -> None:
    """Draw the joints of paving: lines across, closer towards the horizon, and lines away from the viewer."""
    for number in range(1, 9):
        height = HORIZON * (1 - 1 / (1 + 0.28 * number))
        brush.box(0.0, HORIZON - height - 0.006, WIDE, HORIZON - height + 0.008, color)
    for x in np.arange(-6.0, WIDE + 6.0, across):
        brush.shape([(x, HORIZON), (x + 0.02, HORIZON), (x + aslant + 0.03, 0.0), (x + aslant, 0.0)], color)


def _street(brush: _Brush) -> None:
    brush.ramp(0.0, HORIZON, (0.70, 0.67, 0.62), (0.58, 0.56, 0.53))
    _tiles(brush, (0.55, 0.53, 0.50), 0.8, 0.7)
    x = -1.0
    while x < WIDE:
        width = brush.between(2.2, 4.2)
        wall = brush.tint(
            ((0.60, 0.38, 0.30), (0.78, 0.70, 0.56), (0.52, 0.50, 0.50), (0.66, 0.52, 0.40))[brush.rng.integers(4)]
        )
        _house(brush, x, width, wall)
        x += width
    brush.box(0.0, HORIZON - 0.05, WIDE, HORIZON + 0.06, (0.42, 0.40, 0.38))
    for _ in range(7):
        x = brush.between(0.0, WIDE)
        brush.box(x - 0.05, HORIZON - 0.15, x + 0.05, HIGH, brush.tint((0.25, 0.27, 0.28)))


def _house(brush: _Brush, x: float, width: float, wall: Color) -> None:
    brush.box(x, HORIZON, x + width, HIGH, wall)
    for height in np.arange(HORIZON + 0.1, HIGH, 0.14):
        brush.box(x, height, x + width, height + 0.015, (wall[0] * 0.9, wall[1] * 0.9, wall[2] * 0.9))
    glass = brush.tint((0.26, 0.33, 0.40), 0.1)
    frame = brush.tint((0.80, 0.78, 0.74), 0.15)
    left, right = x + width * 0.15, x + width * brush.between(0.55, 0.85)
    low = HORIZON + brush.between(0.3, 0.6)
    brush.box(left - 0.07, low - 0.07, right + 0.07, HORIZON + 1.8, frame)
    brush.box(left, low, right, HORIZON + 1.73, glass)
    brush.shape(
        [(left, low), (left + 0.4, low), (left + 0.9, HORIZON + 1.73), (left + 0.5, HORIZON + 1.73)],
        brush.tint((0.42, 0.50, 0.56)),
    )
    brush.box(x + width * 0.1, HORIZON + 1.8, x + width * 0.92, HORIZON + 2.1, brush.tint((0.45, 0.25, 0.22), 0.25))


def _park(brush: _Brush) -> None:
    brush.ramp(HORIZON, HIGH, (0.30, 0.42, 0.26), (0.66, 0.74, 0.70))
    for _ in range(420):
        y = HORIZON + abs(float(brush.rng.normal(0.4, 0.75)))
        brush.ball(brush.between(0.0, WIDE), y, brush.between(0.12, 0.45), brush.tint((0.20, 0.33, 0.17), 0.09), 0.8)
    for _ in range(13):
        x, half = brush.between(0.0, WIDE), brush.between(0.07, 0.2)
        brush.box(x - half, HORIZON - 0.15, x + half, HIGH, brush.tint((0.30, 0.23, 0.17)))
        brush.box(x - half, HORIZON - 0.15, x - half * 0.3, HIGH, brush.tint((0.22, 0.17, 0.13), 0.02))
    brush.ramp(0.0, HORIZON, (0.40, 0.50, 0.24), (0.30, 0.42, 0.22))
    edge = [(x, 0.78 + 0.12 * float(np.sin(x * 0.6))) for x in np.arange(0.0, WIDE + 0.5, 0.5)]
    brush.shape([*edge, (WIDE, 0.05), (0.0, 0.05)], (0.62, 0.56, 0.45))
    for _ in range(500):
        brush.ball(
            brush.between(0.0, WIDE),
            brush.between(0.1, 0.7),
            brush.between(0.01, 0.05),
            brush.tint((0.60, 0.54, 0.43), 0.07),
            0.4,
        )
    for _ in range(4):
        x = brush.between(0.0, WIDE)
        for height in (0.0, 0.14, 0.28):
            brush.box(x, 1.22 + height, x + 1.5, 1.31 + height, brush.tint((0.45, 0.30, 0.18)))


def _hall(brush: _Brush) -> None:
    brush.ramp(HORIZON, HIGH, (0.76, 0.77, 0.72), (0.86, 0.87, 0.83))
    brush.ramp(0.0, HORIZON, (0.60, 0.61, 0.58), (0.70, 0.70, 0.66))
    for row in range(8):
        top, bottom = (HORIZON * (0.76**number) for number in (row, row + 1))
        for column in np.arange(row % 2, 46, 2):
            middle = WIDE / 2
            spots = [
                (middle + (column * 1.0 + shift - 23) * (1.45 - height / HORIZON * 0.75), height)
                for shift, height in ((0, top), (1, top), (1, bottom), (0, bottom))
            ]
            brush.shape(spots, (0.52, 0.55, 0.54))
    brush.box(0.0, HORIZON, WIDE, HORIZON + 0.12, (0.40, 0.42, 0.42))
    brush.box(0.0, HORIZON + 0.85, WIDE, HORIZON + 0.97, (0.30, 0.46, 0.52))
    for x in np.arange(0.6, WIDE, 2.7):
        kind = brush.rng.integers(3)
        if kind == 0:
            brush.box(x, HORIZON, x + 1.1, HIGH, brush.tint((0.55, 0.42, 0.30)))
            brush.box(x + 0.12, HORIZON + 1.1, x + 0.98, HORIZON + 1.9, brush.tint((0.62, 0.70, 0.70)))
        elif kind == 1:
            brush.box(x, HORIZON + 1.05, x + 1.0, HORIZON + 2.0, brush.tint((0.55, 0.45, 0.40), 0.3))
            brush.ball(x + 0.5, HORIZON + 1.55, 0.3, brush.tint((0.60, 0.55, 0.35), 0.3))
        else:
            brush.box(x, 0.95, x + 0.55, HIGH, (0.66, 0.67, 0.64))
            brush.box(x, 0.95, x + 0.16, HIGH, (0.58, 0.59, 0.57))
    for x in np.arange(0.0, WIDE, 3.4):
        brush.box(x, HIGH - 0.22, x + 1.9, HIGH - 0.1, (0.98, 0.99, 0.97))


def _car_park(brush: _Brush) -> None:
    brush.ramp(HORIZON, HIGH, (0.46, 0.45, 0.46), (0.34, 0.34, 0.38))
    for x in np.arange(0.0, WIDE, 3.1):
        brush.box(x, HORIZON, x + 0.45, HIGH, brush.tint((0.56, 0.54, 0.52)))
        if brush.rng.random() < 0.6:
            brush.box(x + 0.8, HORIZON + 1.3, x + 2.6, HORIZON + 1.9, brush.tint((0.75, 0.62, 0.30), 0.25))
    brush.ramp(0.0, HORIZON, (0.36, 0.36, 0.37), (0.29, 0.29, 0.31))
    for x in np.arange(-1.0, WIDE + 1, 2.6):
        brush.shape([(x, 1.1), (x + 0.1, 1.1), (x + 0.75, 0.0), (x + 0.6, 0.0)], (0.82, 0.80, 0.72))
    for x in np.arange(0.3, WIDE - 3, 5.2):
        _car(brush, x + brush.between(0.0, 1.4), 0.92, brush.tint((0.45, 0.42, 0.45), 0.33))


def _car(brush: _Brush, x: float, y: float, color: Color) -> None:
    brush.ball(x + 1.7, y, 1.9, (0.17, 0.17, 0.18), 0.06)
    brush.shape([(x + 0.6, y + 0.85), (x + 1.1, y + 1.35), (x + 2.5, y + 1.35), (x + 3.0, y + 0.85)], color)
    brush.shape(
        [(x + 0.8, y + 0.85), (x + 1.18, y + 1.27), (x + 1.75, y + 1.27), (x + 1.75, y + 0.85)], (0.16, 0.20, 0.25)
    )
    brush.shape(
        [(x + 1.85, y + 0.85), (x + 1.85, y + 1.27), (x + 2.42, y + 1.27), (x + 2.8, y + 0.85)], (0.16, 0.20, 0.25)
    )
    brush.box(x, y + 0.2, x + 3.5, y + 0.88, color, 0.2)
    brush.box(x, y + 0.2, x + 3.5, y + 0.4, (color[0] * 0.7, color[1] * 0.7, color[2] * 0.7), 0.1)
    for wheel in (0.75, 2.75):
        brush.ball(x + wheel, y + 0.25, 0.3, (0.08, 0.08, 0.09))
        brush.ball(x + wheel, y + 0.25, 0.15, (0.45, 0.45, 0.47))


PLACES: dict[str, Callable[[_Brush], None]] = {"street": _street, "park": _park, "hall": _hall, "car park": _car_park}


def backdrop(place: str, rng: np.random.Generator) -> Backdrop:
    """Draw one of the four places."""
    brush = _Brush(rng)
    PLACES[place](brush)
    common = Image.new("RGB", brush.image.size, _bytes((0.50, 0.49, 0.46)))
    return Backdrop(Image.blend(brush.image, common, MUTED).filter(ImageFilter.GaussianBlur(1.6)))


def obstacle(x: float, rng: np.random.Generator) -> list[Solid]:
    """Draw something between the camera and the person, `x` meters to the side."""
    kind = int(rng.integers(4))
    if kind == 0:
        return [_upright(x, -0.5, 3.0, 0.045 + 0.03 * rng.random(), (0.35, 0.36, 0.38), 2.0)]
    if kind == 1:
        color = mix((0.20, 0.34, 0.26), (0.35, 0.35, 0.38), np.asarray(rng.random()))
        return [
            _upright(x, -0.3, 0.75, 0.24, _color(color), 2.0),
            _upright(x, 0.72, 0.80, 0.26, (0.16, 0.17, 0.18), 2.1),
        ]
    if kind == 2:
        return [_leaf(x, rng) for _ in range(45)]
    posts = [_upright(x + shift, -0.4, 0.85, 0.028, (0.62, 0.62, 0.60), 2.0) for shift in (-0.5, 0.0, 0.5)]
    return [*posts, _level(x, 0.85, 1.1, 0.04), _level(x, 0.45, 1.1, 0.03)]


def _leaf(x: float, rng: np.random.Generator) -> Solid:
    radius = 0.06 + 0.08 * rng.random()
    side, up = rng.normal(x, 0.17), abs(rng.normal(0.0, 0.33))
    shade = 0.75 + 0.5 * rng.random()
    angle = np.linspace(0.0, np.pi, 9)
    texture = plain((0.27 * shade, 0.36 * shade, 0.24 * shade))
    return Solid(
        (side, up + radius),
        (side, up - radius),
        (1 - np.cos(angle)) / 2,
        radius * np.sin(angle),
        texture,
        2.0 + rng.random() / 10,
    )


def _upright(x: float, bottom: float, top: float, radius: float, color: Color, depth: float) -> Solid:
    return Solid((x, top), (x, bottom), np.array([0.0, 1.0]), np.array([radius, radius]), plain(color), depth)


def _level(x: float, y: float, length: float, radius: float) -> Solid:
    return Solid(
        (x - length / 2, y),
        (x + length / 2, y),
        np.array([0.0, 1.0]),
        np.array([radius, radius]),
        plain((0.62, 0.62, 0.60)),
        2.1,
    )


def _color(value: Array) -> Color:
    red, green, blue = (float(part) for part in value)
    return red, green, blue
