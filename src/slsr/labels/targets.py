"""The targets of a training set, one row per distinct distribution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slsr.errors import InputError
from slsr.labels.distributions import Sparse, lsr


@dataclass(frozen=True)
class Targets:
    """The target of every image of a training set, as rows of a table of distributions.

    Attributes
    ----------
    table : float32 [R, C], each row sums to 1; R is the number of distinct distributions: C, and one for each cluster
        or, if generated images have their own labels, at most one for each of them
    row : int64 [N], the row of `table` that is the target of each image
    """

    table: Tensor
    row: Tensor

    def batch(self, images: Tensor) -> Tensor:
        """Return the dense targets, float32 [B, C], of the images with these indices, int64 [B]."""
        return self.table[self.row[images]]

    def to(self, device: torch.device) -> Targets:
        """Return the same targets on a device."""
        return Targets(self.table.to(device), self.row.to(device))


def make_targets(distributions: Sequence[Sparse], classes: int, row: Tensor | None = None) -> Targets:
    """Make `Targets` from sparse distributions.

    Parameters
    ----------
    row : int64 [N], which of the distributions is the target of each image; None: image i has the i-th

    Raises
    ------
    InputError
        A distribution has a label outside 0..C-1, a label twice, a negative weight or another number of weights than
        labels, or does not sum to 1 (within 1e-4).
    """
    table = torch.zeros(len(distributions), classes)
    for dense, (index, weight) in zip(table, distributions, strict=True):
        _check(index, weight, classes)
        dense[torch.from_numpy(index.astype(np.int64))] = torch.from_numpy(weight.astype(np.float32))
    return Targets(table, torch.arange(len(distributions)) if row is None else row)


def real_targets(labels: Tensor, epsilon: float = 0.0) -> Targets:
    """Make the targets of labeled images: one row for each label, smoothed as `distributions.lsr` does.

    Parameters
    ----------
    labels : int64 [N], 0..C-1 with C - 1 among them
    epsilon : the weight that is spread over all labels
    """
    classes = int(labels.max()) + 1
    return make_targets([lsr(label, classes, epsilon) for label in range(classes)], classes, labels)


def with_generated(real: Targets, chosen: NDArray[np.int32], labels: Mapping[int, Sparse]) -> Targets:
    """Append to the targets of labeled images those of generated ones: one row for each label.

    Parameters
    ----------
    chosen : int32 [M], which of `labels` each generated image has: the number of its cluster, if these have the labels
    labels : the labels by number; errors as `make_targets`
    """
    numbers = sorted(labels)
    place = torch.from_numpy(np.searchsorted(numbers, chosen))
    drawn = make_targets([labels[number] for number in numbers], real.table.shape[1], place)
    return Targets(torch.cat([real.table, drawn.table]), torch.cat([real.row, len(real.table) + drawn.row]))


def _check(index: NDArray[np.int32], weight: NDArray[np.float32], classes: int) -> None:
    if len(index) == 0 or index.min() < 0 or index.max() >= classes:
        raise InputError(
            f"a label distribution has the labels {index.tolist()}, not all in 0..{classes - 1}; the generated images "
            "come from another training set: run `dvc repro` to generate them again"
        )
    if len(np.unique(index)) != len(index) or len(weight) != len(index):
        raise InputError(
            f"a label distribution has the weights {weight.tolist()} for the labels {index.tolist()}; it needs one "
            "weight for each label, and each label once"
        )
    total = float(weight.sum(dtype=np.float64))
    if not (weight.min() >= 0 and abs(total - 1) <= 1e-4):
        raise InputError(f"a label distribution has the weights {weight.tolist()}, sum {total}; they must sum to 1")
