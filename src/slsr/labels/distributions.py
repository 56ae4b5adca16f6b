"""Label distributions: the target of an image in training.

A distribution over the C training identities is stored sparse, as labels and their weights. That of a real image is
one-hot, perhaps smoothed; that of a generated image is chosen by the regularizer. The regularizers differ in nothing
else: `loss.soft_cross_entropy` is the only loss. Two distributions, `likeliest` and `multi_pseudo_label`, follow the
network's own predictions and are computed for a batch, dense.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Sparse = tuple[NDArray[np.int32], NDArray[np.float32]]


def one_hot(label: int) -> Sparse:
    """Put all weight on one label: the target of a real image (Eq. 7, Dirac delta).

    >>> one_hot(3)
    (array([3], dtype=int32), array([1.], dtype=float32))
    """
    return np.array([label], np.int32), np.ones(1, np.float32)


def lsr(label: int, classes: int, epsilon: float) -> Sparse:
    """Smooth a label (LSR): z_k = (1 - epsilon) [k = truth] + epsilon/C (Szegedy et al., CVPR 2016).

    >>> lsr(1, 4, 0.5)[1]
    array([0.125, 0.625, 0.125, 0.125], dtype=float32)
    """
    if epsilon == 0:
        return one_hot(label)
    weight = np.full(classes, epsilon / classes)
    weight[label] += 1 - epsilon
    return np.arange(classes, dtype=np.int32), weight.astype(np.float32)


def lsro(classes: int) -> Sparse:
    """Spread the weight evenly over all identities, z_k = 1/C: LSR for outliers (Zheng et al., ICCV 2017)."""
    return slsr(range(classes))


def slsr(identities: Sequence[int]) -> Sparse:
    """Spread the weight evenly over the k_c identities of a cluster: z_k = 1/k_c there, 0 elsewhere (Eq. 9 and 10).

    Parameters
    ----------
    identities : training labels (0..C-1) of the cluster, each once, at least one

    >>> slsr([0, 2])
    (array([0, 2], dtype=int32), array([0.5, 0.5], dtype=float32))
    """
    index = np.unique(np.asarray(identities, np.int32))
    if len(index) == 0 or len(index) != len(identities):
        raise ValueError(f"a sparse label needs distinct identities, at least one; got {list(identities)}")
    return index, np.full(len(index), 1 / len(index), np.float32)


def slsr_weighted(identities: Sequence[int], images: Sequence[int]) -> Sparse:
    """Spread the weight by frequency: z_k = n_k / sum_l n_l over the identities of a cluster, 0 elsewhere.

    If every identity has the same number of images in the cluster, this is `slsr`.

    Parameters
    ----------
    identities : training labels (0..C-1) of the cluster, each once, at least one
    images : how many images of the cluster show each of them, n_k >= 1

    >>> slsr_weighted([2, 0], [1, 3])
    (array([0, 2], dtype=int32), array([0.75, 0.25], dtype=float32))
    """
    if len(images) != len(identities) or min(images, default=0) < 1:
        raise ValueError(f"weights need a count of at least 1 for each identity; got {list(images)}")
    index, _ = slsr(identities)
    counts = np.asarray(images, np.float64)[np.argsort(np.asarray(identities))]
    return index, (counts / counts.sum()).astype(np.float32)


def slsr_nearest(identities: Sequence[int]) -> Sparse:
    """Give 1/k to the identity of each of an image's k nearest training images: z_l = m_l / k, m_l of them show l.

    An identity with several of them has the sum; all other identities have 0. A variant of SLSR of this project: the
    neighbors of the image itself take the place of its cluster.

    Parameters
    ----------
    identities : the training label (0..C-1) of each of the k images, in any order, at least one

    >>> slsr_nearest([2, 0, 2, 2])
    (array([0, 2], dtype=int32), array([0.25, 0.75], dtype=float32))
    """
    if len(identities) == 0:
        raise ValueError("a label from the nearest images needs at least one of them")
    index, counts = np.unique(np.asarray(identities, np.int32), return_counts=True)
    return index, (counts / len(identities)).astype(np.float32)


def likeliest(logits: Tensor) -> Tensor:
    """Put all weight on the likeliest identity: z_k = [k = argmax_l p_l] (pseudo-label, Lee 2013).

    Parameters
    ----------
    logits : [B, C], any float type

    Returns
    -------
    float32 [B, C]; among equal logits the first label
    """
    found = logits.argmax(dim=1, keepdim=True)
    return logits.float().new_zeros(logits.shape).scatter(1, found, 1.0)


def multi_pseudo_label(logits: Tensor) -> Tensor:
    """Weight identities by their rank in the prediction: z_k = 2 r_k / (C (C + 1)), r_k = |{l : p_l <= p_k}|.

    The likeliest identity has the rank C and the weight 2 / (C + 1), about twice its weight in `lsro`; the least likely
    one has the rank 1. This is the multi-pseudo regularized label (MpRL) of Huang et al., IEEE TIP 28(3), 2019, whose
    r_k / C is in (0, 1]; the factor 2 / (C + 1), with which the weights sum to 1, is from its authors' code.

    Parameters
    ----------
    logits : [B, C], any float type

    Returns
    -------
    float32 [B, C], rows sum to 1; equal logits are ranked by label
    """
    classes = logits.shape[1]
    rank = logits.argsort(dim=1, stable=True).argsort(dim=1) + 1
    return rank.float() * (2 / (classes * (classes + 1)))
