"""Build a person from solids: a skeleton in some pose, with clothes, seen by a camera."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from slsr.sample.accessories import bag, hair, hat
from slsr.sample.clothes import darker, head_texture, leg_texture, sleeve_texture, tails_texture, torso_texture
from slsr.sample.identity import Identity
from slsr.sample.paint import Solid, plain
from slsr.sample.shapes import View, ball, barrel, limb
from slsr.sample.skeleton import SIDES, Joints, Pose, moved, skeleton

FAR, LEGS, SEAT, SKIRT, TAILS, NEAR_ARM = -1.0, -0.6, -0.45, -0.42, -0.4, 0.2
"""Depths of parts whose order does not follow from their distance to the camera; the torso is at about 0."""

THICK = ("jacket", "hoodie", "coat")


def person_solids(person: Identity, pose: Pose, view: View) -> list[Solid]:
    """Return everything that a camera sees of a person, as solids to paint."""
    joints = skeleton(person, pose)
    return [
        *_legs(person, joints, view),
        *_below_waist(person, joints, view),
        *_torso(person, joints, view),
        *_arms(person, joints, view),
        *_head(person, joints, view, pose),
        *bag(person, joints, view),
    ]


def _legs(person: Identity, joints: Joints, view: View) -> Iterator[Solid]:
    radii = {"trousers": (0.092, 0.070, 0.058), "slim": (0.086, 0.060, 0.043)}
    hip, knee, ankle = (radius * person.girth**0.8 for radius in radii.get(person.bottom, (0.084, 0.058, 0.040)))
    for side, _ in SIDES:
        upper, lower = (leg_texture(person, part, side == "left") for part in (True, False))
        top, middle, low, toe = (joints[f"{side} {name}"] for name in ("hip", "knee", "ankle", "toe"))
        layer = LEGS + 0.1 * view.project(top)[2]
        shoe = limb(view, moved(low, 0.0, -0.035, -0.02), toe, (0.052, 0.040), plain(person.shoe_color))
        yield replace(shoe, depth=layer - 0.02)
        yield replace(limb(view, middle, low, (knee, ankle), lower), depth=layer - 0.01)
        yield replace(limb(view, top, middle, (hip, knee), upper), depth=layer)
        if person.bottom == "shorts":
            leg = limb(view, top, top + (middle - top) * 0.85, (hip * 1.05, knee * 1.35), plain(person.bottom_color))
            yield replace(leg, depth=layer + 0.01)


def _hip(person: Identity) -> float:
    return 0.165 * person.hips * person.girth


def _below_waist(person: Identity, joints: Joints, view: View) -> Iterator[Solid]:
    """Draw the seat of the trousers or a skirt, and the tails of a coat; they widen with the stride."""
    hip, deep = _hip(person), 0.128 * person.girth
    pelvis, cloth = joints["pelvis"], plain(person.bottom_color)
    knee, ankle = ((joints[f"left {name}"] + joints[f"right {name}"]) / 2 for name in ("knee", "ankle"))
    stride = abs(float(joints["left ankle"][2] - joints["right ankle"][2])) / 2
    if person.bottom in ("skirt", "long skirt"):
        short = person.bottom == "skirt"
        hem = max(0.13 + (0.35 if short else 0.7) * stride, deep * 1.1)
        outline = ((0.0, hip * 0.97, deep), (0.3, hip * 1.06, deep * 1.1), (1.0, hip * 1.22, hem))
        low = moved(knee, 0.0, 0.02, 0.0) if short else moved(ankle, 0.0, 0.10, 0.0)
        yield replace(barrel(view, moved(pelvis, 0.0, 0.02, 0.0), low, outline, cloth), depth=SKIRT)
    else:
        outline = ((0.0, hip * 0.95, deep * 0.95), (0.5, hip, deep), (1.0, hip * 0.75, deep * 0.7))
        yield replace(barrel(view, pelvis, moved(pelvis, 0.0, -0.14, 0.0), outline, cloth), depth=SEAT)
    if person.top == "coat":
        hip *= 1.12
        outline = (
            (0.0, hip, deep * 1.05),
            (0.4, hip * 1.08, deep * 1.15),
            (1.0, hip * 1.18, deep * 1.1 + 0.3 * stride),
        )
        top, low = moved(pelvis, 0.0, 0.03, 0.0), moved(knee, 0.0, 0.06, 0.0)
        yield replace(barrel(view, top, low, outline, tails_texture(person)), depth=TAILS)


def _torso(person: Identity, joints: Joints, view: View) -> Iterator[Solid]:
    girth, hip = person.girth, _hip(person)
    shoulder = 0.205 * person.shoulders * girth**0.6
    thick = 1.12 if person.top in THICK else 1.0
    waist = (0.145 * girth + 0.25 * (hip + shoulder)) / 1.5
    outline = (
        (0.0, 0.05, 0.05),
        (0.045, 0.125, 0.07),
        (0.13, shoulder * 0.98, 0.10 * girth),
        (0.38, shoulder * 0.93 * thick, 0.125 * girth * thick),
        (0.68, waist * thick, 0.118 * girth * thick),
        (0.9, hip * thick, 0.135 * girth),
        (1.0, hip * 0.98 * thick, 0.13 * girth),
    )
    chest = joints["chest"]
    top, bottom = moved(chest, 0.0, 0.045, 0.0), moved(joints["pelvis"], 0.0, -0.05, 0.0)
    yield barrel(view, top, bottom, outline, torso_texture(person))
    if person.top == "hoodie":
        hood = moved(chest, 0.0, 0.045, -0.085)
        yield ball(view, hood, (0.115, 0.075, 0.075), plain(darker(person.top_color, 0.9)), 0.02)


def _arms(person: Identity, joints: Joints, view: View) -> Iterator[Solid]:
    bulk = person.girth**0.6 * (1.15 if person.top in THICK else 1.0)
    for side, _ in SIDES:
        shoulder, elbow, hand = (joints[f"{side} {name}"] for name in ("shoulder", "elbow", "hand"))
        layer = NEAR_ARM if view.project(shoulder)[2] > -0.08 else FAR
        upper = limb(view, shoulder, elbow, (0.058 * bulk, 0.049 * bulk), sleeve_texture(person, True))
        lower = limb(view, elbow, hand, (0.049 * bulk, 0.038 * bulk), sleeve_texture(person, False))
        palm = limb(view, hand, hand + (hand - elbow) * 0.22, (0.034, 0.036), plain(person.skin))
        yield from (replace(part, depth=layer + 0.01 * rank) for rank, part in enumerate((palm, upper, lower)))


def _head(person: Identity, joints: Joints, view: View, pose: Pose) -> Iterator[Solid]:
    center, chest = joints["head"], joints["chest"]
    size = 0.5 + 0.5 * person.height / 1.75
    turned = replace(view, yaw=view.yaw + pose.look)
    neck = moved(chest, 0.0, -0.02, 0.0)
    yield limb(view, neck, center, (0.055, 0.05), plain(darker(person.skin, 0.86)), -0.06)
    head = ball(view, center, (0.088 * size, 0.128 * size, 0.102 * size), head_texture(person), 0.06)
    yield replace(head, yaw=turned.yaw)
    if person.hat == "scarf":
        yield ball(view, moved(chest, 0.0, 0.05, 0.0), (0.11, 0.08, 0.10), plain(person.hat_color), 0.03)
        return
    yield from hair(person, center, turned)
    yield from hat(person, center, size, turned)
