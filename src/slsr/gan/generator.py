"""What every generator is: a network with a description from which it can be rebuilt."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from slsr.gan.placement import Placement
from slsr.params.gan import GeneratorKind, Upsampling

WITHOUT_CLUSTERS = "a generator of several clusters needs the cluster of each image"


@dataclass(frozen=True)
class GeneratorDescription:
    """All that is needed to rebuild a generator: the size of its images and noise, its width, clusters and upsampling.

    `clusters` is 0 if the generator is not conditional. A conditional one that is `placed` gets the noise of a cluster
    from where the codes of its images lie, and has no other way to know the cluster. `upsampling` is the DCGAN's.
    """

    height: int
    width: int
    latent: int
    channels: int
    clusters: int = 0
    upsampling: Upsampling = "transposed"
    kind: GeneratorKind = "dcgan"
    placed: bool = False

    @property
    def told(self) -> int:
        """The number of clusters that the batch norms know."""
        return 0 if self.placed else self.clusters


class Generator(nn.Module, ABC):
    """Turns noise into images; `description` is all that is needed to build it again."""

    def __init__(self, description: GeneratorDescription) -> None:
        super().__init__()
        self.description = description
        self.placement = Placement(description.clusters, description.latent) if description.placed else None

    def forward(self, noise: Tensor, clusters: Tensor | None = None) -> Tensor:
        """Turn [B, latent], and int64 [B] if it has clusters, into images, [B, 3, height, width] in (-1, 1).

        Raises
        ------
        ValueError
            It has clusters, but none are given.
        """
        return self.draw(self.place(noise, clusters), clusters)

    def place(self, noise: Tensor, clusters: Tensor | None) -> Tensor:
        """Move noise [B, latent] to where the codes of the clusters' images lie, if the generator is placed."""
        if self.placement is None:
            return noise
        if clusters is None:
            raise ValueError(WITHOUT_CLUSTERS)
        placed: Tensor = self.placement(noise, clusters)
        return placed

    @abstractmethod
    def draw(self, noise: Tensor, clusters: Tensor | None = None) -> Tensor:
        """Turn noise that is placed, or codes, into images; parameters as `forward`."""


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
            raise ValueError(WITHOUT_CLUSTERS)
        normalized: Tensor = super().forward(maps)
        scale, shift = (table(clusters)[:, :, None, None] for table in (self.scale, self.shift))
        shifted: Tensor = scale * normalized + shift
        return shifted


def batch_norm(channels: int, clusters: int) -> nn.Module:
    """Return a batch norm, with a scale and a shift for each cluster if there are clusters."""
    return ConditionalBatchNorm(channels, clusters) if clusters else nn.BatchNorm2d(channels)
