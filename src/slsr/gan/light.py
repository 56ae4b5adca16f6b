"""A light generator: the blocks of FastGAN (Liu et al., "Towards Faster and Stabilized GAN Training", ICLR 2021)."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn.functional import glu

from slsr.gan.dcgan import NearestConvolution
from slsr.gan.generator import Generator, GeneratorDescription, batch_norm

LARGEST_START = 4  # the first maps are halved until they are at most this high and wide, or odd
WIDEST = 8  # times `channels`, of the maps of the lowest resolutions
EXCITED = 3  # a map excites the map that is doubled this many times more


class LightGenerator(Generator):
    """Turns noise into images: a linear layer to small maps, such as 4x2, then layers that double height and width.

    Each layer is a nearest-neighbor 3x3 convolution to twice the channels, a batch norm, and a gated linear unit, which
    halves the channels again. The last maps have `channels` channels, those before twice as many, at most 8 times.
    Small maps excite the channels of large ones (skip-layer excitation). A 3x3 convolution and tanh make the image.
    The publication also adds noise to the maps; that is left out, so that an image depends on its row of noise alone.
    With clusters in the description every batch norm is conditional, unless the generator is placed.
    """

    def __init__(self, description: GeneratorDescription) -> None:
        super().__init__(description)
        start, doublings = _start(description.height, description.width)
        widths = [description.channels * min(WIDEST, 2**number) for number in range(doublings, -1, -1)]
        self.start = nn.Sequential(
            nn.Linear(description.latent, 2 * widths[0] * start[0] * start[1], bias=False),
            nn.Unflatten(1, (2 * widths[0], *start)),
        )
        self.norm = batch_norm(2 * widths[0], description.told)
        self.layers = nn.ModuleList([_Doubling(*pair, description.told) for pair in pairwise(widths)])
        self.excitations = nn.ModuleList(
            [
                _excitation(*pair, start, 2**number)
                for number, pair in enumerate(zip(widths, widths[EXCITED:], strict=False))
            ]
        )
        self.image = nn.Sequential(nn.Conv2d(widths[-1], 3, 3, padding=1), nn.Tanh())

    def draw(self, noise: Tensor, clusters: Tensor | None = None) -> Tensor:
        """Turn [B, latent], and int64 [B] if it has clusters, into images, [B, 3, height, width] in (-1, 1)."""
        known = () if clusters is None or not self.description.told else (clusters,)
        maps = [glu(self.norm(self.start(noise), *known), dim=1)]
        for number, layer in enumerate(self.layers, 1):
            doubled = layer(maps[-1], *known)
            if number >= EXCITED:
                doubled = doubled * self.excitations[number - EXCITED](maps[number - EXCITED])
            maps.append(doubled)
        image: Tensor = self.image(maps[-1])
        return image


def _start(height: int, width: int) -> tuple[tuple[int, int], int]:
    """Return the size of the first maps, and how often they are doubled, at least four times.

    >>> _start(64, 32), _start(256, 128), _start(96, 48)
    (((4, 2), 4), ((4, 2), 6), ((6, 3), 4))
    """
    doublings = 4
    while (
        max(height, width) >> doublings > LARGEST_START
        and height % 2 ** (doublings + 1) == width % 2 ** (doublings + 1) == 0
    ):
        doublings += 1
    return (height >> doublings, width >> doublings), doublings


class _Doubling(nn.Module):
    def __init__(self, inputs: int, outputs: int, clusters: int) -> None:
        super().__init__()
        self.convolution = NearestConvolution(inputs, 2 * outputs, bias=False)
        self.norm = batch_norm(2 * outputs, clusters)

    def forward(self, maps: Tensor, *clusters: Tensor) -> Tensor:
        return glu(self.norm(self.convolution(maps), *clusters), dim=1)


def _excitation(inputs: int, outputs: int, start: tuple[int, int], shrink: int) -> nn.Module:
    """Return a network that turns small maps [B, C, h, w] into factors in (0, 1) for large ones, [B, C', 1, 1].

    Its average over blocks has a gradient that is deterministic on a GPU; that of an adaptive average is not.
    """
    return nn.Sequential(
        nn.AvgPool2d(shrink),
        nn.Conv2d(inputs, outputs, start),
        nn.SiLU(),
        nn.Conv2d(outputs, outputs, 1),
        nn.Sigmoid(),
    )
