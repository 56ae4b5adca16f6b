"""What the quality measures and the alarms say of real images that were degraded in known ways.

    python benchmarks/degradations.py       # after `dvc repro extract_features cluster`, or `dvc pull` of their outputs

Half of the training images of params.yaml's data set are degraded and taken for generated ones; the other half is what
they are measured against, in both feature spaces. It says how to read a value, not how long anything takes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from scipy.ndimage import gaussian_filter

from slsr.embedding.engine import extract_features
from slsr.gan.images import load_clustered
from slsr.images.decoding import Pixels, decode_resized, encode_jpeg
from slsr.markdown import table
from slsr.models.encoder import load_encoder
from slsr.params.file import load_params
from slsr.quality.assessment import Alarm, Measured, assess, find_alarms
from slsr.quality.features import Features, handcrafted
from slsr.stages.generate import HANDCRAFTED_MEASURES, MEASURES
from slsr.stages.paths import ASSIGNMENTS, ENCODER_MODEL, TRAIN_TABLE

SPACES = {"handcrafted": HANDCRAFTED_MEASURES, "encoder": MEASURES}
ALARMS = ("collapse", "memorization", "unlike", "narrow")


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


def blots(pixels: Pixels, amplitude: float) -> Pixels:
    """Draw smooth colored noise around the mean image, with this share of the deviation that real pixels have."""
    noise = np.random.default_rng(1).normal(size=pixels.shape)
    smooth = gaussian_filter(noise, (0, 2, 2, 0))
    drawn = pixels.mean(axis=0) + smooth / smooth.std() * amplitude * pixels.std(axis=0).mean()
    return np.clip(drawn, 0, 255).round().astype(np.uint8)


def mean_image(pixels: Pixels) -> Pixels:
    """Repeat the mean of all images."""
    return np.repeat(pixels.mean(axis=0, keepdims=True).round().astype(np.uint8), len(pixels), axis=0)


def jpeg(pixels: Pixels, quality: int) -> Pixels:
    """Through JPEG of this quality."""
    return decode_resized([encode_jpeg(image, quality) for image in pixels], *pixels.shape[1:3])


DEGRADATIONS: dict[str, Callable[[Pixels], Pixels]] = {
    "as they are": lambda pixels: pixels,
    **{f"grain of {levels} levels": partial(grain, levels=levels) for levels in (2, 4, 8, 16, 32)},
    **{f"checkerboard of {levels} levels": partial(checkerboard, levels=levels) for levels in (4, 8, 16)},
    **{f"blur of {radius} pixels": partial(blur, radius=radius) for radius in (0.5, 1, 2, 4)},
    "JPEG, quality 30": partial(jpeg, quality=30),
    "mirrored": lambda pixels: pixels[:, :, ::-1],
    "upside-down": lambda pixels: pixels[:, ::-1],
    "20 of them, repeated": lambda pixels: pixels[np.arange(len(pixels)) % 20],
    **{f"blots, amplitude {amplitude}": partial(blots, amplitude=amplitude) for amplitude in (0.1, 0.3, 1)},
    "mean image": mean_image,
    "noise alone": lambda pixels: np.random.default_rng(1).integers(0, 256, pixels.shape).astype(np.uint8),
}


def encoder_features(pixels: Pixels) -> Features:
    """Compute the features that were clustered, of images that are stored without loss."""
    encoded = []
    for image in pixels:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        encoded.append(buffer.getvalue())
    names, device = [f"image {number}" for number in range(len(encoded))], torch.device("cpu")
    return extract_features(
        load_encoder(ENCODER_MODEL), encoded, names, device, flip=False, batch_size=128, title="features"
    )


def heard(alarms: Mapping[str, Sequence[Alarm]], kind: str) -> str:
    """Name the measures that raise an alarm, and their spaces."""
    spaces: dict[str, list[str]] = {}
    for space, found in alarms.items():
        for alarm in found:
            if alarm.alarm == kind:
                spaces.setdefault(alarm.measure, []).append(space)
    return ", ".join(f"{measure} ({', '.join(where)})" for measure, where in spaces.items()) or "-"


def row_of_measures(title: str, measured: Mapping[str, Measured]) -> list[str]:
    kernel = measured["kernel"]
    beyond = (kernel.value - kernel.reference) / kernel.reference_deviation
    return [title, *(f"{one.value:.2f}" for one in measured.values()), f"{beyond:.0f}"]


def main() -> None:
    params = load_params(Path("params.yaml"))
    real = load_clustered(TRAIN_TABLE, ASSIGNMENTS, params.gan.height, params.gan.width).pixels
    order = np.random.default_rng(1).permutation(len(real))
    reference, taken = (real[part] for part in np.array_split(order, 2))
    spaces = {"handcrafted": handcrafted, "encoder": encoder_features}
    known = {name: space(reference) for name, space in spaces.items()}
    limits = params.generate.alarms.model_dump()
    measures: dict[str, list[list[str]]] = {name: [] for name in spaces}
    alarms: list[list[str]] = []
    for title, degrade in DEGRADATIONS.items():
        images, sounding = np.ascontiguousarray(degrade(taken)), {}
        for name, space in spaces.items():
            found = assess(known[name], space(images), SPACES[name], seed=1)
            measures[name].append(row_of_measures(title, found))
            sounding[name] = find_alarms(found, limits)
        alarms.append([title, *(heard(sounding, kind) for kind in ALARMS)])
    print(f"{len(taken)} real images of {params.gan.height}x{params.gan.width}, against {len(reference)} others")
    for name, rows in measures.items():
        head = ["in place of generated images", *SPACES[name], "KID, deviations beyond its reference"]
        print(f"\n{name} space:\n\n{table(head, rows)}")
    print(f"\nalarms:\n\n{table(['in place of generated images', *ALARMS], alarms, right=[False] * 5)}")


if __name__ == "__main__":
    main()
