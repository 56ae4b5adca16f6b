"""What the quality measures say of real images that were degraded in known ways.

    python benchmarks/degradations.py       # after `dvc repro prepare cluster`, or `dvc pull` of their outputs

Half of the training images of params.yaml's data set are degraded and taken for generated ones; the other half is what
they are measured against, in the handcrafted space. It says how to read a value, not how long anything takes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from slsr.gan.images import load_clustered
from slsr.images.decoding import Pixels, decode_resized, encode_jpeg
from slsr.params.file import load_params
from slsr.quality.assessment import assess, find_alarms
from slsr.quality.features import handcrafted
from slsr.stages.paths import ASSIGNMENTS, TRAIN_TABLE

NAMES = ["kernel", "coverage", "recall", "precision", "density", "duplicates", "copies"]


def grain(pixels: Pixels, levels: float) -> Pixels:
    """Add independent normal noise with this deviation, of 255 levels."""
    noise = np.random.default_rng(1).normal(0, levels, pixels.shape)
    return np.clip(pixels + noise, 0, 255).round().astype(np.uint8)


def blur(pixels: Pixels, radius: float) -> Pixels:
    """Gaussian, the radius in pixels."""
    return np.stack([np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius))) for image in pixels])


def checkerboard(pixels: Pixels, levels: float) -> Pixels:
    """Make every other pixel lighter and the rest darker, by this many of 255 levels."""
    sign = np.indices(pixels.shape[1:3]).sum(axis=0) % 2 * 2 - 1
    return np.clip(pixels + levels * sign[..., None], 0, 255).round().astype(np.uint8)


def jpeg(pixels: Pixels, quality: int) -> Pixels:
    """Through JPEG of this quality."""
    return decode_resized([encode_jpeg(image, quality) for image in pixels], *pixels.shape[1:3])


DEGRADATIONS: dict[str, Callable[[Pixels], Pixels]] = {
    "as they are": lambda pixels: pixels,
    **{f"grain of {levels} levels": partial(grain, levels=levels) for levels in (2, 4, 8, 16, 32)},
    **{f"checkerboard of {levels} levels": partial(checkerboard, levels=levels) for levels in (4, 8, 16)},
    **{f"blur of {radius} pixels": partial(blur, radius=radius) for radius in (0.5, 1, 2)},
    "JPEG, quality 30": partial(jpeg, quality=30),
    "mirrored": lambda pixels: pixels[:, :, ::-1],
    "upside down": lambda pixels: pixels[:, ::-1],
    "20 of them, repeated": lambda pixels: pixels[np.arange(len(pixels)) % 20],
    "noise alone": lambda pixels: np.random.default_rng(1).integers(0, 256, pixels.shape).astype(np.uint8),
}


def main() -> None:
    params = load_params(Path("params.yaml"))
    real = load_clustered(TRAIN_TABLE, ASSIGNMENTS, params.gan.height, params.gan.width).pixels
    order = np.random.default_rng(1).permutation(len(real))
    reference, taken = (real[part] for part in np.array_split(order, 2))
    known, limits = handcrafted(reference), params.generate.alarms.model_dump()
    print(f"{len(taken)} real images of {params.gan.height}x{params.gan.width}, against {len(reference)} others\n")
    print("| " + " | ".join(["taken for generated", *NAMES, "alarms"]) + " |")
    print("|---|" + "---:|" * len(NAMES) + "---|")
    for title, degrade in DEGRADATIONS.items():
        found = assess(known, handcrafted(np.ascontiguousarray(degrade(taken))), NAMES, seed=1)
        alarms = sorted({alarm.alarm for alarm in find_alarms(found, limits)})
        values = [f"{found[name].value:.2f}" for name in NAMES]
        print("| " + " | ".join([title, *values, ", ".join(alarms) or "none"]) + " |", flush=True)


if __name__ == "__main__":
    main()
