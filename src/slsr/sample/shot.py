"""Draw one picture: who is seen, where, by which camera, and the box around the person."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image

from slsr.sample.camera import CAMERAS, Camera, Moment, expose, moment
from slsr.sample.figure import person_solids
from slsr.sample.identity import Identity
from slsr.sample.paint import Array, Canvas, Solid, paint
from slsr.sample.scene import HORIZON, WIDE, Backdrop, obstacle
from slsr.sample.shapes import View
from slsr.sample.skeleton import Pose

FINE = 2
"""The number of painted pixels per pixel of a picture, in each direction."""


@dataclass(frozen=True)
class Box:
    """The part of the world that a picture shows, in meters from the point between the feet."""

    left: float
    bottom: float
    width: float
    height: float


@dataclass(frozen=True)
class Visit:
    """One walk of a person past a camera: what the pictures of it have in common."""

    camera: int
    sequence: int
    yaw: float
    place: float
    ground: float
    moment: Moment


@dataclass(frozen=True)
class Shot:
    """Everything that a picture depends on."""

    visit: Visit
    box: Box
    moment: Moment
    person: Identity | None
    pose: Pose = field(default_factory=lambda: Pose(0.0))
    yaw: float = 0.0
    others: tuple[Solid, ...] = ()


def draw_visit(camera: int, rng: np.random.Generator) -> Visit:
    """Draw a walk past camera `camera` (1..4); one in five goes the other way."""
    site = CAMERAS[camera - 1]
    turned = np.pi if rng.random() < 0.2 else 0.0
    return Visit(
        camera=camera,
        sequence=int(rng.integers(1, 4)),
        yaw=float(site.yaw + turned + rng.normal(0.0, site.spread)),
        place=float(rng.uniform(1.5, WIDE - 1.5)),
        ground=float(rng.uniform(0.25, HORIZON - 0.45)),
        moment=moment(rng, 1.3),
    )


def draw_shot(visit: Visit, person: Identity | None, box: Box, rng: np.random.Generator) -> Shot:
    """Draw a moment of a visit; one picture in six also shows an object."""
    pose = Pose(
        phase=float(rng.uniform(0.0, 2 * np.pi)),
        stride=float(rng.uniform(0.25, 0.5)),
        swing=float(rng.uniform(0.15, 0.5)),
        look=float(rng.normal(0.0, 0.3)),
    )
    moved = replace(visit, place=float(visit.place + rng.normal(0.0, 0.5)))
    yaw = visit.yaw + float(rng.normal(0.0, 0.2))
    others = tuple(obstacle(float(rng.uniform(-0.45, 0.45)), rng)) if rng.random() < 0.17 else ()
    return Shot(moved, box, moment(rng), person, pose, yaw, others)


def detected_box(height: float, rng: np.random.Generator) -> Box:
    """Draw the box of a detector: twice as high as wide, and usually not centered."""
    tall = height * float(rng.uniform(1.0, 1.22))
    bottom = -0.05 * height + float(rng.normal(0.0, 0.035)) * height
    return Box(float(rng.normal(0.0, 0.07)) - tall / 4, bottom, tall / 2, tall)


def careful_box(height: float, rng: np.random.Generator) -> Box:
    """Draw a box as a human draws it: tight, and as wide as the person."""
    tall, wide = height * float(rng.uniform(1.04, 1.1)), float(rng.uniform(0.72, 0.92))
    return Box(float(rng.normal(0.0, 0.02)) - wide / 2, -0.055 * height, wide, tall)


def careless_box(height: float, rng: np.random.Generator) -> Box:
    """Draw a box that misses most of a person: beside them, around a part of them, or far too large."""
    kind = int(rng.integers(3))
    if kind == 0:
        side = float(rng.choice([-1.0, 1.0])) * float(rng.uniform(0.28, 0.5))
        return Box(side - height / 4, float(rng.uniform(-0.2, 0.3)), height / 2, height)
    if kind == 1:
        tall = height * float(rng.uniform(0.4, 0.6))
        return Box(float(rng.normal(0.0, 0.1)) - tall / 4, float(rng.uniform(0.0, height * 0.55)), tall / 2, tall)
    tall = height * float(rng.uniform(1.5, 1.8))
    return Box(float(rng.uniform(-0.3, 0.3)) - tall / 4, float(rng.uniform(-0.6, -0.2)), tall / 2, tall)


def take(shot: Shot, backdrops: tuple[Backdrop, ...], size: tuple[int, int]) -> Image.Image:
    """Paint a shot and let its camera record it at `size` (width, height)."""
    camera = CAMERAS[shot.visit.camera - 1]
    box = shot.box
    high = FINE * size[1]
    wide = max(1, round(high * box.width / box.height))
    top = shot.visit.ground + box.bottom + box.height
    left = shot.visit.place + box.left
    pixels = backdrops[shot.visit.camera - 1].window(left, top, box.width, box.height, (wide, high))
    canvas = Canvas(pixels, box.left, box.bottom + box.height, high / box.height)
    if shot.person is not None:
        _shadow(canvas, camera)
        paint(canvas, person_solids(shot.person, shot.pose, View(shot.yaw, camera.pitch)), camera.light)
    paint(canvas, list(shot.others), camera.light)
    return expose(canvas.pixels, camera, _together(shot.visit.moment, shot.moment), size)


def _shadow(canvas: Canvas, camera: Camera) -> None:
    """Darken the ground under the feet, away from the light."""
    height, width = canvas.pixels.shape[:2]
    x = canvas.left + (np.arange(width, dtype=np.float32) + 0.5) / canvas.scale
    y = canvas.top - (np.arange(height, dtype=np.float32)[:, None] + 0.5) / canvas.scale
    away = -0.25 * camera.light.side
    near: Array = np.exp(-(((x - away) / 0.36) ** 2) - ((y - 0.03) / 0.075) ** 2)
    canvas.pixels *= (1.0 - 0.55 * near)[..., None]


def _together(one: Moment, other: Moment) -> Moment:
    gains = (one.gains[0] * other.gains[0], one.gains[1] * other.gains[1], one.gains[2] * other.gains[2])
    return Moment(one.exposure * other.exposure, gains, other.blur, other.noise_seed)
