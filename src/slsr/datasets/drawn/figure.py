"""A person as solids: a skeleton in some pose, clothed, turned towards a camera and projected."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from slsr.datasets.drawn.clothes import (
    darker,
    head_texture,
    leg_texture,
    sleeve_texture,
    torso_texture,
)
from slsr.datasets.drawn.identity import Identity
from slsr.datasets.drawn.paint import Array, Colour, Solid, Texture, mix, plain

Point = Array
"""x to the person's left, y up, z forwards; metres from the ground between the feet."""

FAR, LEGS, SEAT, SKIRT, TAILS = -1.0, -0.6, -0.45, -0.42, -0.4
"""What lies behind what below the waist; from the torso (0) up, true nearness decides."""


@dataclass(frozen=True)
class Pose:
    """A moment of a walk: `phase` in radians, `stride` and `swing` the amplitudes of legs and arms in radians."""

    phase: float
    stride: float = 0.45
    swing: float = 0.4
    lean: float = 0.03
    look: float = 0.0


@dataclass(frozen=True)
class View:
    """How the camera sees the person: `yaw` 0 from the front, pi/2 facing right; `pitch` looking down; `x` aside."""

    yaw: float
    pitch: float = 0.12
    x: float = 0.0
    y: float = 0.0

    def project(self, point: Array) -> tuple[float, float, float]:
        """Picture plane x, y and nearness of a point of the body."""
        sine, cosine = np.sin(self.yaw), np.cos(self.yaw)
        x = point[0] * cosine + point[2] * sine
        z = point[2] * cosine - point[0] * sine
        return float(self.x + x), float(self.y + point[1] * np.cos(self.pitch) - z * np.sin(self.pitch)), float(z)

    def half_width(self, sideways: Array | float, forwards: Array | float) -> Array:
        """Half the width in the picture of an ellipse around the body."""
        width: Array = np.hypot(np.asarray(sideways) * np.cos(self.yaw), np.asarray(forwards) * np.sin(self.yaw))
        return width


def person_solids(person: Identity, pose: Pose, view: View) -> list[Solid]:
    """Everything that a camera sees of a person, as solids to paint."""
    joints = _skeleton(person, pose)
    solids = _legs(person, joints, view) + _torso(person, joints, view) + _arms(person, joints, view)
    solids += _head(person, joints, view, pose) + _bag(person, joints, view)
    return solids


def _skeleton(person: Identity, pose: Pose) -> dict[str, Array]:
    """Joints in the body's own axes, the lower foot on the ground."""
    height, leg = person.height, person.height * person.legs
    hip_x, shoulder_x = 0.085 * person.hips * person.girth, 0.168 * person.shoulders * person.girth**0.6
    joints = {"pelvis": np.array([0.0, leg, 0.0])}
    trunk = height * 0.82 - leg
    lean = pose.lean + person.stoop
    joints["chest"] = joints["pelvis"] + trunk * np.array([0.0, np.cos(lean), np.sin(lean)])
    joints["head"] = joints["chest"] + np.array([0.0, height * 0.105, 0.02 + person.stoop * 0.5])
    for side, sign in (("left", 1.0), ("right", -1.0)):
        phase = pose.phase if sign > 0 else pose.phase + np.pi
        joints |= _leg_joints(side, np.array([sign * hip_x, leg - 0.02, 0.0]), leg, phase, pose.stride)
        shoulder = joints["chest"] + np.array([sign * shoulder_x, -0.055, 0.0])
        joints |= _arm_joints(side, shoulder, height, phase + np.pi, pose.swing, sign * person.girth)
    ground = min(joints["left ankle"][1], joints["right ankle"][1]) - 0.07
    return {name: point - np.array([0.0, ground, 0.0]) for name, point in joints.items()}


def _leg_joints(side: str, hip: Array, leg: float, phase: float, stride: float) -> dict[str, Array]:
    thigh = stride * np.sin(phase)
    shin = thigh - 0.08 - 1.3 * stride * max(0.0, np.cos(phase))
    knee = hip + 0.48 * leg * np.array([0.0, -np.cos(thigh), np.sin(thigh)])
    ankle = knee + 0.45 * leg * np.array([0.0, -np.cos(shin), np.sin(shin)])
    tilt = 0.5 * min(0.0, shin + 0.1)
    toe = ankle + np.array([0.0, -0.045 + 0.15 * np.sin(tilt), 0.17])
    return {f"{side} hip": hip, f"{side} knee": knee, f"{side} ankle": ankle, f"{side} toe": toe}


