"""Augmentation of a whole batch, on the device that holds the images.

A training set is decoded once into uint8 [N, H, W, 3]. A batch is cut out of it, so that cropping, mirroring and the
change of type need one pass. Random numbers are drawn on the CPU for the whole batch, so that they do not depend on the
device or on how the batch is split.
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
# The color of erased pixels after normalization: the mean, which for [0, 1] is ImageNet's.
ERASED_COLOR = {"imagenet": (0.0, 0.0, 0.0), "symmetric": (0.0, 0.0, 0.0), "unit": NORMALIZATION["imagenet"][0]}

ERASED_AREA = (0.02, 0.4)
ERASED_ASPECT = (0.3, 3.3)
ERASING_ATTEMPTS = 10


@dataclass(frozen=True)
class Draw:
    """The random choices for a batch of B images: int64 or bool [B] each, in pixels of the crop."""

    top: Tensor
    left: Tensor
    flip: Tensor
    erase_top: Tensor
    erase_left: Tensor
    erase_height: Tensor
    erase_width: Tensor

    def rows(self, rows: slice) -> Draw:
        """Select the choices for some of the images."""
        return Draw(**{name: value[rows] for name, value in vars(self).items()})

    def to(self, device: torch.device) -> Draw:
        """Copy the choices to a device, all in one copy, without waiting for it."""
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

    The distributions are those of torchvision's `RandomCrop`, `RandomHorizontalFlip(0.5)` and `RandomErasing(p, (0.02,
    0.4), (0.3, 3.3))` (Zhong et al., AAAI 2020): crop offsets and erased area are uniform, the aspect ratio is
    log-uniform, and the first of ten attempts that fits is taken.

    Parameters
    ----------
    image_size, crop_size : (height, width) in pixels
    random_crop : False takes the center
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
    """Draw top, left, height and width of the erased box, [count] each; the height is 0 if nothing is erased."""
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
    """Cut a batch out of the images in memory: crop, mirror, normalize, erase.

    Erased pixels become the mean, which is 0 after normalization, or ImageNet's mean for `unit`. A CPU cuts the images
    one by one, other devices cut all together; both give the same bits.

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
    """Cut one image after the other, float32 [B, h, w, 3]: on a CPU, copies of rows are much cheaper than gathers."""
    height, width = crop_size
    cuts = torch.empty(len(images), height, width, 3, dtype=torch.uint8)
    corners = zip(images.tolist(), draw.top.tolist(), draw.left.tolist(), draw.flip.tolist(), strict=True)
    for cut, (image, top, left, flip) in zip(cuts, corners, strict=True):
        crop = pixels[image, top : top + height, left : left + width]
        cut.copy_(crop.flip(1) if flip else crop)
    batch, color = _normalize(cuts, normalize), _erased_color(normalize, cuts.device)
    boxes = torch.stack([draw.erase_top, draw.erase_left, draw.erase_height, draw.erase_width], dim=1)
    for cut, (top, left, box_height, box_width) in zip(batch, boxes.tolist(), strict=True):
        cut[top : top + box_height, left : left + box_width] = color
    return batch


def augment_by_gathers(
    pixels: Tensor, images: Tensor, draw: Draw, crop_size: tuple[int, int], normalize: Normalization
) -> Tensor:
    """Cut all images together, float32 [B, h, w, 3], with the same few kernels for any batch size."""
    height, width = crop_size
    row = torch.arange(height, device=pixels.device)
    column = torch.arange(width, device=pixels.device)
    columns = torch.where(draw.flip[:, None], width - 1 - column, column) + draw.left[:, None]
    rows = row + draw.top[:, None]
    batch = pixels[images[:, None, None], rows[:, :, None], columns[:, None, :]].float()
    inside_rows = (row >= draw.erase_top[:, None]) & (row < (draw.erase_top + draw.erase_height)[:, None])
    inside_columns = (column >= draw.erase_left[:, None]) & (column < (draw.erase_left + draw.erase_width)[:, None])
    erased = inside_rows[:, :, None] & inside_columns[:, None, :]
    color = _erased_color(normalize, pixels.device)
    return torch.where(erased[..., None], color, _normalize_in_place(batch, normalize))


def to_input(batch: Tensor, image: Image) -> Tensor:
    """Normalize images without augmentation: resized uint8 [B, H, W, 3] to float32 [B, 3, h, w], channels last."""
    if image.test == "center-crop":
        top, left = (batch.shape[1] - image.height) // 2, (batch.shape[2] - image.width) // 2
        batch = batch[:, top : top + image.height, left : left + image.width]
    return _normalize(batch, image.normalization).permute(0, 3, 1, 2)


def _normalize(batch: Tensor, normalize: Normalization) -> Tensor:
    return _normalize_in_place(batch.float(), normalize)


def _normalize_in_place(batch: Tensor, normalize: Normalization) -> Tensor:
    """Compute `(x / 255 - mean) / deviation` of contiguous float32 [..., W, 3], in whole rows."""
    scale, shift = _scale_and_shift(normalize, batch.shape[-2], batch.device)
    batch.view(*batch.shape[:-2], 3 * batch.shape[-2]).mul_(scale).add_(shift)
    return batch


@lru_cache
def _erased_color(normalize: Normalization, device: torch.device) -> Tensor:
    """Return the color of erased pixels after normalization, float32 [3], on the device."""
    return torch.tensor(ERASED_COLOR[normalize], dtype=torch.float32).to(device)


@lru_cache
def _scale_and_shift(normalize: Normalization, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the normalization as a factor and a summand for a row, float32 [3 * width] each, on the device."""
    mean, deviation = (torch.tensor(values, dtype=torch.float64) for values in NORMALIZATION[normalize])
    scale, shift = (1 / (255 * deviation)).float(), (-mean / deviation).float()
    return scale.repeat(width).to(device), shift.repeat(width).to(device)
