"""Deep convolutional GAN (Radford, Metz and Chintala, ICLR 2016) with 5x5 kernels, as in the paper's section 4.1."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import conv_transpose2d, pad

from slsr.gan.discriminator import Discriminator
from slsr.gan.generator import ConditionalBatchNorm, Generator, GeneratorDescription, batch_norm
from slsr.params.gan import DiscriminatorActivation, DiscriminatorBatchNorm, Upsampling


class NearestConvolution(nn.Conv2d):
    """A 3x3 convolution of maps doubled by repeating each value (Odena, Dumoulin and Olah, Distill 2016).

    A transposed convolution with stride 2 and an odd kernel writes to some pixels more often than to their neighbors,
    which shows as a checkerboard; here every pixel is written to equally often. The repeated maps are never made:
    repeating and convolving is one transposed convolution with a 4x4 kernel, the sum of the 3x3 kernel at its four
    places, with 4/9 of the products.
    """

    def __init__(self, inputs: int, outputs: int, bias: bool) -> None:
        super().__init__(inputs, outputs, 3, padding=1, bias=bias)

    def forward(self, maps: Tensor) -> Tensor:
        """Turn [B, C, H, W] into [B, C', 2 H, 2 W]."""
        kernel = self.weight.transpose(0, 1).flip(2, 3)
        places = [pad(kernel, (right, 1 - right, down, 1 - down)) for down in (0, 1) for right in (0, 1)]
        doubled: Tensor = conv_transpose2d(maps, torch.stack(places).sum(dim=0), self.bias, stride=2, padding=1)
        return doubled


class DcganGenerator(Generator):
    """Turns noise into images: a linear layer to height/16 x width/16, then four layers that double height and width.

    They are 5x5 stride-2 transposed convolutions, or `NearestConvolution` if `upsampling` is `nearest`. With 64
    channels and 128x128 images the maps are 8x8x512, 16x16x256, 32x32x128, 64x64x64 and 128x128x3. Batch norm and ReLU
    follow each layer but the last, which has tanh. With `clusters` in the description every batch norm is
    conditional: a cluster has only four vectors of scales and four of shifts of its own.
    """

    def __init__(self, description: GeneratorDescription) -> None:
        super().__init__(description)
        channels, start = description.channels, (description.height // 16, description.width // 16)
        self.start = nn.Sequential(
            nn.Linear(description.latent, 8 * channels * start[0] * start[1], bias=False),
            nn.Unflatten(1, (8 * channels, *start)),
        )
        widths = [8 * channels, 4 * channels, 2 * channels, channels]
        self.layers = nn.Sequential(
            *[
                nn.Sequential(
                    batch_norm(width, description.told),
                    nn.ReLU(inplace=True),
                    _double(width, after, after == 3, description.upsampling),
                )
                for width, after in zip(widths, [*widths[1:], 3], strict=True)
            ],
            nn.Tanh(),
        )

    def draw(self, noise: Tensor, clusters: Tensor | None = None) -> Tensor:
        """Turn [B, latent], and int64 [B] if the generator has clusters, into [B, 3, height, width] in (-1, 1)."""
        maps: Tensor = self.start(noise)
        for layer in self.layers:
            if isinstance(layer, nn.Sequential) and isinstance(layer[0], ConditionalBatchNorm):
                maps = layer[2](layer[1](layer[0](maps, clusters)))
            else:
                maps = layer(maps)
        return maps


def _double(inputs: int, outputs: int, bias: bool, upsampling: Upsampling) -> nn.Module:
    """Return a layer that doubles height and width; it has no bias before batch norm, which would remove it."""
    if upsampling == "nearest":
        return NearestConvolution(inputs, outputs, bias)
    return nn.ConvTranspose2d(inputs, outputs, 5, stride=2, padding=2, output_padding=1, bias=bias)


class PixelDiscriminator(Discriminator):
    """Turns images into logits of being real: four 5x5 stride-2 convolutions (c, 2c, 4c, 8c channels), a linear layer.

    Parameters
    ----------
    height, width : of the images, multiples of 16
    channels : c
    activation : `leaky-relu` (slope 0.2, the DCGAN publication's advice) or `relu` (the paper's text)
    batch_norm : `all-but-first` (the DCGAN publication's advice), `all` (the paper's text) or `none`
    clusters : 0, or the number of clusters: then the logit says whether an image is a real one of its cluster, by a
        projection (Miyato and Koyama, ICLR 2018), which adds the scalar product of the last maps, summed over
        positions, with the cluster's vector
    """

    def __init__(
        self,
        height: int,
        width: int,
        channels: int,
        activation: DiscriminatorActivation = "leaky-relu",
        batch_norm: DiscriminatorBatchNorm = "all-but-first",
        clusters: int = 0,
    ) -> None:
        super().__init__()
        widths = [3, channels, 2 * channels, 4 * channels, 8 * channels]
        layers: list[nn.Module] = []
        for number, (inputs, outputs) in enumerate(pairwise(widths)):
            normed = batch_norm == "all" or (batch_norm == "all-but-first" and number > 0)
            layers.append(nn.Conv2d(inputs, outputs, 5, stride=2, padding=2, bias=not normed))
            layers += [nn.BatchNorm2d(outputs)] if normed else []
            layers.append(nn.ReLU(inplace=True) if activation == "relu" else nn.LeakyReLU(0.2, inplace=True))
        self.layers = nn.Sequential(*layers)
        self.judge = nn.Sequential(nn.Flatten(), nn.Linear(8 * channels * height * width // 256, 1))
        self.projection = nn.Embedding(clusters, 8 * channels) if clusters else None

    def forward(self, views: Sequence[Tensor], clusters: Tensor | None = None) -> list[Tensor]:
        """Turn one view, [B, 3, height, width] in [-1, 1], and int64 [B] if it has clusters, into logits, [B].

        Raises
        ------
        ValueError
            It has clusters, but none are given.
        """
        maps = self.layers(views[0])
        logits: Tensor = self.judge(maps).squeeze(1)
        if self.projection is None:
            return [logits]
        if clusters is None:
            raise ValueError("a discriminator of several clusters needs the cluster of each image")
        return [logits + (self.projection(clusters) * maps.sum(dim=(2, 3))).sum(dim=1)]


def initialize(network: nn.Module, randomness: torch.Generator) -> None:
    """Draw weights as the DCGAN publication does: normal with deviation 0.02 (around 1 for batch norm), biases 0."""
    for module in network.modules():
        if isinstance(module, ConditionalBatchNorm):
            nn.init.normal_(module.scale.weight, 1.0, 0.02, generator=randomness)
            nn.init.zeros_(module.shift.weight)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02, generator=randomness)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.02, generator=randomness)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    if isinstance(network, PixelDiscriminator) and network.projection is not None:
        nn.init.normal_(network.projection.weight, 0.0, 0.02, generator=randomness)


def bound_layers(discriminator: nn.Module, seed: int) -> None:
    """Divide each layer's weight by its spectral norm, in place (Miyato et al., ICLR 2018)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in list(discriminator.modules()):
            if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding):
                nn.utils.parametrizations.spectral_norm(module)
