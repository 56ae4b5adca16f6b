"""A discriminator of frozen features (Sauer et al., "Projected GANs Converge Faster", NeurIPS 2021).

It sees the maps of a network with ImageNet weights at four scales. Random convolutions, which are never trained, mix
the channels of each map, and carry coarse maps into fine ones. A small discriminator judges each result.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate

from slsr.gan.discriminator import Discriminator
from slsr.models.imagenet import DEFAULT_NETWORK, imagenet_network

# The maps of EfficientNet-Lite0: how many times smaller than the image they are, and their channels.
MAP_STRIDES, MAP_WIDTHS = (4, 8, 16, 32), (24, 40, 112, 320)
SMALLEST_MAP = 4  # a discriminator halves its maps until they are at most this high
SMALLEST_VARIANCE = 1e-6


def resized(maps: Tensor, height: int, width: int) -> Tensor:
    """Resize maps [B, C, H, W] bilinearly, by two products with matrices.

    The gradient of torch's own bilinear resizing is not deterministic on a GPU.
    """
    if maps.shape[2:] == (height, width):
        return maps
    down, right = (
        _weights(old, new, maps.device, maps.dtype) for old, new in zip(maps.shape[2:], (height, width), strict=True)
    )
    return down @ maps @ right.mT


@cache
def _weights(old: int, new: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return the weights of old positions in new ones, [new, old]."""
    return interpolate(torch.eye(old)[None], size=new, mode="linear")[0].mT.contiguous().to(device, dtype)