def _arm_joints(side: str, shoulder: Array, height: float, phase: float, swing: float, out: float) -> dict[str, Array]:
    angle = swing * np.sin(phase)
    bend = angle + 0.18 + 0.7 * swing * max(0.0, np.sin(phase))
    elbow = shoulder + 0.165 * height * np.array([0.17 * out, -np.cos(angle), np.sin(angle)])
    hand = elbow + 0.150 * height * np.array([0.02 * out, -np.cos(bend), np.sin(bend)])
    return {f"{side} shoulder": shoulder, f"{side} elbow": elbow, f"{side} hand": hand}


def _limb(
    view: View,
    start: Array,
    end: Array,
    radii: tuple[float, float],
    texture: Texture,
    nearer: float = 0.0,
    depth: float | None = None,
) -> Solid:
    """A round-ended limb that tapers from one radius to the other."""
    x0, y0, z0 = view.project(start)
    x1, y1, z1 = view.project(end)
    length = max(float(np.hypot(x1 - x0, y1 - y0)), 1e-3)
    ux, uy = (x1 - x0) / length, (y1 - y0) / length
    first, last = radii
    total = length + first + last
    turn = np.linspace(0.0, np.pi / 2, 6)
    knots = np.concatenate([first * (1 - np.cos(turn)), total - last * (1 - np.cos(turn[::-1]))]) / total
    outline = np.concatenate([first * np.sin(turn), last * np.sin(turn[::-1])])
    start2, end2 = (x0 - ux * first, y0 - uy * first), (x1 + ux * last, y1 + uy * last)
    return Solid(start2, end2, knots, outline, texture, (z0 + z1) / 2 + nearer if depth is None else depth, view.yaw)


def _barrel(
    view: View,
    top: Array,
    bottom: Array,
    knots: list[float],
    sideways: list[float],
    forwards: list[float],
    texture: Texture,
    nearer: float = 0.0,
    depth: float | None = None,
) -> Solid:
    """An upright solid with an elliptical cross section, given half widths at its knots."""
    x0, y0, z0 = view.project(top)
    x1, y1, z1 = view.project(bottom)
    radii = view.half_width(np.array(sideways), np.array(forwards))
    fine = np.linspace(0.0, 1.0, 33)
    return Solid(
        (x0, y0),
        (x1, y1),
        fine,
        _smooth(fine, np.array(knots), radii),
        texture,
        (z0 + z1) / 2 + nearer if depth is None else depth,
        view.yaw,
    )


def _smooth(at: Array, knots: Array, values: Array) -> Array:
    """Interpolate with level tangents at the knots, so that outlines have no corners."""
    index = np.clip(np.searchsorted(knots, at, side="right") - 1, 0, len(knots) - 2)
    share = (at - knots[index]) / (knots[index + 1] - knots[index])
    blend = 0.5 * share + 0.5 * share * share * (3 - 2 * share)
    return values[index] * (1 - blend) + values[index + 1] * blend


def _ball(
    view: View,
    centre: Array,
    radii: tuple[float, float, float],
    texture: Texture,
    nearer: float = 0.0,
    turn: float = 0.0,
) -> Solid:
    """An ellipsoid with half axes sideways, upwards, forwards."""
    x, y, z = view.project(centre)
    angle = np.linspace(0.0, np.pi, 17)
    width = float(view.half_width(radii[0], radii[2]))
    knots, outline = (1 - np.cos(angle)) / 2, width * np.sin(angle)
    return Solid((x, y + radii[1]), (x, y - radii[1]), knots, outline, texture, z + nearer, view.yaw + turn)


