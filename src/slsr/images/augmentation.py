"""Augmentation of a batch at once, on the device where the images lie.

A training set is decoded once into uint8 [N, H, W, 3]; a batch is cut out of it, so that cropping, mirroring and the
change of type cost one pass. Each random draw is made on the CPU for the whole batch, so that it
does not depend on the device or on how a batch is split.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from slsr.params.recipe import Image, Normalization
from slsr.runtime.devices import to_device

# Mean and deviation of each channel, for images scaled to 0..1.
NORMALIZATION: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "symmetric": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "unit": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}

ERASED_AREA = (0.02, 0.4)
ERASED_ASPECT = (0.3, 3.3)
ERASING_ATTEMPTS = 10


@dataclass(frozen=True)
class Draw:
    """The random choices for a batch of B images: all int64 or bool [B], in pixels of the crop."""

    top: Tensor
    left: Tensor
    flip: Tensor
    erase_top: Tensor
    erase_left: Tensor
    erase_height: Tensor
    erase_width: Tensor

    def rows(self, rows: slice) -> Draw:
        """The choices for some of the images."""
        return Draw(**{name: value[rows] for name, value in vars(self).items()})

    def to(self, device: torch.device) -> Draw:
        """The same choices on a device, in one copy, without waiting for it."""
        if device.type == "cpu":
            return self
        packed = to_device(torch.stack([value.long() for value in vars(self).values()]), device)
        values = dict(zip(vars(self), packed, strict=True))
        return Draw(**(values | {"flip": values["flip"].bool()}))


def draw_augmentation(
    count: int,
    image_size: tuple[int, int],
    crop_size: tuple[int, int],
    generator: torch.Generator,
    random_crop: bool = True,
    horizontal_flip: bool = True,
    random_erasing: float = 0.0,
) -> Draw:
    """Draw the augmentation of `count` images, each independently of the others.

    Distributed as torchvision's `RandomCrop`, `RandomHorizontalFlip(0.5)` and `RandomErasing(p, (0.02, 0.4),
    (0.3, 3.3))` (Zhong et al., AAAI 2020): uniform crop offsets, area uniform, aspect log-uniform, the first of ten
    attempts that fits.

    Parameters
    ----------
    image_size, crop_size : (height, width) in pixels
    random_crop : False cuts the center
    random_erasing : probability
    """
    slack = (image_size[0] - crop_size[0], image_size[1] - crop_size[1])
    uniform = torch.rand(count, 4, generator=generator, dtype=torch.float64)
    top, left = (
        (uniform[:, axis] * (slack[axis] + 1)).long() if random_crop else torch.full((count,), slack[axis] // 2)
        for axis in range(2)
    )
    flip = (uniform[:, 2] < 0.5) & horizontal_flip
    erase = uniform[:, 3] < random_erasing
    return Draw(top, left, flip, *_draw_erased_boxes(count, crop_size, erase, generator))


def _draw_erased_boxes(
    count: int, size: tuple[int, int], erase: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Top, left, height, width of the erased box, [count] each; height 0 where nothing is erased."""
    uniform = torch.rand(count, ERASING_ATTEMPTS, 4, generator=generator, dtype=torch.float64)
    area = size[0] * size[1] * (ERASED_AREA[0] + uniform[..., 0] * (ERASED_AREA[1] - ERASED_AREA[0]))
    low, high = math.log(ERASED_ASPECT[0]), math.log(ERASED_ASPECT[1])
    aspect = torch.exp(low + uniform[..., 1] * (high - low))
    heights, widths = torch.round(torch.sqrt(area * aspect)).long(), torch.round(torch.sqrt(area / aspect)).long()
    fits = (heights < size[0]) & (widths < size[1])
    first = fits.long().argmax(dim=1, keepdim=True)
    height, width = heights.gather(1, first)[:, 0], widths.gather(1, first)[:, 0]
    place = uniform.gather(1, first[..., None].expand(-1, -1, 4))[:, 0]
    erase = erase & fits.any(dim=1)
    height, width = height * erase, width * erase
    top = (place[:, 2] * (size[0] - height + 1)).long()
    left = (place[:, 3] * (size[1] - width + 1)).long()
    return top, left, height, width


def augment(pixels: Tensor, images: Tensor, draw: Draw, crop_size: tuple[int, int], normalize: Normalization) -> Tensor:
    """Cut a batch out of the resident images: crop, mirror, normalize, erase.

    Erased pixels become 0, the mean after normalization. On a CPU the images are cut one by one, on any other device
    all at once; both give the same bits.

    Parameters
    ----------
    pixels : uint8 [N, H, W, 3], on the device
    images : int64 [B], on the device
    draw : on the device

    Returns
    -------
    float32 [B, 3, h, w] in channels-last memory order
    """
    cut = augment_by_slices if pixels.device.type == "cpu" else augment_by_gathers
    return cut(pixels, images, draw, crop_size, normalize).permute(0, 3, 1, 2)


def augment_by_slices(
    pixels: Tensor, images: Tensor, draw: Draw, crop_size: tuple[int, int], normalize: Normalization
) -> Tensor:
    """One image after the other, float32 [B, h, w, 3]: copies of whole rows, on a CPU far cheaper than gathers."""
    height, width = crop_size
    cuts = torch.empty(len(images), height, width, 3, dtype=torch.uint8)
    corners = zip(images.tolist(), draw.top.tolist(), draw.left.tolist(), draw.flip.tolist(), strict=True)
    for cut, (image, top, left, flip) in zip(cuts, corners, strict=True):
        crop = pixels[image, top : top + height, left : left + width]
        cut.copy_(crop.flip(1) if flip else crop)
    batch = _normalize(cuts, normalize)
    boxes = torch.stack([draw.erase_top, draw.erase_left, draw.erase_height, draw.erase_width], dim=1)
    for cut, (top, left, box_height, box_width) in zip(batch, boxes.tolist(), strict=True):
        cut[top : top + box_height, left : left + box_width] = 0
    return batch


def augment_by_gathers(
    pixels: Tensor, images: Tensor, draw: Draw, crop_size: tuple[int, int], normalize: Normalization
) -> Tensor:
    """All images at once, float32 [B, h, w, 3]: a few kernels, whatever the batch."""
    height, width = crop_size
    row = torch.arange(height, device=pixels.device)
    column = torch.arange(width, device=pixels.device)
    columns = torch.where(draw.flip[:, None], width - 1 - column, column) + draw.left[:, None]
    rows = row + draw.top[:, None]
    batch = pixels[images[:, None, None], rows[:, :, None], columns[:, None, :]].float()
    inside_rows = (row >= draw.erase_top[:, None]) & (row < (draw.erase_top + draw.erase_height)[:, None])
    inside_columns = (column >= draw.erase_left[:, None]) & (column < (draw.erase_left + draw.erase_width)[:, None])
    erased = inside_rows[:, :, None] & inside_columns[:, None, :]
    return _normalize_in_place(batch, normalize).masked_fill_(erased[..., None], 0)


def to_input(batch: Tensor, image: Image) -> Tensor:
    """Images without augmentation: resized uint8 [B, H, W, 3] to normalized float32 [B, 3, h, w], channels last."""
    if image.test == "center-crop":
        top, left = (batch.shape[1] - image.height) // 2, (batch.shape[2] - image.width) // 2
        batch = batch[:, top : top + image.height, left : left + image.width]
    return _normalize(batch, image.normalization).permute(0, 3, 1, 2)


def _normalize(batch: Tensor, normalize: Normalization) -> Tensor:
    return _normalize_in_place(batch.float(), normalize)


def _normalize_in_place(batch: Tensor, normalize: Normalization) -> Tensor:
    """`(x / 255 - mean) / deviation` of contiguous float32 [..., W, 3], whole rows at a time."""
    scale, shift = _scale_and_shift(normalize, batch.shape[-2], batch.device)
    batch.view(*batch.shape[:-2], 3 * batch.shape[-2]).mul_(scale).add_(shift)
    return batch


@lru_cache
def _scale_and_shift(normalize: Normalization, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The normalization as one multiplication and one addition of a row, float32 [3 * width] each, on the device."""
    mean, deviation = (torch.tensor(values, dtype=torch.float64) for values in NORMALIZATION[normalize])
    scale, shift = (1 / (255 * deviation)).float(), (-mean / deviation).float()
    return scale.repeat(width).to(device), shift.repeat(width).to(device)
