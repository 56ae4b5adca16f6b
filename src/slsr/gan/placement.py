"""Where the images of a cluster lie among the codes of all images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LARGEST = 1 - 1e-6  # noise beyond this is moved here, since the ends of the interval stand for infinity


class Placement(nn.Module):
    """Moves noise to where the codes of a cluster's images lie, so that a generator need not be told the cluster.

    Noise on [-1, 1] is a normal number by the inverse of the normal distribution function. The normal numbers of an
    image get the mean and the covariance that the cluster's images have, and become codes again.

    Parameters
    ----------
    clusters : how many
    latent : the length of the noise
    """

    def __init__(self, clusters: int, latent: int) -> None:
        super().__init__()
        self.means: Tensor
        self.roots: Tensor
        self.register_buffer("means", torch.zeros(clusters, latent))
        self.register_buffer("roots", torch.eye(latent).repeat(clusters, 1, 1))

    def measure(self, components: Tensor, clusters: Tensor) -> None:
        """Take mean and covariance of each cluster from standardized components, [N, m], and clusters, int64 [N].

        What noise has beyond the m components is not moved.
        """
        count = components.shape[1]
        for cluster in range(len(self.means)):
            own = components[clusters == cluster].double()
            if len(own) == 0:
                continue
            mean = own.mean(dim=0)
            values, vectors = torch.linalg.eigh((own - mean).T @ (own - mean) / len(own))
            root = vectors * values.clamp_min(0).sqrt() @ vectors.T
            self.means[cluster, :count] = mean.float()
            self.roots[cluster, :count, :count] = root.float()

    def forward(self, noise: Tensor, clusters: Tensor) -> Tensor:
        """Turn noise, [B, latent] on [-1, 1], into codes as the images of the clusters have them; int64 [B]."""
        normal = torch.erfinv(noise.clamp(-LARGEST, LARGEST)) * 2**0.5
        moved = self.means[clusters] + torch.einsum("bi,bij->bj", normal, self.roots[clusters])
        return torch.erf(moved / 2**0.5)
