"""Checks of the networks that params.yaml names, before any work."""

from __future__ import annotations

from slsr.params.file import Params
from slsr.params.recipe import ANY_SIZE


def check_networks(params: Params) -> None:
    """Check that both backbones exist, have the weights that are asked for, and take images of these sizes.

    timm is loaded only for a backbone that needs it.

    Raises
    ------
    InputError
        One does not; the message names the key and suggests another value.
    """
    for block, recipe in (("encoder", params.encoder), ("train", params.train)):
        if recipe.backbone not in ANY_SIZE:
            from slsr.models.backbones import check_backbone

            check_backbone(recipe.backbone, recipe.weights, params.image, block)
