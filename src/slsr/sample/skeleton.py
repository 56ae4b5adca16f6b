"""Compute the joints of a walking person."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from slsr.sample.identity import Identity
from slsr.sample.paint import Array

Joints = dict[str, Array]
"""Points of the body in meters: x to the person's left, y up, z forwards; 0 is on the ground between the feet."""

SIDES = (("left", 1.0), ("right", -1.0))


@dataclass(frozen=True)
class Pose:
    """A moment of a walk.

    All values are in radians: the `phase` of the step, the amplitudes of legs (`stride`) and arms (`swing`), and
    `look`, the turn of the head.
    """

    phase: float
    stride: float = 0.45
    swing: float = 0.4
    look: float = 0.0


def moved(point: Array, x: float, y: float, z: float) -> Array:
    """Shift a point."""
    there: Array = point + np.array([x, y, z])
    return there


def skeleton(person: Identity, pose: Pose) -> Joints:
    """Return the joints in the axes of the body, with the lower foot on the ground."""
    height, leg = person.height, person.height * person.legs
    trunk, lean = height * 0.82 - leg, 0.03 + person.stoop
    pelvis = np.array([0.0, leg, 0.0])
    chest = moved(pelvis, 0.0, trunk * np.cos(lean), trunk * np.sin(lean))
    joints = {"pelvis": pelvis, "chest": chest, "head": moved(chest, 0.0, height * 0.105, 0.02 + person.stoop / 2)}
    hip, shoulder = 0.085 * person.hips * person.girth, 0.168 * person.shoulders * person.girth**0.6
    stride = pose.stride * (0.65 if "skirt" in person.bottom else 1.0)
    for side, sign in SIDES:
        phase = pose.phase if sign > 0 else pose.phase + np.pi
        joints |= _leg(side, moved(pelvis, sign * hip, -0.02, 0.0), leg, phase, stride)
        joints |= _arm(side, moved(chest, sign * shoulder, -0.055, 0.0), person, phase + np.pi, pose.swing, sign)
    ground = min(joints["left ankle"][1], joints["right ankle"][1]) - 0.07
    return {name: moved(point, 0.0, -ground, 0.0) for name, point in joints.items()}


def _leg(side: str, hip: Array, length: float, phase: float, stride: float) -> Joints:
    """Return the joints of a leg; the knee bends while the leg swings forwards."""
    thigh = stride * np.sin(phase)
    shin = thigh - 0.08 - 1.3 * stride * max(0.0, np.cos(phase))
    knee = hip + 0.48 * length * np.array([0.0, -np.cos(thigh), np.sin(thigh)])
    ankle = knee + 0.45 * length * np.array([0.0, -np.cos(shin), np.sin(shin)])
    toe = moved(ankle, 0.0, 0.15 * np.sin(min(0.0, shin + 0.1) / 2) - 0.045, 0.17)
    return {f"{side} hip": hip, f"{side} knee": knee, f"{side} ankle": ankle, f"{side} toe": toe}


def _arm(side: str, shoulder: Array, person: Identity, phase: float, swing: float, sign: float) -> Joints:
    """Return the joints of an arm, which swings against the legs and away from a broad body."""
    angle, out = swing * np.sin(phase), sign * person.girth
    bend = angle + 0.18 + 0.7 * swing * max(0.0, np.sin(phase))
    elbow = shoulder + 0.165 * person.height * np.array([0.17 * out, -np.cos(angle), np.sin(angle)])
    hand = elbow + 0.150 * person.height * np.array([0.02 * out, -np.cos(bend), np.sin(bend)])
    return {f"{side} shoulder": shoulder, f"{side} elbow": elbow, f"{side} hand": hand}
