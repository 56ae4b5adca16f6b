"""Differentiable augmentation of what a discriminator sees, real and generated alike (Zhao et al., NeurIPS 2020).

The generator's gradient passes through, so that it does not learn the augmentation, while the discriminator cannot
memorize the few images of a small cluster.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from slsr.params.gan import GanAugmentation
from slsr.runtime.devices import to_device

TRANSLATION = 1 / 8
CUTOUT = 1 / 2


def diff_augment(images: Tensor, names: Sequence[GanAugmentation], randomness: torch.Generator) -> Tensor:
    """Augment each image of a batch by its own draw.

    - `flip`: mirrored, or not.
    - `color`: brightness (+-0.5), then saturation (x 0 to 2), then contrast (x 0.5 to 1.5).
    - `translation`: by up to 1/8 of height and width, filled with 0 (mid-gray).
    - `cutout`: a rectangle of half the height and width, anywhere, set to 0.

    Parameters
    ----------
    images : float [B, 3, H, W] in [-1, 1]
    names : which augmentations; they are applied in the order flip, color, translation, cutout
    randomness : a generator on the CPU; `images` may be on any device

    Returns
    -------
    float32 [B, 3, H, W]; color may leave [-1, 1].
    """
    images = images.float()
    if "flip" in names:
        mirrored = _uniform(1, images, randomness).view(-1, 1, 1, 1) < 1 / 2
        images = torch.where(mirrored, images.flip(3), images)
    if "color" in names:
        images = change_color(images, *_uniform(3, images, randomness).view(3, -1, 1, 1, 1))
    if "translation" in names:
        images = _translate(images, _uniform(2, images, randomness))
    if "cutout" in names:
        images = _cut_out(images, _uniform(2, images, randomness))
    return images


def _uniform(rows: int, images: Tensor, randomness: torch.Generator) -> Tensor:
    """Draw [rows, B] on the host, and return it on the device of the images."""
    return to_device(torch.rand(rows, len(images), generator=randomness), images.device)


def change_color(images: Tensor, brightness: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
    """Change brightness, saturation and contrast by draws in [0, 1], each [B, 1, 1, 1]."""
    images = images + brightness - 0.5
    gray = images.mean(dim=1, keepdim=True)
    images = gray + (images - gray) * saturation * 2
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (images - mean) * (contrast + 0.5)


def _translate(images: Tensor, draw: Tensor) -> Tensor:
    """Shift by products with 0-1 matrices: exact, differentiable, and deterministic on every device."""
    down, right = (_shift_matrices(size, part) for size, part in zip(images.shape[2:], draw, strict=True))
    return down @ images @ right.mT


def _shift_matrices(size: int, draw: Tensor) -> Tensor:
    """Return [B, 1, size, size]: 1 where row = column + shift."""
    most = round(size * TRANSLATION)
    shift = (draw * (2 * most + 1)).floor().long() - most
    position = torch.arange(size, device=draw.device)
    return (position[:, None] == position + shift.view(-1, 1, 1, 1)).float()


def _cut_out(images: Tensor, draw: Tensor) -> Tensor:
    inside = [_inside(size, part) for size, part in zip(images.shape[2:], draw, strict=True)]
    hole = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return images * ~hole


def _inside(size: int, draw: Tensor) -> Tensor:
    """Return [B, size]: which rows (or columns) a hole covers; its center may be anywhere in the image."""
    length = round(size * CUTOUT)
    start = (draw * (size + 1 - length % 2)).floor().long()[:, None] - length // 2
    position = torch.arange(size, device=draw.device)
    return (position >= start) & (position < start + length)
