"""Losses on the features of real images: the triplet loss and the center loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, relu, softplus


def batch_hard_triplet(features: Tensor, labels: Tensor, margin: float | None) -> Tensor:
    """Return the batch-hard triplet loss, the mean over the anchors of `max(0, margin + d_p - d_n)`.

    Each image is an anchor. d_p is the distance to the farthest image with its label, d_n to the nearest one with
    another label (Hermans, Beyer and Leibe, "In Defense of the Triplet Loss for Person Re-Identification", 2017,
    Eq. 5). As in the strong baseline (Luo et al. 2019), the farthest one is the anchor itself, at distance 0, if no
    other image has its label.

    The loss of an anchor is 0 if all images have its label. The gradient of a distance of 0 is 0.

    Parameters
    ----------
    features : [B, D], any float type; distances are Euclidean, not squared, in float32, or float64 if these are
    labels : int64 [B]
    margin : None is the soft margin, `log(1 + exp(d_p - d_n))`

    Returns
    -------
    float32 scalar, or float64

    >>> batch_hard_triplet(torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([7, 7, 5]), margin=2.5)
    tensor(0.8333)
    """
    features = _at_least_float32(features)
    same = labels[:, None] == labels
    farthest, nearest = _hardest(features.detach(), same)
    excess = _distances(features, farthest) - _distances(features, nearest)
    losses = softplus(excess) if margin is None else relu(margin + excess)
    return losses.masked_fill(same.all(dim=1), 0.0).mean()


def _hardest(features: Tensor, same: Tensor) -> tuple[Tensor, Tensor]:
    """Return for each image, int64 [B], the farthest one that is the same and the nearest one that is not.

    Distances from a matrix product are many times faster than differences, but lose digits where images are near each
    other. In float64, around the mean of the batch, they keep more than float32 has.
    """
    centered = features.double() - features.double().mean(dim=0)
    distances = torch.cdist(centered, centered)
    farthest = distances.masked_fill(~same, -1.0).argmax(dim=1)
    return farthest, distances.masked_fill(same, torch.inf).argmin(dim=1)


def _distances(features: Tensor, others: Tensor) -> Tensor:
    """Return the distance of each image to one other, [B].

    `embedding` selects rows as an index does, but its gradient adds them up in the same order every time.
    """
    distances: Tensor = torch.linalg.vector_norm(features - embedding(others, features), dim=1)
    return distances


def _at_least_float32(features: Tensor) -> Tensor:
    return features if features.dtype == torch.float64 else features.float()


class CenterLoss(nn.Module):
    """Pulls features to the center of their identity: the mean over the images of `||f_i - c_{y_i}||^2`.

    Wen et al., "A Discriminative Feature Learning Approach for Deep Face Recognition", ECCV 2016, Eq. 2, in the form of
    the strong baseline (Luo et al. 2019): without the factor 1/2, and the centers learn by gradient descent, with a
    rate of their own, from where torch's global generator draws them, N(0, 1).

    The trained network does not contain the centers.

    Parameters
    ----------
    classes : number of identities, C
    dimensions : of the features, D
    """

    def __init__(self, classes: int, dimensions: int) -> None:
        super().__init__()
        self.centers = nn.Parameter(torch.randn(classes, dimensions))

    def forward(self, features: Tensor, labels: Tensor, real: Tensor) -> Tensor:
        """Return the loss, a float32 scalar (float64 if the features are), over the real images; 0 if no image is real.

        Parameters
        ----------
        features : [B, D], any float type
        labels : int64 [B], 0..C-1; any number where the image is not real
        real : bool [B], whether the image counts
        """
        centers = embedding(labels.masked_fill(~real, 0), self.centers)
        offsets = (_at_least_float32(features) - centers).masked_fill(~real[:, None], 0.0)
        return offsets.square().sum() / real.sum().clamp_min(1)

    @torch.no_grad()
    def descend(self, rate: float, weight: float) -> None:
        """Step down the gradient, c <- c - rate G / weight, and clear the gradient.

        G is the gradient of a total that contains this loss times the weight, so the step does not depend on the
        weight.

        Parameters
        ----------
        rate : the learning rate of the centers; 0.5 in the publications
        weight : the factor of this loss in the total, above 0
        """
        if self.centers.grad is None:
            return
        self.centers.sub_(self.centers.grad, alpha=rate / weight)
        self.centers.grad = None