class Projection(nn.Module):
    """Mixes the maps of the frozen network, by random weights that are buffers: saved, and never trained.

    From the coarsest map to the finest: divide by the deviation that the map has in real images, mix the channels
    (1x1), add the coarser result, mix the neighborhood (3x3).

    Parameters
    ----------
    widths : channels of the maps, the finest first
    channels : of the mixed maps
    """

    def __init__(self, widths: Sequence[int], channels: int) -> None:
        super().__init__()
        self.register_buffer("deviations", torch.ones(len(widths)))
        for number, width in enumerate(widths):
            self.register_buffer(f"across_{number}", torch.randn(channels, width, 1, 1) / width**0.5)
            self.register_buffer(f"around_{number}", torch.randn(channels, channels, 3, 3) / (9 * channels) ** 0.5)

    def measure(self, maps: Sequence[Tensor]) -> None:
        """Take the deviations from the maps of real images."""
        self.get_buffer("deviations").copy_(torch.stack([each.float().std() for each in maps]))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Mix maps [B, c, h, w], the finest first, into maps [B, channels, h, w]."""
        mixed: list[Tensor] = []
        for number in reversed(range(len(maps))):
            scaled = maps[number] / self.get_buffer("deviations")[number]
            found = conv2d(scaled, self.get_buffer(f"across_{number}"))
            if mixed:
                found = (found + resized(mixed[-1], found.shape[2], found.shape[3])) / 2**0.5
            mixed.append(conv2d(found, self.get_buffer(f"around_{number}"), padding=1))
        return mixed[::-1]


class FeatureDiscriminator(Discriminator):
    """Judges the projected maps of images, and perhaps the images themselves, each by a network of its own.

    The layers of these networks are bounded by their spectral norm (Miyato et al., ICLR 2018), as published.

    Parameters
    ----------
    height, width : of the images
    channels : of the projected maps, and of the layers
    enlargement : how many times higher and wider the images are made for the frozen network
    pixel_weight : of the judgment of the images in the losses, beside 1 for each map; 0: they are not judged
    clusters : 0, or the number of clusters
    """

    def __init__(
        self, height: int, width: int, channels: int, enlargement: int, pixel_weight: float, clusters: int
    ) -> None:
        super().__init__()
        self.size = (height * enlargement, width * enlargement)
        self.projection = Projection(MAP_WIDTHS, channels)
        sizes = [tuple(-(-side // stride) for side in self.size) for stride in MAP_STRIDES]
        judges = [MapDiscriminator(channels, channels, (rows, columns), clusters) for rows, columns in sizes]
        self.weights = [1.0] * len(judges)
        if pixel_weight:
            judges.append(MapDiscriminator(3, channels, (height, width), clusters))
            self.weights.append(pixel_weight)
        self.judges = nn.ModuleList(judges)
        for module in list(self.judges.modules()):
            if isinstance(module, nn.Conv2d | nn.Embedding):
                nn.utils.parametrizations.spectral_norm(module)

    def measure(self, images: Tensor) -> None:
        """Measure the deviations of the maps on real images, [N, 3, H, W]."""
        self.projection.measure(self._maps(images))

    def _maps(self, images: Tensor) -> list[Tensor]:
        return imagenet_network(DEFAULT_NETWORK, images.device).maps(resized(images.float(), *self.size))

    def views(self, images: Tensor) -> list[Tensor]:
        """Return the projected maps of images [B, 3, H, W] in [-1, 1], and the images if they are judged too."""
        projected = self.projection(self._maps(images))
        return [*projected, images] if len(self.judges) > len(projected) else projected

    def forward(self, views: Sequence[Tensor], clusters: Tensor | None = None) -> list[Tensor]:
        """Turn views, and int64 [B] if it has clusters, into the logits of each, [B, n]."""
        return [judge(view, clusters) for judge, view in zip(self.judges, views, strict=True)]


class MapDiscriminator(nn.Module):
    """Judges maps: strided 4x4 convolutions to a height of 4, then a 4x2 convolution to logits.

    The last maps get one channel more: the deviation over the batch, averaged over channels and positions, which tells
    a batch of similar images (Karras et al., ICLR 2018).

    Parameters
    ----------
    inputs, channels : of the maps, and of the layers
    size : height and width of the maps
    clusters : 0, or the number of clusters: then a projection (Miyato and Koyama, ICLR 2018) adds the scalar product of
        the last maps' mean with the vector of the cluster
    """

    def __init__(self, inputs: int, channels: int, size: tuple[int, int], clusters: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        height, width = size
        while height > SMALLEST_MAP or not layers:
            halves = height > SMALLEST_MAP
            layers += [nn.Conv2d(inputs, channels, 4, 2, 1) if halves else nn.Conv2d(inputs, channels, 3, 1, 1)]
            layers += [nn.LeakyReLU(0.2)]
            inputs, height, width = channels, *((height // 2, width // 2) if halves else (height, width))
        self.layers = nn.Sequential(*layers)
        self.judge = nn.Conv2d(channels + 1, 1, (min(height, SMALLEST_MAP), min(width, 2)))
        self.projection = nn.Embedding(clusters, channels) if clusters else None

    def forward(self, maps: Tensor, clusters: Tensor | None = None) -> Tensor:
        """Turn maps [B, C, h, w], and int64 [B] if it has clusters, into logits, [B, n].

        Raises
        ------
        ValueError
            It has clusters, but none are given.
        """
        found = self.layers(maps)
        logits: Tensor = self.judge(with_batch_deviation(found)).flatten(1)
        if self.projection is None:
            return logits
        if clusters is None:
            raise ValueError("a discriminator of several clusters needs the cluster of each image")
        own: Tensor = (self.projection(clusters) * found.mean(dim=(2, 3))).sum(dim=1, keepdim=True)
        return logits + own


def with_batch_deviation(maps: Tensor) -> Tensor:
    """Append the mean deviation over the batch as a channel: [B, C, h, w] to [B, C + 1, h, w]."""
    deviation = (maps.float().var(dim=0, correction=0) + SMALLEST_VARIANCE).sqrt().mean().to(maps.dtype)
    return torch.cat([maps, deviation.expand(len(maps), 1, *maps.shape[2:])], dim=1)
