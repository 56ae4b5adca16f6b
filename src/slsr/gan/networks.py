"""Deep convolutional GAN (Radford, Metz and Chintala, ICLR 2016) with 5x5 kernels, as in the paper's section 4.1."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import conv_transpose2d, pad

from slsr.errors import InputError
from slsr.images.decoding import Pixels
from slsr.models.checkpoint import load_checkpoint, save_checkpoint
from slsr.params.gan import DiscriminatorActivation, DiscriminatorBatchNorm, Upsampling

# A generator always draws this many images at a time: the last bits of a convolution depend on its batch size.
SAMPLING_BATCH = 64


@dataclass(frozen=True)
class GeneratorDescription:
    """All that is needed to rebuild a generator: the size of its images and noise, its width, clusters and upsampling.

    `clusters` is 0 if the generator is not conditional.
    """

    height: int
    width: int
    latent: int
    channels: int
    clusters: int = 0
    upsampling: Upsampling = "transposed"


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


class ConditionalBatchNorm(nn.BatchNorm2d):
    """Batch norm with a scale and a shift for each cluster (Dumoulin et al., ICLR 2017; de Vries et al., 2017).

    Mean and variance are over the whole batch, over all its clusters.
    """

    def __init__(self, channels: int, clusters: int) -> None:
        super().__init__(channels, affine=False)
        self.scale = nn.Embedding(clusters, channels)
        self.shift = nn.Embedding(clusters, channels)

    def forward(self, maps: Tensor, clusters: Tensor | None = None) -> Tensor:
        """Normalize [B, C, H, W], with the scale and shift of the clusters, int64 [B].

        Raises
        ------
        ValueError
            No clusters are given.
        """
        if clusters is None:
            raise ValueError("a generator of several clusters needs the cluster of each image")
        normalized: Tensor = super().forward(maps)
        scale, shift = (table(clusters)[:, :, None, None] for table in (self.scale, self.shift))
        shifted: Tensor = scale * normalized + shift
        return shifted


class Generator(nn.Module):
    """Turns noise into images: a linear layer to height/16 x width/16, then four layers that double height and width.

    They are 5x5 stride-2 transposed convolutions, or `NearestConvolution` if `upsampling` is `nearest`. With 64
    channels and 128x128 images the maps are 8x8x512, 16x16x256, 32x32x128, 64x64x64 and 128x128x3. Batch norm and ReLU
    follow each layer but the last, which has tanh. With `clusters` in the description every batch norm is
    conditional: a cluster has only four vectors of scales and four of shifts of its own.
    """

    def __init__(self, description: GeneratorDescription) -> None:
        super().__init__()
        self.description = description
        channels, start = description.channels, (description.height // 16, description.width // 16)
        self.start = nn.Sequential(
            nn.Linear(description.latent, 8 * channels * start[0] * start[1], bias=False),
            nn.Unflatten(1, (8 * channels, *start)),
        )
        widths = [8 * channels, 4 * channels, 2 * channels, channels]
        self.layers = nn.Sequential(
            *[
                nn.Sequential(
                    _batch_norm(width, description.clusters),
                    nn.ReLU(inplace=True),
                    _double(width, after, after == 3, description.upsampling),
                )
                for width, after in zip(widths, [*widths[1:], 3], strict=True)
            ],
            nn.Tanh(),
        )

    def forward(self, noise: Tensor, clusters: Tensor | None = None) -> Tensor:
        """Turn [B, latent], and int64 [B] if the generator has clusters, into [B, 3, height, width] in (-1, 1)."""
        maps: Tensor = self.start(noise)
        for layer in self.layers:
            if isinstance(layer, nn.Sequential) and isinstance(layer[0], ConditionalBatchNorm):
                maps = layer[2](layer[1](layer[0](maps, clusters)))
            else:
                maps = layer(maps)
        return maps


def _batch_norm(channels: int, clusters: int) -> nn.Module:
    return ConditionalBatchNorm(channels, clusters) if clusters else nn.BatchNorm2d(channels)


def _double(inputs: int, outputs: int, bias: bool, upsampling: Upsampling) -> nn.Module:
    """Return a layer that doubles height and width; it has no bias before batch norm, which would remove it."""
    if upsampling == "nearest":
        return NearestConvolution(inputs, outputs, bias)
    return nn.ConvTranspose2d(inputs, outputs, 5, stride=2, padding=2, output_padding=1, bias=bias)


class Discriminator(nn.Module):
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

    def forward(self, images: Tensor, clusters: Tensor | None = None) -> Tensor:
        """Turn [B, 3, height, width] in [-1, 1], and int64 [B] if it has clusters, into logits, [B].

        Raises
        ------
        ValueError
            It has clusters, but none are given.
        """
        maps = self.layers(images)
        logits: Tensor = self.judge(maps).squeeze(1)
        if self.projection is None:
            return logits
        if clusters is None:
            raise ValueError("a discriminator of several clusters needs the cluster of each image")
        projected: Tensor = (self.projection(clusters) * maps.sum(dim=(2, 3))).sum(dim=1)
        return logits + projected


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
    if isinstance(network, Discriminator) and network.projection is not None:
        nn.init.normal_(network.projection.weight, 0.0, 0.02, generator=randomness)


def bound_layers(discriminator: Discriminator, seed: int) -> None:
    """Divide each layer's weight by its spectral norm, in place (Miyato et al., ICLR 2018)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in list(discriminator.modules()):
            if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding):
                nn.utils.parametrizations.spectral_norm(module)


