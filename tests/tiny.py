"""Parameters, images and networks that are so small that a test of training is fast."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image as PillowImage
from ruamel.yaml import YAML
from torch import nn

from slsr.images.loading import LabeledImages
from slsr.labels.distributions import lsro
from slsr.labels.targets import real_targets, with_generated
from slsr.params.recipe import Image, Recipe
from slsr.training.classifier import TrainingSet

ROOT = Path(__file__).parents[1]
DEFAULTS = YAML(typ="safe", pure=True).load((ROOT / "presets/defaults.yaml").read_text(encoding="utf-8"))


def make_image(**differences):
    """Images of 36x36 pixels, cropped to 32x32."""
    values = DEFAULTS["image"] | {"height": 32, "width": 32, "resize_height": 36, "resize_width": 36}
    return Image.model_validate(values | {"test": "center-crop"} | differences)


def make_recipe(optimizer=None, schedule=None, **differences):
    """SGD at a constant rate, two epochs of batches of 8, without augmentation."""
    values = DEFAULTS["train"] | {"backbone": "resnet18", "weights": "none", "head": "plain", "epochs": 2}
    values |= {
        "batch_size": 8,
        "seed": 1,
        "random_crop": False,
        "horizontal_flip": False,
        "random_erasing": 0.0,
    } | differences
    values["optimizer"] = values["optimizer"] | {"name": "sgd"} | (optimizer or {})
    values["schedule"] = values["schedule"] | {"name": "constant"} | (schedule or {})
    return Recipe.model_validate(values)


# Differences of a recipe that has the parts of the strong baseline, and more.
STRONG = {
    "head": "bnneck",
    "pooling": "gem",
    "last_stride": 1,
    "sampler": "identities",
    "images_per_identity": 2,
    "padding": 2,
    "color_jitter": 0.2,
    "label_smoothing": 0.1,
    "triplet": {"weight": 1.0, "margin": 0.3},
    "center": {"weight": 0.0005, "learning_rate": 0.5},
    "ema": 0.9,
}


def build_tiny_backbone(name="resnet18", image=None, last_stride=2):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
    )


def encode(pixels, form="PNG", **options):
    """One image, uint8 [H, W(, channels)], as the bytes of a file."""
    buffer = io.BytesIO()
    PillowImage.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


def noise(count, height=36, width=36, seed=0):
    """uint8 [count, height, width, 3]"""
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def colored(labels, height=36, width=36, seed=0):
    """Labeled images that any network can learn: each label has its own color, with noise."""
    colors = np.array([[220, 40, 40], [40, 200, 60], [50, 60, 220], [215, 205, 50], [190, 60, 200], [60, 190, 190]])
    grain = np.random.default_rng(seed).normal(0, 12, (len(labels), height, width, 3))
    pixels = np.clip(colors[np.asarray(labels)][:, None, None] + grain, 0, 255).astype(np.uint8)
    return LabeledImages(torch.from_numpy(pixels), torch.tensor(labels, dtype=torch.int64))


def mixed(real, generated=6, classes=3, size=34, seed=1):
    """A training set of noise: labeled images, then generated ones with equal weight on all labels."""
    labels = torch.arange(real) % classes
    pixels = torch.from_numpy(noise(real + generated, size, size, seed))
    targets = with_generated(real_targets(labels), np.zeros(generated, np.int32), {0: lsro(classes)})
    return TrainingSet(pixels, targets, torch.ones(real + generated), labels)
