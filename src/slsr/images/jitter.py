"""Color jitter of a whole batch: random brightness, contrast and saturation of each image."""

from __future__ import annotations

import torch
from torch import Tensor

# The weights of red, green and blue in a gray picture: torchvision's, which are those of ITU-R BT.601, rounded.
GRAY = (0.2989, 0.587, 0.114)


def draw_factors(count: int, strength: float, generator: torch.Generator) -> Tensor:
    """Draw the factors of `count` images, each uniform in [1 - strength, 1 + strength] and independent of the others.

    Returns
    -------
    float32 [count, 3]: brightness, contrast, saturation
    """
    uniform = torch.rand(count, 3, generator=generator, dtype=torch.float64)
    return (1 + strength * (2 * uniform - 1)).float()


def jitter_in_place(batch: Tensor, factors: Tensor) -> Tensor:
    """Change brightness, contrast and saturation, in this order, and clamp to 0..255 after each.

    These are torchvision's `adjust_brightness`, `adjust_contrast` and `adjust_saturation` of float images. A factor
    mixes the image with black, with the mean of its gray picture, or with its gray picture: 1 changes nothing.
    torchvision's `ColorJitter` draws the order too; here it is fixed, so that a batch needs the same few kernels for
    any draw. Hue stays as it is, because it changes what identifies a person.

    Parameters
    ----------
    batch : float32 [B, h, w, 3] in 0..255, changed in place
    factors : float32 [B, 3], on the batch's device
    """
    brightness, contrast, saturation = factors[:, :, None, None, None].unbind(1)
    batch.mul_(brightness).clamp_(0, 255)
    mean = _gray(batch).mean(dim=(1, 2), keepdim=True)[..., None]
    batch.mul_(contrast).add_((1 - contrast) * mean).clamp_(0, 255)
    gray = _gray(batch)[..., None].mul_(1 - saturation)
    return batch.mul_(saturation).add_(gray).clamp_(0, 255)


def _gray(batch: Tensor) -> Tensor:
    """Return the gray picture of each image, [B, h, w]; sums and not a product of matrices, which TF32 would round."""
    red, green, blue = batch.unbind(dim=-1)
    return (red * GRAY[0]).add_(green, alpha=GRAY[1]).add_(blue, alpha=GRAY[2])
