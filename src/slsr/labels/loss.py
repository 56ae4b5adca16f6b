"""One loss for every image: cross-entropy with a soft target."""

from __future__ import annotations

from torch import Tensor


def soft_cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the batch mean of `-sum_k z_k log p_k`, each times the weight of its image (Eq. 6, 11 and 12 in one).

    The gradient with respect to an image's logits is `weight * (softmax(logits) - target) / B`.

    Parameters
    ----------
    logits : [B, C], any float type; the logarithm is taken in float32
    targets : float32 [B, C], rows sum to 1
    weights : float32 [B], or None for weights of 1

    Returns
    -------
    float32 scalar
    """
    losses = -(targets * logits.float().log_softmax(dim=1)).sum(dim=1)
    return (losses if weights is None else losses * weights).mean()