def _legs(person: Identity, joints: dict[str, Array], view: View) -> list[Solid]:
    girth = person.girth**0.8
    wide = {"trousers": (0.092, 0.070, 0.058), "slim": (0.086, 0.060, 0.043)}.get(person.bottom, (0.084, 0.058, 0.040))
    hip, knee, ankle = (radius * girth for radius in wide)
    solids = []
    for side in ("left", "right"):
        upper, lower = (leg_texture(person, part, side == "left") for part in (True, False))
        points = [joints[f"{side} {name}"] for name in ("hip", "knee", "ankle", "toe")]
        layer = LEGS + 0.1 * view.project(points[0])[2]
        heel = points[2] + np.array([0.0, -0.035, -0.02])
        solids.append(_limb(view, heel, points[3], (0.052, 0.040), plain(person.shoe_colour), depth=layer - 0.02))
        solids.append(_limb(view, points[1], points[2], (knee, ankle), lower, depth=layer - 0.01))
        solids.append(_limb(view, points[0], points[1], (hip, knee), upper, depth=layer))
        if person.bottom == "shorts":
            hem = points[0] + (points[1] - points[0]) * 0.85
            solids.append(
                _limb(view, points[0], hem, (hip * 1.05, knee * 1.35), plain(person.bottom_colour), depth=layer + 0.01)
            )
    return solids


def _torso(person: Identity, joints: dict[str, Array], view: View) -> list[Solid]:
    girth, shoulder, hip = (
        person.girth,
        0.205 * person.shoulders * person.girth**0.6,
        0.165 * person.hips * person.girth,
    )
    thick = 1.12 if person.top in ("jacket", "hoodie", "coat") else 1.0
    waist = (0.145 * girth + 0.25 * (hip + shoulder)) / 1.5 * thick
    top = joints["chest"] + np.array([0.0, 0.045, 0.0])
    bottom = joints["pelvis"] + np.array([0.0, -0.05, 0.0])
    knots = [0.0, 0.045, 0.13, 0.38, 0.68, 0.9, 1.0]
    sides = [0.05, 0.125, shoulder * 0.98, shoulder * 0.93 * thick, waist, hip * thick, hip * 0.98 * thick]
    depth = [0.05, 0.07, 0.10 * girth, 0.125 * girth * thick, 0.118 * girth * thick, 0.135 * girth, 0.13 * girth]
    solids = [_barrel(view, top, bottom, knots, sides, depth, torso_texture(person))]
    solids += _skirts(person, joints, view, hip, thick)
    if person.top == "hoodie":
        hood = joints["chest"] + np.array([0.0, 0.045, -0.085])
        solids.append(_ball(view, hood, (0.115, 0.075, 0.075), plain(darker(person.top_colour, 0.9)), 0.02))
    if person.hat == "scarf":
        solids.append(
            _ball(
                view, joints["chest"] + np.array([0.0, 0.05, 0.0]), (0.11, 0.08, 0.10), plain(person.hat_colour), 0.03
            )
        )
    return solids


def _skirts(person: Identity, joints: dict[str, Array], view: View, hip: float, thick: float) -> list[Solid]:
    """What hangs below the waist: seat of the trousers, skirt, tails of a coat."""
    pelvis = joints["pelvis"]
    knee = (joints["left knee"] + joints["right knee"]) / 2
    ankle = (joints["left ankle"] + joints["right ankle"]) / 2
    spread = 0.5 * abs(float(joints["left ankle"][2] - joints["right ankle"][2]))
    deep = 0.128 * person.girth
    solids = []
    if person.bottom in ("skirt", "long skirt"):
        low = knee + np.array([0.0, 0.02, 0.0]) if person.bottom == "skirt" else ankle + np.array([0.0, 0.10, 0.0])
        flare = 1.25 if person.bottom == "skirt" else 1.2
        hem = 0.13 + (0.35 if person.bottom == "skirt" else 0.7) * spread
        solids.append(
            _barrel(
                view,
                pelvis + np.array([0.0, 0.02, 0.0]),
                low,
                [0.0, 0.3, 1.0],
                [hip * 0.97, hip * 1.06, hip * flare],
                [deep, deep * 1.1, max(hem, deep * 1.1)],
                plain(person.bottom_colour),
                depth=SKIRT,
            )
        )
    else:
        low = pelvis + np.array([0.0, -0.14, 0.0])
        solids.append(
            _barrel(
                view,
                pelvis,
                low,
                [0.0, 0.5, 1.0],
                [hip * 0.95, hip, hip * 0.75],
                [deep * 0.95, deep, deep * 0.7],
                plain(person.bottom_colour),
                depth=SEAT,
            )
        )
    if person.top in ("coat",):
        low = knee + np.array([0.0, 0.06, 0.0])
        solids.append(
            _barrel(
                view,
                pelvis + np.array([0.0, 0.03, 0.0]),
                low,
                [0.0, 0.4, 1.0],
                [hip * thick, hip * 1.08 * thick, hip * 1.18 * thick],
                [deep * 1.05, deep * 1.15, deep * 1.1 + 0.3 * spread],
                _tails(person),
                depth=TAILS,
            )
        )
    return solids


