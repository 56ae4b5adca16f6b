"""The cameras: the place of each, how it sees people, and how it changes colors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from slsr.sample.paint import Array, Light

GRAY = np.array([0.299, 0.587, 0.114], dtype=np.float32)


@dataclass(frozen=True)
class Camera:
    """One camera.

    `yaw` is the usual viewpoint in radians (0 = people walk towards it) and `spread` its variation. `gains` are the
    white balance in linear light. `saturation`, `contrast` and `haze` change the picture. `blur` is in pixels of the
    128-pixel picture, and `detail` is the share of those pixels that the camera resolves. `noise` is a standard
    deviation in 0..1.
    """

    place: str
    yaw: float
    spread: float
    pitch: float
    light: Light
    gains: tuple[float, float, float]
    exposure: float
    saturation: float
    contrast: float
    haze: float
    blur: float
    detail: float
    noise: float


CAMERAS: tuple[Camera, ...] = (
    Camera(
        "street", 0.0, 0.6, 0.08, Light(-0.6, 0.4, 0.45), (1.04, 1.0, 0.96), 1.06, 1.03, 1.05, 0.0, 0.25, 1.0, 0.005
    ),
    Camera(
        "park", np.pi, 0.6, 0.16, Light(0.3, 0.5, 0.60), (0.97, 1.0, 1.05), 0.92, 0.95, 0.99, 0.01, 0.3, 0.95, 0.006
    ),
    Camera(
        "hall", np.pi / 2, 0.6, 0.12, Light(0.1, 0.7, 0.55), (0.99, 1.03, 0.97), 1.08, 0.92, 0.95, 0.02, 0.4, 0.9, 0.006
    ),
    Camera(
        "car park", 0.8, 0.6, 0.22, Light(0.7, 0.2, 0.48), (1.06, 0.99, 0.93), 0.86, 0.96, 1.0, 0.01, 0.4, 0.8, 0.008
    ),
)


@dataclass(frozen=True)
class Moment:
    """The conditions of one picture: factors of exposure and white balance, blur in pixels, seed of the noise."""

    exposure: float
    gains: tuple[float, float, float]
    blur: float
    noise_seed: int


def moment(rng: np.random.Generator, spread: float = 1.0) -> Moment:
    """Draw the conditions of one picture."""
    red, green, blue = np.exp(rng.normal(0.0, 0.05 * spread, 3))
    exposure = float(np.exp(rng.normal(0.0, 0.16 * spread)))
    return Moment(exposure, (red, green, blue), float(rng.gamma(2.0, 0.12)), int(rng.integers(2**31)))


def expose(pixels: Array, camera: Camera, moment: Moment, size: tuple[int, int]) -> Image.Image:
    """Record a painted picture [H, W, 3] in 0..1 with a camera, as an image of `size` (width, height)."""
    small = (max(8, round(size[0] * camera.detail)), max(8, round(size[1] * camera.detail)))
    picture = _picture(_respond(pixels, camera, moment)).resize(small, Image.Resampling.BOX)
    picture = picture.resize(size, Image.Resampling.BICUBIC)
    picture = picture.filter(ImageFilter.GaussianBlur((camera.blur + moment.blur) * size[1] / 128))
    grain = np.random.default_rng(moment.noise_seed).normal(0.0, camera.noise, (size[1], size[0], 1))
    return _picture(np.asarray(picture, dtype=np.float32) / 255.0 + grain)


def _respond(pixels: Array, camera: Camera, moment: Moment) -> Array:
    """Apply exposure and white balance in linear light, then saturation, contrast and haze."""
    exposure = camera.exposure * moment.exposure
    gains = np.array(camera.gains, dtype=np.float32) * np.array(moment.gains, dtype=np.float32) * np.float32(exposure)
    seen = np.minimum(pixels**2.2 * gains, 1.6)
    seen = np.clip(seen / (1 + 0.25 * seen**2), 0.0, 1.0) ** (1 / 2.2)
    gray = (seen @ GRAY)[..., None]
    seen = gray + (seen - gray) * camera.saturation
    seen = 0.5 + (seen - 0.5) * camera.contrast
    recorded: Array = camera.haze + (1 - camera.haze) * np.clip(seen, 0.0, 1.0)
    return recorded


def _picture(pixels: Array) -> Image.Image:
    return Image.fromarray((np.clip(pixels, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8))
