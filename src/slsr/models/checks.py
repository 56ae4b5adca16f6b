"""Checks of the networks that params.yaml names, before any work."""

from __future__ import annotations

from slsr.errors import InputError
from slsr.params.file import Params
from slsr.params.recipe import ANY_SIZE, Image, Recipe


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
            _check_network(recipe, params.image, block)


def _check_network(recipe: Recipe, image: Image, block: str) -> None:
    import torch

    from slsr.models.backbones import TORCHVISION, check_imagenet_weights, normalization_of
    from slsr.models.encoder import FeatureExtractor

    try:
        if recipe.weights == "imagenet" and recipe.backbone not in TORCHVISION:
            check_imagenet_weights(recipe.backbone)
        with torch.device("meta"):
            FeatureExtractor(recipe.backbone, image, last_stride=recipe.last_stride, pooling=recipe.pooling)
    except InputError as error:
        raise InputError(f"{block}.{error}") from error
    if image.normalization == "backbone":
        normalization_of(recipe.backbone)