def _tails(person: Identity) -> Texture:
    def texture(along: Array, azimuth: Array) -> Array:
        gap = np.abs((azimuth + np.pi) % (2 * np.pi) - np.pi)
        colour = mix(person.top_colour, person.bottom_colour, (0.06 + 0.12 * along - gap) / 0.08 + 0.5)
        return mix(
            colour,
            person.accent,
            np.clip((0.5 - np.abs(along - 0.92) * 12), 0, 1) * (person.pattern in ("stripes", "block", "band")),
        )

    return texture


def _arms(person: Identity, joints: dict[str, Array], view: View) -> list[Solid]:
    bulk = person.girth**0.6 * (1.15 if person.top in ("jacket", "hoodie", "coat") else 1.0)
    solids = []
    for side in ("left", "right"):
        shoulder, elbow, hand = (joints[f"{side} {name}"] for name in ("shoulder", "elbow", "hand"))
        layer = 0.2 if view.project(shoulder)[2] > -0.08 else FAR
        solids.append(
            _limb(view, shoulder, elbow, (0.058 * bulk, 0.049 * bulk), sleeve_texture(person, True), depth=layer)
        )
        solids.append(
            _limb(view, elbow, hand, (0.049 * bulk, 0.038 * bulk), sleeve_texture(person, False), depth=layer + 0.01)
        )
        palm = hand + (hand - elbow) * 0.22
        solids.append(_limb(view, hand, palm, (0.034, 0.036), plain(person.skin), depth=layer - 0.01))
    return solids


def _head(person: Identity, joints: dict[str, Array], view: View, pose: Pose) -> list[Solid]:
    turned = View(view.yaw + pose.look, view.pitch, view.x, view.y)
    centre = joints["head"]
    size = 0.5 * (person.height / 1.75) + 0.5
    neck = _limb(
        view,
        joints["chest"] + np.array([0.0, -0.02, 0.0]),
        centre,
        (0.055, 0.05),
        plain(darker(person.skin, 0.86)),
        -0.06,
    )
    head = _ball(view, centre, (0.088 * size, 0.128 * size, 0.102 * size), head_texture(person), 0.06, pose.look)
    return [neck, head, *_hair(person, centre, size, turned), *_hat(person, centre, size, turned)]


def _hair(person: Identity, centre: Array, size: float, view: View) -> list[Solid]:
    texture = plain(person.hair_colour)
    if person.hat == "scarf":
        return []
    back = centre + np.array([0.0, 0.0, -0.075]) * size
    match person.hair:
        case "long":
            return [
                _barrel(
                    view,
                    back + np.array([0.0, 0.10, 0.045]),
                    back + np.array([0.0, -0.31, -0.025]),
                    [0.0, 0.25, 0.7, 1.0],
                    [0.05, 0.118, 0.125, 0.075],
                    [0.05, 0.085, 0.062, 0.03],
                    texture,
                    0.02,
                )
            ]
        case "bob":
            return [
                _barrel(
                    view,
                    back + np.array([0.0, 0.12, 0.045]),
                    back + np.array([0.0, -0.13, 0.03]),
                    [0.0, 0.3, 0.8, 1.0],
                    [0.03, 0.112, 0.125, 0.095],
                    [0.03, 0.105, 0.085, 0.06],
                    texture,
                    0.04,
                )
            ]
        case "ponytail":
            return [
                _limb(
                    view,
                    back + np.array([0.0, 0.03, -0.035]),
                    back + np.array([0.0, -0.22, -0.07]),
                    (0.042, 0.028),
                    texture,
                    0.04,
                )
            ]
        case "bun":
            return [_ball(view, back + np.array([0.0, 0.075, -0.02]), (0.06, 0.058, 0.06), texture, 0.02)]
        case "curly":
            return [_ball(view, centre + np.array([0.0, 0.045, -0.045]), (0.142, 0.135, 0.135), texture, 0.02)]
    return []


