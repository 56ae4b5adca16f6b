"""Codes: the noise from which a generator is to draw a given image again."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from slsr.gan.images import evenly_spaced
from slsr.gan.networks import to_images

CODED_HEIGHT = 64  # higher images are shrunk to less than twice this height before they are coded
IMAGES = 2048  # the components are those of at most this many images
AT_ONCE = 512  # images that are coded at once while they are measured
ROUNDS = 4  # of the randomized algorithm that finds the components
SMALLEST_DEVIATION = 1e-4


class Codes(nn.Module):
    """Codes images by their principal components, as points of the uniform noise on [-1, 1].

    A component is divided by its deviation, and mapped by the distribution function of the normal distribution: if it
    is normal, its code is uniform. So codes of images and noise have nearly the same distribution.

    Parameters
    ----------
    height, width : of the images
    latent : the length of the noise
    """

    def __init__(self, height: int, width: int, latent: int) -> None:
        super().__init__()
        self.center: Tensor
        self.basis: Tensor
        self.deviations: Tensor
        self.shrink = max(1, height // CODED_HEIGHT)
        numbers = 3 * (height // self.shrink) * (width // self.shrink)
        components = min(latent, numbers)
        self.register_buffer("center", torch.zeros(numbers))
        self.register_buffer("basis", torch.zeros(numbers, components))
        self.register_buffer("deviations", torch.zeros(components))

    def measure(self, pixels: Tensor, seed: int) -> Tensor:
        """Find the components of images (Halko, Martinsson and Tropp, SIAM Review 2011).

        Parameters
        ----------
        pixels : uint8 [N, H, W, 3]; with fewer images than components, those that are missing have a deviation of 0
        seed : of the randomized algorithm

        Returns
        -------
        The standardized components of all images, float32 [N, m].
        """
        some = self._shrunk(to_images(pixels[evenly_spaced(len(pixels), IMAGES)]))
        self.center.copy_(some.mean(dim=0))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            count = min(self.basis.shape[1], len(some))
            basis = torch.pca_lowrank(some - self.center, count, center=False, niter=ROUNDS)[2]
        self.basis[:, : basis.shape[1]] = basis
        components = torch.cat([self._components(to_images(part)) for part in pixels.split(AT_ONCE)])
        self.deviations.copy_(components.std(dim=0, correction=0))
        return self._standardized(components)

    def forward(self, images: Tensor, noise: Tensor) -> Tensor:
        """Return the codes of images [B, 3, H, W]: [B, latent].

        Where images do not vary there is no code, and it is that of the noise, [B, latent].
        """
        codes = torch.erf(self._standardized(self._components(images)) / 2**0.5)
        count = len(self.deviations)
        known = self.deviations > SMALLEST_DEVIATION
        return torch.cat([torch.where(known, codes, noise[:, :count]), noise[:, count:]], dim=1)

    def _components(self, images: Tensor) -> Tensor:
        return (self._shrunk(images) - self.center) @ self.basis

    def _standardized(self, components: Tensor) -> Tensor:
        return components / self.deviations.clamp_min(SMALLEST_DEVIATION)

    def _shrunk(self, images: Tensor) -> Tensor:
        return avg_pool2d(images, self.shrink).flatten(1)
