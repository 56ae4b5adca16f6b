"""Draw what people wear on the head, and what they carry."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from slsr.sample.clothes import bag_texture, darker
from slsr.sample.identity import Identity
from slsr.sample.paint import Array, Solid, plain
from slsr.sample.shapes import Outline, View, ball, barrel, limb
from slsr.sample.skeleton import Joints, moved

LONG_HAIR: Outline = ((0.0, 0.05, 0.05), (0.25, 0.118, 0.085), (0.7, 0.125, 0.062), (1.0, 0.075, 0.03))
BOB: Outline = ((0.0, 0.03, 0.03), (0.3, 0.112, 0.105), (0.8, 0.125, 0.085), (1.0, 0.095, 0.06))
BACKPACK: Outline = ((0.0, 0.09, 0.05), (0.08, 0.15, 0.08), (0.5, 0.165, 0.10), (0.92, 0.165, 0.11), (1.0, 0.13, 0.08))
SHOULDER_BAG: Outline = (
    (0.0, 0.05, 0.13),
    (0.08, 0.06, 0.15),
    (0.5, 0.065, 0.16),
    (0.92, 0.065, 0.16),
    (1.0, 0.05, 0.14),
)
HANDBAG: Outline = (
    (0.0, 0.035, 0.10),
    (0.08, 0.045, 0.13),
    (0.5, 0.055, 0.14),
    (0.92, 0.055, 0.145),
    (1.0, 0.045, 0.13),
)
BEHIND, BESIDE, ON_BACK, IN_HAND = -1.1, 0.1, 0.3, 0.25


def hair(person: Identity, center: Array, view: View) -> Iterator[Solid]:
    """Draw hair that sticks out from the head; the texture of the head has the rest."""
    texture = plain(person.hair_color)
    back, bare = moved(center, 0.0, 0.0, -0.075), person.hat == "none"
    match person.hair:
        case "long":
            top, low = moved(back, 0.0, 0.10, 0.045), moved(back, 0.0, -0.31, -0.025)
            yield barrel(view, top, low, LONG_HAIR, texture, 0.02)
        case "bob":
            top, low = moved(back, 0.0, 0.12, 0.045), moved(back, 0.0, -0.13, 0.03)
            yield barrel(view, top, low, BOB, texture, 0.04)
        case "ponytail":
            top, low = moved(back, 0.0, 0.03, -0.035), moved(back, 0.0, -0.22, -0.07)
            yield limb(view, top, low, (0.042, 0.028), texture, 0.04)
        case "bun" if bare:
            yield ball(view, moved(back, 0.0, 0.075, -0.02), (0.06, 0.058, 0.06), texture, 0.02)
        case "curly" if bare:
            yield ball(view, moved(center, 0.0, 0.045, -0.045), (0.142, 0.135, 0.135), texture, 0.02)


def hat(person: Identity, center: Array, size: float, view: View) -> Iterator[Solid]:
    """Draw the crown, brim or bobble of a hat; the texture of the head has the rest."""
    cloth, shaded = plain(person.hat_color), plain(darker(person.hat_color, 0.82))
    match person.hat:
        case "cap":
            yield ball(view, moved(center, 0.0, 0.075 * size, 0.0), (0.094, 0.066, 0.106), cloth, 0.07)
            yield ball(view, moved(center, 0.0, 0.052 * size, 0.115), (0.075, 0.016, 0.085), shaded, 0.04)
        case "beanie":
            yield ball(view, moved(center, 0.0, 0.13 * size, -0.01), (0.045, 0.03, 0.045), cloth, 0.05)
        case "brimmed":
            yield ball(view, moved(center, 0.0, 0.095 * size, 0.0), (0.092, 0.075, 0.10), cloth, 0.075)
            yield ball(view, moved(center, 0.0, 0.052 * size, 0.0), (0.185, 0.026, 0.195), shaded, 0.08)


def bag(person: Identity, joints: Joints, view: View) -> Iterator[Solid]:
    """Draw what a person carries on the back, at the side or in the hand."""
    match person.bag:
        case "backpack":
            yield _backpack(person, joints, view)
        case "shoulder bag":
            yield _shoulder_bag(person, joints, view)
        case "handbag":
            yield from _in_hand(person, joints, view, 0.14, 0.20)
        case "carrier":
            yield from _in_hand(person, joints, view, 0.10, 0.33)


def _backpack(person: Identity, joints: Joints, view: View) -> Solid:
    top = moved(joints["chest"], 0.0, -0.01, -0.17 * person.girth**0.7)
    pack = barrel(view, top, moved(top, 0.0, -0.43, -0.01), BACKPACK, bag_texture(person))
    away = -np.cos(view.yaw)
    return replace(pack, depth=ON_BACK if away > 0.35 else BESIDE if away > -0.3 else BEHIND)


def _shoulder_bag(person: Identity, joints: Joints, view: View) -> Solid:
    sign = 1.0 if person.left_handed else -1.0
    top = moved(joints["pelvis"], sign * (0.17 * person.girth + 0.05), 0.06, -0.02)
    pouch = barrel(view, top, moved(top, 0.0, -0.24, 0.0), SHOULDER_BAG, bag_texture(person))
    return replace(pouch, depth=BESIDE if view.project(top)[2] > -0.08 else BEHIND)


def _in_hand(person: Identity, joints: Joints, view: View, drop: float, height: float) -> Iterator[Solid]:
    side, sign = ("left", 1.0) if person.left_handed else ("right", -1.0)
    hand = joints[f"{side} hand"]
    top = moved(hand, sign * 0.03, -drop, 0.0)
    layer = IN_HAND if view.project(joints[f"{side} shoulder"])[2] > -0.08 else BEHIND
    handle = limb(view, hand, top, (0.014, 0.014), plain(darker(person.bag_color, 0.7)))
    yield replace(handle, depth=layer - 0.01)
    body = barrel(view, top, moved(top, 0.0, -height, 0.0), HANDBAG, bag_texture(person))
    yield replace(body, depth=layer)
