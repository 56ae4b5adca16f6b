"""Textures: the patterns of clothes, hair and face, as functions of place on the body."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from slsr.sample.identity import Identity
from slsr.sample.paint import Array, Color, Texture, mix, plain

Weight = Callable[[Array, Array], Array]


def _wave(phase: Array, sharpness: float = 3.0) -> Array:
    """Return a soft square wave between 0 and 1 with period 1."""
    wave: Array = np.clip(0.5 + sharpness * np.sin(2 * np.pi * phase) / 2, 0.0, 1.0)
    return wave


def _step(value: Array, width: float = 0.04) -> Array:
    """Return 0 below -`width` / 2, 1 above `width` / 2, and a ramp between."""
    step: Array = np.clip(value / width + 0.5, 0.0, 1.0)
    return step


def _turned(azimuth: Array) -> Array:
    """Bring an azimuth into -pi..pi."""
    return (azimuth + np.pi) % (2 * np.pi) - np.pi


def _nowhere(along: Array, azimuth: Array) -> Array:
    return np.zeros(np.broadcast_shapes(along.shape, azimuth.shape), dtype=np.float32)


def _print(along: Array, azimuth: Array) -> Array:
    front = (_turned(azimuth) / 0.62) ** 2 + ((along - 0.36) / 0.17) ** 2
    back = (_turned(azimuth - np.pi) / 0.75) ** 2 + ((along - 0.34) / 0.12) ** 2
    return _step(1.0 - np.minimum(front, back), 0.2)


def _dots(along: Array, azimuth: Array) -> Array:
    return _step(np.sin(azimuth * 7) * np.sin(along * 7 * np.pi * 1.5) - 0.35, 0.3)


PATTERN: dict[str, Weight] = {
    "plain": _nowhere,
    "sleeves": _nowhere,
    "stripes": lambda along, azimuth: _wave(along * 4.5) + 0 * azimuth,
    "pinstripes": lambda along, azimuth: _wave(azimuth * 1.25, 2.0) + 0 * along,
    "checks": lambda along, azimuth: 0.5 * _wave(along * 4.5) + 0.5 * _wave(azimuth * 1.1),
    "block": lambda along, azimuth: _step(along - 0.52) + 0 * azimuth,
    "band": lambda along, azimuth: _step(0.11 - np.abs(along - 0.36)) + 0 * azimuth,
    "yoke": lambda along, azimuth: _step(0.27 - along) + 0 * azimuth,
    "dots": _dots,
    "panels": lambda along, azimuth: _step(np.abs(np.sin(azimuth)) - 0.72, 0.15) + 0 * along,
    "print": _print,
}


def torso_texture(person: Identity) -> Texture:
    """Return the texture of the upper garment: its pattern, its front, and the straps over it."""
    pattern = PATTERN[person.pattern]

    def texture(along: Array, azimuth: Array) -> Array:
        color = mix(person.top_color, person.accent, pattern(along, azimuth))
        facing = _turned(azimuth)
        return _strapped(person, _closed(person, color, along, facing), along, facing)

    return texture


def _closed(person: Identity, color: Array, along: Array, facing: Array) -> Array:
    """Add the front: the shirt under an open jacket, a neckline, or a row of buttons."""
    if person.top in ("jacket", "coat"):
        under = (0.86, 0.85, 0.82) if sum(person.top_color) < 1.5 else (0.16, 0.16, 0.18)
        return mix(color, under, _step(0.32 * (1.15 - along) - np.abs(facing), 0.06))
    if person.top == "hoodie":
        return color
    color = mix(color, person.skin, _step(0.5 - np.abs(facing) - along * 7, 0.1))
    if person.top != "shirt":
        return color
    return mix(color, (0.95, 0.95, 0.93), 0.5 * _step(0.045 - np.abs(facing), 0.03))


def _strapped(person: Identity, color: Array, along: Array, facing: Array) -> Array:
    """Add two straps of a backpack over the chest, or one strap of a shoulder bag across it."""
    if person.bag == "backpack":
        beside = np.abs(np.abs(np.sin(facing)) - 0.55)
        on_chest = (np.cos(facing) > 0) * _step(0.6 - along)
        return mix(color, person.bag_color, _step(0.13 - beside, 0.05) * on_chest)
    if person.bag == "shoulder bag":
        slant = np.sin(facing) * (1 if person.left_handed else -1)
        return mix(color, person.bag_color, _step(0.11 - np.abs(slant - (along - 0.42) * 1.9), 0.05))
    return color


def sleeve_texture(person: Identity, upper: bool) -> Texture:
    """Return the texture of the upper or lower half of an arm: first cloth, then skin."""
    cloth = person.accent if person.pattern == "sleeves" else person.top_color
    reach = {"vest": 0.0, "tee": 0.75}.get(person.top, 1.93)
    bare_from = reach if upper else max(0.0, reach - 1.0)
    striped = person.pattern in ("stripes", "checks")
    yoke = person.pattern == "yoke" and upper

    def texture(along: Array, azimuth: Array) -> Array:
        color = mix(cloth, person.accent, (_wave(along * 2.2) if striped else _nowhere(along, azimuth)))
        if yoke:
            color = mix(color, person.accent, _step(0.35 - along))
        return mix(color, person.skin, _step(along - bare_from))

    return texture


def tails_texture(person: Identity) -> Texture:
    """Return the texture of a coat below the waist: open in front, with a hem for some patterns."""
    hemmed = person.pattern in ("stripes", "block", "band")

    def texture(along: Array, azimuth: Array) -> Array:
        opening = _step(0.06 + 0.12 * along - np.abs(_turned(azimuth)), 0.08)
        color = mix(person.top_color, person.bottom_color, opening)
        return mix(color, person.accent, hemmed * _step(0.04 - np.abs(along - 0.92), 0.08))

    return texture


def bag_texture(person: Identity) -> Texture:
    """Return the texture of a bag, with a darker seam unless it is a carrier."""
    seam = darker(person.bag_color, 0.7) if person.bag != "carrier" else person.bag_color
    return lambda along, azimuth: mix(person.bag_color, seam, _step(0.055 - np.abs(along - 0.42), 0.03))


def leg_texture(person: Identity, upper: bool, left: bool) -> Texture:
    """Return the texture of a thigh or shin: first cloth, then skin."""
    reach = {"trousers": 2.0, "slim": 1.93, "shorts": 0.85, "skirt": 0.0, "long skirt": 0.0}[person.bottom]
    bare_from = reach if upper else reach - 1.0
    outside = np.pi / 2 if left else -np.pi / 2

    def texture(along: Array, azimuth: Array) -> Array:
        color = mix(person.bottom_color, person.accent, _nowhere(along, azimuth))
        if person.side_stripe:
            color = mix(color, person.accent, _step(np.cos(azimuth - outside) - 0.72, 0.1))
        return (
            mix(color, person.skin, _step(along - bare_from)) if bare_from > 0 else plain(person.skin)(along, azimuth)
        )

    return texture


def head_texture(person: Identity) -> Texture:
    """Return the texture of the head: face, hair, beard and hat; `along` runs from crown to chin."""

    def texture(along: Array, azimuth: Array) -> Array:
        facing = _turned(azimuth)
        color = mix(person.skin, (0.12, 0.09, 0.09), 0.85 * _face(along, facing))
        if person.beard:
            color = mix(color, person.hair_color, 0.85 * _step(along - 0.72) * _step(1.5 - np.abs(facing), 0.2))
        line = 0.24 + 0.5 * np.clip((np.abs(facing) - 0.75) / 0.9, 0.0, 1.0) ** 1.3
        if person.hair != "bald":
            color = mix(color, person.hair_color, _step(line - along, 0.06))
        return _covered(person, color, along, facing)

    return texture


def _face(along: Array, facing: Array) -> Array:
    eyes = ((np.abs(facing) - 0.42) / 0.16) ** 2 + ((along - 0.47) / 0.045) ** 2
    mouth = (facing / 0.32) ** 2 + ((along - 0.77) / 0.022) ** 2
    dark: Array = np.maximum(_step(1 - eyes, 0.6), 0.5 * _step(1 - mouth, 0.6))
    return dark


def _covered(person: Identity, color: Array, along: Array, facing: Array) -> Array:
    if person.hat == "beanie":
        color = mix(color, person.hat_color, _step(0.40 - along))
        return mix(color, darker(person.hat_color, 0.75), _step(0.05 - np.abs(along - 0.37)))
    if person.hat in ("cap", "brimmed"):
        return mix(color, person.hat_color, _step(0.33 - along))
    if person.hat == "scarf":
        face = (facing / 0.85) ** 2 + ((along - 0.58) / 0.34) ** 2
        return mix(color, person.hat_color, _step(face - 1, 0.1))
    return color


def darker(color: Color, factor: float) -> Color:
    """Multiply a color by a factor."""
    red, green, blue = color
    return red * factor, green * factor, blue * factor