def _hat(person: Identity, centre: Array, size: float, view: View) -> list[Solid]:
    cloth = plain(person.hat_colour)
    if person.hat == "cap":
        brim = centre + np.array([0.0, 0.052, 0.115]) * size
        crown = _ball(view, centre + np.array([0.0, 0.075, -0.005]) * size, (0.094, 0.066, 0.106), cloth, 0.07)
        return [crown, _ball(view, brim, (0.075, 0.016, 0.085), plain(darker(person.hat_colour, 0.8)), 0.04)]
    if person.hat == "beanie":
        return [_ball(view, centre + np.array([0.0, 0.13, -0.01]) * size, (0.045, 0.03, 0.045), cloth, 0.05)]
    if person.hat == "brimmed":
        crown = _ball(view, centre + np.array([0.0, 0.095, 0.0]) * size, (0.092, 0.075, 0.10), cloth, 0.075)
        return [
            crown,
            _ball(
                view,
                centre + np.array([0.0, 0.052, 0.0]) * size,
                (0.185, 0.026, 0.195),
                plain(darker(person.hat_colour, 0.85)),
                0.08,
            ),
        ]
    return []


def _bag(person: Identity, joints: dict[str, Array], view: View) -> list[Solid]:
    colour, dark = person.bag_colour, darker(person.bag_colour, 0.7)
    sign, side = (1.0, "left") if person.left_handed else (-1.0, "right")
    pocketed = _pocketed(colour, dark)
    box = [0.0, 0.08, 0.5, 0.92, 1.0]
    if person.bag == "backpack":
        top = joints["chest"] + np.array([0.0, -0.01, -0.17 * person.girth**0.7])
        sides, deep = [0.09, 0.15, 0.165, 0.165, 0.13], [0.05, 0.08, 0.10, 0.11, 0.08]
        layer = 0.3 if np.cos(view.yaw) < -0.35 else 0.1 if np.cos(view.yaw) < 0.3 else FAR
        return [_barrel(view, top, top + np.array([0.0, -0.43, -0.01]), box, sides, deep, pocketed, depth=layer)]
    if person.bag == "shoulder bag":
        top = joints["pelvis"] + np.array([sign * (0.17 * person.girth + 0.05), 0.06, -0.02])
        sides, deep = [0.05, 0.06, 0.065, 0.065, 0.05], [0.13, 0.15, 0.16, 0.16, 0.14]
        layer = 0.1 if view.project(top)[2] > -0.08 else FAR
        return [_barrel(view, top, top + np.array([0.0, -0.24, 0.0]), box, sides, deep, pocketed, depth=layer)]
    if person.bag in ("handbag", "carrier"):
        drop, high, wide = (0.14, 0.20, 0.13) if person.bag == "handbag" else (0.10, 0.33, 0.12)
        top = joints[f"{side} hand"] + np.array([sign * 0.03, -drop, 0.0])
        sides, deep = [0.035, 0.045, 0.055, 0.055, 0.045], [wide * share for share in (0.8, 1.0, 1.08, 1.12, 1.0)]
        texture = pocketed if person.bag == "handbag" else plain(colour)
        layer = 0.25 if view.project(joints[f"{side} shoulder"])[2] > -0.08 else FAR - 0.1
        strap = _limb(view, joints[f"{side} hand"], top, (0.014, 0.014), plain(dark), depth=layer - 0.01)
        return [strap, _barrel(view, top, top + np.array([0.0, -high, 0.0]), box, sides, deep, texture, depth=layer)]
    return []


def _pocketed(colour: Colour, dark: Colour) -> Texture:
    """A bag's cloth with a darker seam across."""
    return lambda along, azimuth: mix(colour, dark, np.clip((0.07 - np.abs(along - 0.42)) / 0.03, 0.0, 1.0))
