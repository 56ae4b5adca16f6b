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

from slsr.images.jitter import draw_factors, jitter_in_place
from slsr.params.recipe import Image, Normalization
from slsr.runtime.devices import to_device

# Mean and deviation of each channel, for images scaled to 0..1; `clip` is OpenAI's CLIP, `dpn` are dual path networks.
# All pretrained networks of timm 1.0 use one of these, except three for satellite images.
NORMALIZATION: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "symmetric": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "unit": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "dpn": ((124 / 255, 117 / 255, 104 / 255), (1 / (0.0167 * 255), 1 / (0.0167 * 255), 1 / (0.0167 * 255))),
}
# The color of erased pixels after normalization: the mean, which for [0, 1] is ImageNet's.
ERASED_COLOR = dict.fromkeys(NORMALIZATION, (0.0, 0.0, 0.0)) | {"unit": NORMALIZATION["imagenet"][0]}

ERASED_AREA = (0.02, 0.4)
ERASED_ASPECT = (0.3, 3.3)
ERASING_ATTEMPTS = 10


@dataclass(frozen=True)
class Draw:
    """The random choices for a batch of B images.

    Attributes
    ----------
    top, left : int64 [B], the crop's first row and column in the image; negative if the crop starts in the padding
    flip : bool [B]
    erase_top, erase_left, erase_height, erase_width : int64 [B], in pixels of the crop
    color_factors : float32 [B, 3], of brightness, contrast and saturation, or None for no color jitter
    """

    top: Tensor
    left: Tensor
    flip: Tensor
    erase_top: Tensor
    erase_left: Tensor
    erase_height: Tensor
    erase_width: Tensor
    color_factors: Tensor | None = None

    def rows(self, rows: slice) -> Draw:
        """Select the choices for some of the images."""
        return Draw(**{name: value[rows] for name, value in vars(self).items() if value is not None})

    def to(self, device: torch.device) -> Draw:
        """Copy the choices to a device without waiting for it, in one copy, and a second one for color factors."""
        if device.type == "cpu":
            return self
        whole = {name: value for name, value in vars(self).items() if name != "color_factors"}
        packed = to_device(torch.stack([value.long() for value in whole.values()]), device)
        values = dict(zip(whole, packed, strict=True))
        factors = None if self.color_factors is None else to_device(self.color_factors, device)
        return Draw(**(values | {"flip": values["flip"].bool()}), color_factors=factors)