@torch.no_grad()
def measure_batch_norm(generator: Generator, noise: Tensor, batch_size: int, clusters: Tensor | None = None) -> None:
    """Set the batch norms' mean and variance to their averages over batches of noise, and switch to evaluation mode.

    `clusters`, int64 [N], is given for a conditional generator.

    The running averages that training leaves mix the statistics of many past weights, and an averaged generator has no
    statistics of its own. The statistics measured here fit the weights as they are, so that evaluation draws what
    training saw.
    """
    norms = [module for module in generator.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    generator.train()
    for start in range(0, len(noise) - batch_size + 1, batch_size):
        rows = slice(start, start + batch_size)
        generator(noise[rows], None if clusters is None else clusters[rows])
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    generator.eval()


def draw_noise(seed: tuple[int, ...], count: int, latent: int) -> Tensor:
    """Draw uniform noise on [-1, 1), float32 [count, latent] on the CPU; row i depends on the seed and i alone."""
    stream = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
    return torch.from_numpy(stream.uniform(-1.0, 1.0, (count, latent)).astype(np.float32))


def draw_images(generator: Generator, noise: Tensor, cluster: int | None = None) -> Pixels:
    """Draw images, uint8 [N, H, W, 3], from a generator in evaluation mode; each depends on its row of noise alone.

    `cluster` is given for a conditional generator.
    """
    batches = list(iterate_images(generator, noise, cluster))
    size = (0, generator.description.height, generator.description.width, 3)
    return np.concatenate(batches) if batches else np.empty(size, np.uint8)


@torch.inference_mode()
def iterate_images(generator: Generator, noise: Tensor, cluster: int | None = None) -> Iterator[Pixels]:
    """Yield the same images, `SAMPLING_BATCH` at a time; the last batch is filled up, so its size changes nothing."""
    device = next(generator.parameters()).device
    clusters = None if cluster is None else torch.full((SAMPLING_BATCH,), cluster, device=device)
    for batch in noise.split(SAMPLING_BATCH):
        padded = torch.cat([batch, batch.new_zeros(SAMPLING_BATCH - len(batch), noise.shape[1])])
        yield to_pixels(generator(padded.to(device), clusters))[: len(batch)]


def to_pixels(images: Tensor) -> Pixels:
    """Turn float [N, 3, H, W] in [-1, 1] into uint8 [N, H, W, 3]."""
    scaled = ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    pixels: NDArray[np.uint8] = scaled.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return pixels


def to_images(pixels: Tensor) -> Tensor:
    """Turn uint8 [N, H, W, 3] into float32 [N, 3, H, W] in [-1, 1], on the same device."""
    return pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def save_generator(path: Path, generator: Generator, extra: Mapping[str, Any]) -> None:
    """Write a generator with its description and `extra` information as safetensors."""
    description = asdict(generator.description) | {"kind": "dcgan", "extra": dict(extra)}
    save_checkpoint(path, generator.state_dict(), description)


def load_generator(path: Path) -> Generator:
    """Read a generator, on the CPU and in evaluation mode.

    Raises
    ------
    InputError
        The file is missing, unreadable, or not a generator.
    """
    tensors, description = load_checkpoint(path)
    if description.pop("kind", None) != "dcgan":
        raise InputError(f"{path}: a model, but not a generator; make it again with `dvc repro`")
    description.pop("extra", None)
    generator = Generator(GeneratorDescription(**description))
    try:
        generator.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(f"{path}: its tensors do not fit its description; make it again with `dvc repro`") from error
    return generator.eval()
