"""A noise layer: how the labels of generated images differ from the identities that they show."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SMALLEST = 1e-300  # smaller probabilities are raised to this, so that their logarithm is finite


class NoiseLayer(nn.Module):
    """Turns class probabilities p into those of noisy labels: q_j = sum_i p_i Q_ij, Q row-stochastic.

    Q_ij is the probability that an image of identity i is labeled j (Sukhbaatar et al., "Training Convolutional
    Networks with Noisy Labels", ICLR 2015 workshop; the "linear layer on top of the softmax" of the paper). Q begins
    as the identity matrix. As in that work, each row is projected back onto the probability simplex after every update,
    because an unconstrained layer would give negative probabilities.

    The layer is between the network and the labels of generated images during training. The trained network does not
    contain it.

    Parameters
    ----------
    classes : number of identities, C
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.transition = nn.Parameter(torch.eye(classes, dtype=torch.float64))

    def forward(self, logits: Tensor) -> Tensor:
        """Return the logarithms of the noisy labels' probabilities, float32 [B, C], from logits [B, C].

        They are logits again: their softmax is q.
        """
        noisy = logits.double().softmax(dim=1) @ self.transition
        return noisy.clamp_min(SMALLEST).log().float()

    @torch.no_grad()
    def descend(self, rate: float) -> None:
        """Step down the gradient, Q <- projection of Q - rate G, and clear the gradient.

        A row of the gradient that is longer than 1 is scaled to length 1, because it contains p_i / q_j, which has no
        bound: otherwise one image could turn an identity into another.
        """
        gradient = self.transition.grad
        if gradient is None:
            return
        gradient = gradient / gradient.abs().amax(dim=1, keepdim=True).clamp_min(1)
        gradient = gradient / gradient.norm(dim=1, keepdim=True).clamp_min(1)
        self.transition.copy_(project_rows(self.transition - rate * gradient))
        self.transition.grad = None


def project_rows(matrix: Tensor) -> Tensor:
    """Return the nearest matrix whose rows are nonnegative and sum to 1, float [R, C] to [R, C].

    Each row v becomes max(v - t, 0), with the t that makes the sum 1 (Held, Wolfe and Crowder 1974).
    """
    descending = matrix.sort(dim=1, descending=True).values
    count = torch.arange(1, matrix.shape[1] + 1, device=matrix.device)
    threshold = (descending.cumsum(dim=1) - 1) / count
    kept = (descending > threshold).sum(dim=1, keepdim=True)
    return (matrix - threshold.gather(1, kept - 1)).clamp_min(0)
