"""Checks of the networks that params.yaml names, before any work."""

from __future__ import annotations

from functools import cache

from slsr.errors import InputError
from slsr.params.file import Params
from slsr.params.recipe import ANY_SIZE, Image, Pooling


def check_networks(params: Params) -> None:
    """Check that both backbones exist, have the weights that are asked for, and take images of these sizes.

    torch and timm are loaded only if a recipe needs such a check.

    Raises
    ------
    InputError
        One does not; the message names the key and suggests another value.
    """
    for block, recipe in (("encoder", params.encoder), ("train", params.train)):
        if recipe.backbone not in ANY_SIZE or recipe.pooling == "class-token":
            try:
                _check_network(recipe.backbone, recipe.weights, recipe.last_stride, recipe.pooling, params.image)
            except InputError as error:
                raise InputError(f"{block}.{error}") from error


@cache
def _check_network(backbone: str, weights: str, last_stride: int, pooling: Pooling, image: Image) -> None:
    """Check a network; a study asks again for every experiment."""
    import torch

    from slsr.models.backbones import TORCHVISION, check_imagenet_weights, normalization_of
    from slsr.models.encoder import FeatureExtractor

    if weights == "imagenet" and backbone not in TORCHVISION:
        check_imagenet_weights(backbone)
    with torch.device("meta"):
        FeatureExtractor(backbone, image, last_stride=last_stride, pooling=pooling)
    if image.normalization == "backbone":
        normalization_of(backbone)
