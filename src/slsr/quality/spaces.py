"""The feature spaces in which generated images are measured: what is measured there, and which alarms they raise."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

# The second network judges images whose discriminator saw the features of the first.
IMAGENET_NETWORKS = {"imagenet": "tf_efficientnet_lite0", "imagenet_lite1": "tf_efficientnet_lite1"}

_WITHOUT_PRECISION = ("kernel", "coverage", "recall", "duplicates", "copies")
_ALL = (*_WITHOUT_PRECISION, "precision", "density")
# Precision and density saturate in an embedding of identities, where even noise scores high.
MEASURES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"imagenet": _ALL, "imagenet_lite1": _ALL, "handcrafted": _ALL, "encoder": _WITHOUT_PRECISION}
)

_OF_IMAGENET = ("coverage", "duplicates", "copies", "precision", "recall", "kernel_deviations", "density")
# The limits that hold in a space: each in the spaces that hear its fault (benchmarks/degradations.py). Copies with
# grain are found by colors and edges, mirrored copies in the ImageNet space.
HEARD: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"imagenet": _OF_IMAGENET, "imagenet_lite1": _OF_IMAGENET, "handcrafted": ("copies",), "encoder": ()}
)


def limits_in(space: str, limits: Mapping[str, float]) -> dict[str, float]:
    """Return the limits whose alarms a space raises.

    >>> limits_in("handcrafted", {"coverage": 0.2, "copies": 0.05})
    {'copies': 0.05}
    """
    return {name: limit for name, limit in limits.items() if name in HEARD[space]}
