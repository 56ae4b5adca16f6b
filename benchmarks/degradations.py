"""What the quality measures, alarms and verdicts say of real images that were degraded in known ways.

    python benchmarks/degradations.py       # after `dvc repro generate`, or `dvc pull` of what it depends on

Half of the training images of params.yaml's data set are degraded and taken for generated ones; the other half is what
they are measured against, in every feature space. Beside them are images of a DCGAN that was not trained, of one
that was trained for 100 steps, and those of the run. It says how to read a value, not how long anything
takes.

The order of the eye is in `GROUPS`. A degradation belongs to the first group whose rule it fulfills at 64x32 pixels, by
looking at it beside the originals:

1. indistinguishable: no difference at a glance.
2. slightly worse: a difference at a glance, but all details of clothes are there.
3. clearly worse: a person can be recognized, but details or colors are lost, or hidden, or the image cannot be real.
4. not a person: there is no head, no arm and no leg.

Sets that lack variety (repetitions, copies) have no group, because each image alone is a real one.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image, ImageFilter
from scipy.ndimage import gaussian_filter

from slsr.embedding.engine import extract_features
from slsr.gan.images import load_clustered
from slsr.gan.loop import train_gan
from slsr.gan.networks import Generator, draw_images, draw_noise
from slsr.gan.steps import build_networks
from slsr.images.decoding import Pixels, decode_resized, encode_jpeg
from slsr.images.tables import read_table
from slsr.markdown import table
from slsr.models.encoder import load_encoder
from slsr.params.file import load_params
from slsr.params.gan import Gan
from slsr.quality.assessment import Alarm, Measured, assess, find_alarms
from slsr.quality.features import Features, handcrafted
from slsr.quality.imagenet import imagenet
from slsr.quality.spaces import IMAGENET_NETWORKS, MEASURES, limits_in
from slsr.quality.verdict import judge
from slsr.stages.paths import ASSIGNMENTS, ENCODER_MODEL, GENERATED, TRAIN_TABLE

ALARMS = ("collapse", "memorization", "unlike", "narrow")
CPU = torch.device("cpu")
SHORT_STEPS = 100
SMALL_DCGAN = {  # differences from presets/defaults.yaml
    "kind": "per-cluster",
    "channels": 16,
    "upsampling": "nearest",
    "parent_epochs": 0,
    "epochs": 1,
    "batch_size": 16,
    "learning_rate": 0.002,
    "generator_steps": 1,
    "discriminator_batch_norm": "none",
    "r1": 0.3,
    "ema": 0.99,
}


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


def gray(pixels: Pixels) -> Pixels:
    """Replace colors by their brightness."""
    return np.stack([np.asarray(Image.fromarray(image).convert("L").convert("RGB")) for image in pixels])


def noise(pixels: Pixels) -> Pixels:
    """Draw each value by itself."""
    return np.random.default_rng(1).integers(0, 256, pixels.shape).astype(np.uint8)


def varied(pixels: Pixels, count: int) -> Pixels:
    """Repeat some images, each time moved by up to a pixel, lighter or darker by up to 10 %, with grain of 2 levels."""
    randomness, drawn = np.random.default_rng(2), []
    for image in pixels[np.arange(len(pixels)) % count]:
        moved = np.roll(image, randomness.integers(-1, 2, 2), axis=(0, 1))
        drawn.append(moved * randomness.uniform(0.9, 1.1))
    return grain(np.stack(drawn), 2)


def dcgan(pixels: Pixels, steps: int) -> Pixels:
    """Draw from a small DCGAN that was trained on the images for some steps."""
    preset = yaml.safe_load(Path("presets/defaults.yaml").read_text())["gan"]
    size = {"height": pixels.shape[1], "width": pixels.shape[2]}
    settings = Gan.model_validate(preset | size | SMALL_DCGAN | {"minimum_steps": steps})
    generator = _trained(pixels, settings, steps)
    return draw_images(generator.eval(), draw_noise((1,), len(pixels), settings.latent))


def _trained(pixels: Pixels, settings: Gan, steps: int) -> Generator:
    if not steps:
        return build_networks(settings, (1,)).generator
    return train_gan(pixels, settings, (1,), CPU, "a short training").generator


GROUPS = ("indistinguishable", "slightly worse", "clearly worse", "not a person")
DEGRADATIONS: dict[str, tuple[int, Callable[[Pixels], Pixels]]] = {
    "as they are": (0, lambda pixels: pixels),
    "mirrored": (0, lambda pixels: pixels[:, :, ::-1]),
    "grain of 2 levels": (0, partial(grain, levels=2)),
    "grain of 4 levels": (0, partial(grain, levels=4)),
    "checkerboard of 4 levels": (0, partial(checkerboard, levels=4)),
    "blur of 0.5 pixels": (0, partial(blur, radius=0.5)),
    "JPEG, quality 30": (1, partial(jpeg, quality=30)),
    "grain of 8 levels": (1, partial(grain, levels=8)),
    "checkerboard of 8 levels": (1, partial(checkerboard, levels=8)),
    "blur of 1 pixel": (1, partial(blur, radius=1)),
    "grain of 16 levels": (2, partial(grain, levels=16)),
    "grain of 32 levels": (2, partial(grain, levels=32)),
    "checkerboard of 16 levels": (2, partial(checkerboard, levels=16)),
    "blur of 2 pixels": (2, partial(blur, radius=2)),
    "gray": (2, gray),
    "upside-down": (2, lambda pixels: pixels[:, ::-1]),
    "blur of 4 pixels": (3, partial(blur, radius=4)),
    "blots, amplitude 0.1": (3, partial(blots, amplitude=0.1)),
    "blots, amplitude 0.3": (3, partial(blots, amplitude=0.3)),
    "blots, amplitude 1": (3, partial(blots, amplitude=1)),
    "mean image": (3, mean_image),
    "noise alone": (3, noise),
    "DCGAN, not trained": (3, partial(dcgan, steps=0)),
    f"DCGAN, {SHORT_STEPS} steps": (3, partial(dcgan, steps=SHORT_STEPS)),
}
SETS: dict[str, Callable[[Pixels], Pixels]] = {
    "20 of them, repeated": lambda pixels: pixels[np.arange(len(pixels)) % 20],
    "20 of them, varied": partial(varied, count=20),
    "5 of them, varied": partial(varied, count=5),
}
COPIES: dict[str, Callable[[Pixels], Pixels]] = {
    "copies": lambda pixels: pixels,
    "copies, JPEG of quality 50": partial(jpeg, quality=50),
    "copies, grain of 4 levels": partial(grain, levels=4),
    "copies, blur of 1 pixel": partial(blur, radius=1),
    "copies, mirrored": lambda pixels: pixels[:, :, ::-1],
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


def run_images(height: int, width: int) -> Pixels:
    """Return the generated images of the run."""
    return decode_resized(read_table(GENERATED / "images.parquet").column("image").to_pylist(), height, width)


SPACES: dict[str, Callable[[Pixels], Features]] = {
    **{name: partial(imagenet, device=CPU, network=network) for name, network in IMAGENET_NETWORKS.items()},
    "handcrafted": handcrafted,
    "encoder": encoder_features,
}


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


def ranks(kernels: Mapping[str, float]) -> dict[str, int]:
    """Rank degradations by KID, 1 for the lowest."""
    return {title: rank for rank, title in enumerate(sorted(kernels, key=kernels.__getitem__), 1)}


def in_order(kernels: Mapping[str, float]) -> float:
    """Return the share of pairs of degradations of two groups in which the worse group has the higher KID."""
    pairs = [(a, b) for a, b in combinations(kernels, 2) if DEGRADATIONS[a][0] < DEGRADATIONS[b][0]]
    return sum(kernels[a] < kernels[b] for a, b in pairs) / len(pairs)


def main() -> None:
    params = load_params(Path("params.yaml"))
    size = (params.gan.height, params.gan.width)
    real = load_clustered(TRAIN_TABLE, ASSIGNMENTS, *size).pixels
    order = np.random.default_rng(1).permutation(len(real))
    reference, taken = (real[part] for part in np.array_split(order, 2))
    images = {title: degrade(taken) for title, (_, degrade) in DEGRADATIONS.items()}
    images |= {"generated images of the run": run_images(*size)}
    images |= {title: change(taken) for title, change in SETS.items()}
    images |= {title: change(reference) for title, change in COPIES.items()}
    print(f"{len(taken)} real images of {size[0]}x{size[1]}, against {len(reference)} others")
    known = {name: space(reference) for name, space in SPACES.items()}
    found = {
        title: {
            name: assess(known[name], space(np.ascontiguousarray(pixels)), MEASURES[name], seed=1)
            for name, space in SPACES.items()
        }
        for title, pixels in images.items()
    }
    print_order(found)
    print_alarms(found, params.generate.alarms.model_dump())
    for name in SPACES:
        head = ["in place of generated images", *MEASURES[name], "KID, deviations beyond its reference"]
        print(f"\n{name} space:\n\n{table(head, [row_of_measures(title, one[name]) for title, one in found.items()])}")


Found = Mapping[str, Mapping[str, Mapping[str, Measured]]]


def print_order(found: Found) -> None:
    """Print the groups of the eye beside the ranks of each space."""
    kernels = {name: {title: found[title][name]["kernel"].value for title in DEGRADATIONS} for name in SPACES}
    places = {name: ranks(values) for name, values in kernels.items()}
    rows = [
        [title, GROUPS[group], *(str(places[name][title]) for name in SPACES)]
        for title, (group, _) in DEGRADATIONS.items()
    ]
    shares = (f"{100 * in_order(kernels[name]):.0f} %" for name in SPACES)
    rows.append(["pairs of two groups in the order of the eye", "-", *shares])
    head = ["in place of generated images", "to the eye", *SPACES]
    print(f"\nranks by KID:\n\n{table(head, rows, right=[False, False, *[True] * len(SPACES)])}")


def print_alarms(found: Found, limits: Mapping[str, float]) -> None:
    """Print the verdict and the alarms of each set of images; the second network raises none."""
    rows = []
    for title, measured in found.items():
        judging = [name for name in measured if name != "imagenet_lite1"]
        sounding = {name: find_alarms(measured[name], limits_in(name, limits)) for name in judging}
        verdict = judge(measured["imagenet"], [alarm for each in sounding.values() for alarm in each])
        rows.append([title, str(verdict), *(heard(sounding, kind) for kind in ALARMS)])
    print(f"\nalarms:\n\n{table(['in place of generated images', 'verdict', *ALARMS], rows, right=[False] * 6)}")


if __name__ == "__main__":
    main()
