"""Label distributions: what a network is told about an image.

A distribution over the C training identities is stored sparse, as the labels it is spread over and their weights.
A real image's is one-hot, perhaps smoothed; a generated image's is what the regulariser says. The regularisers
differ in nothing else: `losses.soft_cross_entropy` is the one loss. Two of them, `likeliest` and
`multi_pseudo_label`, follow the network's own predictions and are computed for a batch, dense.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slsr.errors import InputError

Sparse = tuple[NDArray[np.int32], NDArray[np.float32]]


def one_hot(label: int) -> Sparse:
    """All weight on one label: the target of a real image (Eq. 7, Dirac delta).

    >>> one_hot(3)
    (array([3], dtype=int32), array([1.], dtype=float32))
    """
    return np.array([label], np.int32), np.ones(1, np.float32)


def lsr(label: int, classes: int, epsilon: float) -> Sparse:
    """Label smoothing regularization: z_k = (1 - epsilon) [k = truth] + epsilon/C (Szegedy et al., CVPR 2016).

    >>> lsr(1, 4, 0.5)[1]
    array([0.125, 0.625, 0.125, 0.125], dtype=float32)
    """
    if epsilon == 0:
        return one_hot(label)
    weight = np.full(classes, epsilon / classes)
    weight[label] += 1 - epsilon
    return np.arange(classes, dtype=np.int32), weight.astype(np.float32)


def lsro(classes: int) -> Sparse:
    """Uniform over all identities, z_k = 1/C: label smoothing for outliers (Zheng et al., ICCV 2017)."""
    return slsr(range(classes))


def slsr(identities: Sequence[int]) -> Sparse:
    """Sparse label smoothing: z_k = 1/k_c over the k_c identities of the image's cluster, 0 elsewhere (Eq. 9 and 10).

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
    """Sparse label smoothing by frequency: z_k = n_k / sum_l n_l over the identities of a cluster, 0 elsewhere.

    Where every identity has as many images in the cluster, this is `slsr`.

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


def likeliest(logits: Tensor) -> Tensor:
    """All weight on the identity that the network finds likeliest: z_k = [k = argmax_l p_l] (pseudo-label, Lee 2013).

    Parameters
    ----------
    logits : [B, C], any float type

    Returns
    -------
    float32 [B, C]; of equals the first
    """
    classes = torch.arange(logits.shape[1], device=logits.device)
    return (classes == logits.argmax(dim=1, keepdim=True)).float()


def multi_pseudo_label(logits: Tensor) -> Tensor:
    """Weights by the rank of the network's own predictions: z_k = 2 r_k / (C (C + 1)), r_k = |{l : p_l <= p_k}|.

    The likeliest identity has the rank C and the weight 2 / (C + 1), about twice that of `lsro`; the least likely one
    the rank 1. It is the multi-pseudo regularized label (MpRL) of Huang et al., IEEE TIP 28(3), 2019, whose r_k / C
    lies in (0, 1]; the factor 2 / (C + 1), with which the weights sum to 1, is the one in its authors' code.

    Parameters
    ----------
    logits : [B, C], any float type

    Returns
    -------
    float32 [B, C], rows sum to 1; equals are ranked by label
    """
    classes = logits.shape[1]
    rank = logits.argsort(dim=1, stable=True).argsort(dim=1) + 1
    return rank.float() * (2 / (classes * (classes + 1)))


@dataclass(frozen=True)
class Targets:
    """The target of every image of a training set, as rows of a table of the distinct distributions.

    Attributes
    ----------
    table : float32 [R, C], each row sums to 1; R is the number of distinct distributions, far below that of images
    row : int64 [N], the row of `table` that is the target of each image
    """

    table: Tensor
    row: Tensor

    def batch(self, images: Tensor) -> Tensor:
        """Dense targets, float32 [B, C], of the images with these indices, int64 [B]."""
        return self.table[self.row[images]]

    def to(self, device: torch.device) -> Targets:
        """The same targets on a device."""
        return Targets(self.table.to(device), self.row.to(device))


def make_targets(distributions: Sequence[Sparse], classes: int) -> Targets:
    """Gather the sparse distributions of images into `Targets`, equal ones once.

    Raises
    ------
    InputError
        A distribution names a label outside 0..C-1 or one twice, has a negative weight or not one for each label, or
        does not sum to 1 (within 1e-4).
    """
    rows: dict[tuple[bytes, bytes], int] = {}
    row = [rows.setdefault((index.tobytes(), weight.tobytes()), len(rows)) for index, weight in distributions]
    table = torch.zeros(len(rows), classes)
    for (index_bytes, weight_bytes), number in rows.items():
        index, weight = np.frombuffer(index_bytes, np.int32), np.frombuffer(weight_bytes, np.float32)
        _check(index, weight, classes)
        table[number, torch.from_numpy(index.astype(np.int64))] = torch.from_numpy(weight.copy())
    return Targets(table, torch.tensor(row, dtype=torch.int64))


def _check(index: NDArray[np.int32], weight: NDArray[np.float32], classes: int) -> None:
    if len(index) == 0 or index.min() < 0 or index.max() >= classes:
        raise InputError(
            f"a label distribution names labels {index.tolist()} of 0..{classes - 1}; the generated images come from "
            "another training set: run `dvc repro` to make them anew"
        )
    if len(np.unique(index)) != len(index) or len(weight) != len(index):
        raise InputError(
            f"a label distribution has the weights {weight.tolist()} for the labels {index.tolist()}; it needs one "
            "weight for each of its labels, each label once"
        )
    total = float(weight.sum(dtype=np.float64))
    if not (weight.min() >= 0 and abs(total - 1) <= 1e-4):
        raise InputError(f"a label distribution has the weights {weight.tolist()}, sum {total}; they must sum to 1")