def draw_augmentation(
    count: int,
    image_size: tuple[int, int],
    crop_size: tuple[int, int],
    generator: torch.Generator,
    random_crop: bool = True,
    horizontal_flip: bool = True,
    random_erasing: float = 0.0,
    padding: int = 0,
    color_jitter: float = 0.0,
) -> Draw:
    """Draw the augmentation of `count` images, each independently of the others.

    The distributions are those of torchvision's `RandomCrop`, `RandomHorizontalFlip(0.5)` and `RandomErasing(p, (0.02,
    0.4), (0.3, 3.3))` (Zhong et al., AAAI 2020): crop offsets and erased area are uniform, the aspect ratio is
    log-uniform, and the first of ten attempts that fits is taken. With padding, the crop is taken from the image with
    black borders, as in the strong baseline of Luo et al. (CVPR Workshops 2019), who pad 10 pixels. Color jitter has
    the factors of torchvision's `ColorJitter(s, s, s)`, applied in the fixed order brightness, contrast, saturation.

    Parameters
    ----------
    image_size, crop_size : (height, width) in pixels
    random_crop : False takes the center
    random_erasing : probability
    padding : pixels, at least 0, on each side
    color_jitter : strength s of brightness, contrast and saturation, 0 <= s < 1; 0 draws nothing
    """
    slack = (image_size[0] - crop_size[0], image_size[1] - crop_size[1])
    uniform = torch.rand(count, 4, generator=generator, dtype=torch.float64)
    top, left = (
        (uniform[:, axis] * (slack[axis] + 2 * padding + 1)).long() - padding
        if random_crop
        else torch.full((count,), slack[axis] // 2)
        for axis in range(2)
    )
    flip = (uniform[:, 2] < 0.5) & horizontal_flip
    erase = uniform[:, 3] < random_erasing
    boxes = _draw_erased_boxes(count, crop_size, erase, generator)
    return Draw(top, left, flip, *boxes, draw_factors(count, color_jitter, generator) if color_jitter > 0 else None)


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
    """Cut a batch out of the images in memory: pad, crop, mirror, change the colors, normalize, erase.

    Padding is black before the colors change, as torchvision pads. Erased pixels become the mean, which is 0 after
    normalization, or ImageNet's mean for `unit`. A CPU cuts the images one by one, other devices cut all together; both
    give the same bits, except for the rounding of color jitter.

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
    cuts = torch.empty(len(images), *crop_size, 3, dtype=torch.uint8)
    corners = zip(images.tolist(), draw.top.tolist(), draw.left.tolist(), draw.flip.tolist(), strict=True)
    for cut, (image, top, left, flip) in zip(cuts, corners, strict=True):
        _cut(pixels[image], cut, top, left, flip)
    batch, color = _jitter_and_normalize(cuts, draw, normalize), _erased_color(normalize, cuts.device)
    boxes = torch.stack([draw.erase_top, draw.erase_left, draw.erase_height, draw.erase_width], dim=1)
    for cut, (top, left, box_height, box_width) in zip(batch, boxes.tolist(), strict=True):
        cut[top : top + box_height, left : left + box_width] = color
    return batch


def _cut(image: Tensor, cut: Tensor, top: int, left: int, flip: bool) -> None:
    """Copy the crop that starts at (top, left), mirrored or not; where it leaves the image, the cut becomes black."""
    height, width = cut.shape[:2]
    crop = image[max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)]
    if flip:
        crop = crop.flip(1)
    if crop.shape != cut.shape:
        cut.zero_()
        start = max(left + width - image.shape[1], 0) if flip else max(-left, 0)
        cut = cut[max(-top, 0) :, start:][: crop.shape[0], : crop.shape[1]]
    cut.copy_(crop)


def augment_by_gathers(
    pixels: Tensor, images: Tensor, draw: Draw, crop_size: tuple[int, int], normalize: Normalization
) -> Tensor:
    """Cut all images together, float32 [B, h, w, 3], with the same few kernels for any batch size."""
    height, width = crop_size
    row = torch.arange(height, device=pixels.device)
    column = torch.arange(width, device=pixels.device)
    columns = torch.where(draw.flip[:, None], width - 1 - column, column) + draw.left[:, None]
    rows = row + draw.top[:, None]
    near_rows, near_columns = rows.clamp(0, pixels.shape[1] - 1), columns.clamp(0, pixels.shape[2] - 1)
    inside = (rows == near_rows)[:, :, None] & (columns == near_columns)[:, None, :]
    cuts = pixels[images[:, None, None], near_rows[:, :, None], near_columns[:, None, :]] * inside[..., None]
    erased_rows = (row >= draw.erase_top[:, None]) & (row < (draw.erase_top + draw.erase_height)[:, None])
    erased_columns = (column >= draw.erase_left[:, None]) & (column < (draw.erase_left + draw.erase_width)[:, None])
    erased = erased_rows[:, :, None] & erased_columns[:, None, :]
    color = _erased_color(normalize, pixels.device)
    return torch.where(erased[..., None], color, _jitter_and_normalize(cuts, draw, normalize))


def _jitter_and_normalize(cuts: Tensor, draw: Draw, normalize: Normalization) -> Tensor:
    """Change the colors as drawn, and normalize: uint8 [B, h, w, 3] to float32."""
    batch = cuts.float()
    if draw.color_factors is not None:
        jitter_in_place(batch, draw.color_factors)
    return _normalize_in_place(batch, normalize)


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
