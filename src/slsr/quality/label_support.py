"""How much of an encoder's prediction for an image is on the support of its label: the identities with a weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slsr.labels.distributions import Sparse


@dataclass(frozen=True)
class LabeledPredictions:
    """Predictions for N images, their clusters, and one or more kinds of labels.

    Attributes
    ----------
    probabilities : float [N, C], rows sum to 1
    clusters : int [N]
    labels : for each kind the label of each image, over the same C identities
    """

    probabilities: NDArray[np.floating[Any]]
    clusters: NDArray[np.integer[Any]]
    labels: Mapping[str, Sequence[Sparse]]

    def of_cluster(self, cluster: int) -> LabeledPredictions:
        """Keep the images of one cluster alone."""
        rows = np.flatnonzero(self.clusters == cluster).tolist()
        labels = {kind: [of_images[row] for row in rows] for kind, of_images in self.labels.items()}
        return LabeledPredictions(self.probabilities[rows], self.clusters[rows], labels)


def on_support(probabilities: NDArray[np.floating[Any]], labels: Sequence[Sparse]) -> NDArray[np.float64]:
    """Sum each image's probabilities over the identities to which its label gives weight: s_i = sum_(l: z_il > 0) p_il.

    Parameters
    ----------
    probabilities : float [N, C]
    labels : of the N images

    Returns
    -------
    float64 [N], in 0..1

    >>> on_support(np.array([[0.5, 0.25, 0.25]]), [(np.array([0, 2], np.int32), np.array([0.5, 0.5], np.float32))])
    array([0.75])
    """
    pairs = zip(probabilities, labels, strict=True)
    return np.array([row[index[weight > 0]].sum(dtype=np.float64) for row, (index, weight) in pairs], np.float64)


def chance_on_support(labels: Sequence[Sparse], classes: int) -> NDArray[np.float64]:
    """Return what `on_support` gives if all C identities are equally probable, float64 [N]."""
    return np.array([np.count_nonzero(weight) / classes for _, weight in labels], np.float64)


def measure_label_support(
    generated: LabeledPredictions, real: LabeledPredictions, cluster: int | None = None
) -> dict[str, dict[str, float | None]]:
    """Average `on_support` over generated images of one cluster, or over all of them if `cluster` is None.

    Returns
    -------
    For each kind of label the mean `value`, the mean `chance` (`chance_on_support`) and the `reference`, the mean of
    real images of the same clusters. They have 6 decimals, and are None if there is no such image.
    """
    shown, beside = (each if cluster is None else each.of_cluster(cluster) for each in (generated, real))
    return {
        kind: {
            "value": _mean(on_support(shown.probabilities, labels)),
            "chance": _mean(chance_on_support(labels, shown.probabilities.shape[1])),
            "reference": _mean(on_support(beside.probabilities, beside.labels[kind])),
        }
        for kind, labels in shown.labels.items()
    }


def _mean(values: NDArray[np.float64]) -> float | None:
    return round(float(values.mean()), 6) if len(values) else None
