"""The regularizers: how each labels real and generated images. To add a regularizer, add it to `REGULARIZERS`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from slsr.errors import InputError
from slsr.labels.distributions import Sparse, likeliest, lsro, multi_pseudo_label, slsr_weighted

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


@dataclass(frozen=True)
class ClusterLabel:
    """What is known about the generated images of one cluster.

    Attributes
    ----------
    classes : C, the number of training identities
    stored : the label that `generate` stored with the images
    identities, images : the identities of the cluster, and how many of its training images show each; None where they
        are unknown or the regularizer does not read them (`counts_images`)
    """

    classes: int
    stored: Sparse
    identities: NDArray[np.int32] | None = None
    images: NDArray[np.int64] | None = None


def uniform(cluster: ClusterLabel) -> Sparse:
    """Give equal weight to all training identities."""
    return lsro(cluster.classes)


def stored(cluster: ClusterLabel) -> Sparse:
    """Return the sparse label that was stored with the images."""
    return cluster.stored


def by_images(cluster: ClusterLabel) -> Sparse:
    """Weight the identities of the cluster by their number of images in it.

    Raises
    ------
    InputError
        The images were labeled with other identities than the cluster has now.
    """
    if cluster.identities is None or cluster.images is None or {*cluster.identities} != {*cluster.stored[0]}:
        raise InputError("is labeled with other identities than the cluster has")
    return slsr_weighted(cluster.identities.tolist(), cluster.images.tolist())


@dataclass(frozen=True)
class Regularizer:
    """A regularizer, as training uses it and as tables and reports name it.

    Attributes
    ----------
    name : in commands, in params.yaml and below artifacts/
    title : in tables and reports
    label : the label of a generated image, in words
    committed : whether its stages are in dvc.yaml; those of the others are in studies/dvc.yaml
    sees_generated : whether generated images take part in training
    target : the label of the generated images of a cluster, fixed during training
    pseudo_label : replaces it during training, [B, C] from the logits [B, C] of a batch
    smooths_real : whether it smooths the labels of real images, by `lsr.epsilon`
    counts_images : whether `target` needs to know how many images each identity has in a cluster
    image_label : if each generated image has its own label in place of `target`: the columns of its labels and their
        weights in the table of generated images
    """

    name: str
    title: str
    label: str
    committed: bool = False
    sees_generated: bool = True
    target: Callable[[ClusterLabel], Sparse] = uniform
    pseudo_label: Callable[[Tensor], Tensor] | None = None
    smooths_real: bool = False
    counts_images: bool = False
    image_label: tuple[str, str] | None = None


REGULARIZERS = {
    regularizer.name: regularizer
    for regularizer in (
        Regularizer("none", "baseline (none)", "no generated images", committed=True, sees_generated=False),
        Regularizer("lsr", "LSR", "no generated images", sees_generated=False, smooths_real=True),
        Regularizer("lsro", "LSRO", "equal weight on all training identities", committed=True),
        Regularizer("slsr", "SLSR", "equal weight on the identities of its cluster", committed=True, target=stored),
        Regularizer(
            "slsr-weighted",
            "SLSR, weighted",
            "weight on the identities of its cluster, by their number of images in it",
            target=by_images,
            counts_images=True,
        ),
        Regularizer(
            "slsr-nearest",
            "SLSR, nearest",
            "weight on the identities of its nearest training images, by their number among these",
            image_label=("nearest_index", "nearest_weight"),
        ),
        Regularizer("one-hot", "one-hot", "the identity that the network finds most probable", pseudo_label=likeliest),
        Regularizer("mprl", "MPRL", "weight by rank in the network's prediction", pseudo_label=multi_pseudo_label),
    )
}


def regularizer_named(name: str) -> Regularizer:
    """Return the regularizer of this name.

    Raises
    ------
    InputError
        There is no such regularizer.
    """
    if name not in REGULARIZERS:
        raise InputError(f"regularizer {name!r}: choose one of {', '.join(REGULARIZERS)}")
    return REGULARIZERS[name]


def committed_names() -> list[str]:
    """Return the regularizers whose stages are in dvc.yaml, the baseline first."""
    return [name for name, regularizer in REGULARIZERS.items() if regularizer.committed]


def studied_names() -> list[str]:
    """Return the regularizers whose stages are in studies/dvc.yaml."""
    return [name for name, regularizer in REGULARIZERS.items() if not regularizer.committed]
