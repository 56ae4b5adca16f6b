"""A frozen network with ImageNet weights, whose features compare images without any training and without a download."""

from __future__ import annotations

from functools import cache
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from slsr.models.efficientnet_lite import packaged_state

DEFAULT_NETWORK = "tf_efficientnet_lite0"
WIDTH = 1280  # of the pooled feature
STAGES_OF_MAPS = (1, 2, 4, 6)  # the last stages whose maps are 4, 8, 16 and 32 times smaller than the image
CONVOLUTIONS = {  # by timm's names of a block: each convolution, and the batch norm after it
    "EfficientNet": (("conv_stem", "bn1"), ("conv_head", "bn2")),
    "DepthwiseSeparableConv": (("conv_dw", "bn1"), ("conv_pw", "bn2")),
    "InvertedResidual": (("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3")),
}


class ImagenetNetwork(nn.Module):
    """EfficientNet-Lite0 or -Lite1 (Tan and Le, ICML 2019; Liu, 2020) with its packaged ImageNet weights, frozen.

    It is always in evaluation mode. Its batch norms are part of the convolutions before them, which changes outputs by
    rounding only. Gradients reach the images, not the weights.

    Parameters
    ----------
    name : `tf_efficientnet_lite0` or `tf_efficientnet_lite1`, timm's names

    Raises
    ------
    InputError
        The package of the weights is not installed or damaged.
    """

    def __init__(self, name: str = DEFAULT_NETWORK) -> None:
        super().__init__()
        import timm

        network: Any = timm.create_model(name)
        network.load_state_dict(packaged_state(name))
        _fold_batch_norms(network.eval())
        self.stem = nn.Sequential(network.conv_stem, network.bn1)
        self.stages = network.blocks
        self.head = nn.Sequential(network.conv_head, network.bn2)
        self.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever is asked for."""
        return super().train(False)

    def maps(self, images: Tensor) -> list[Tensor]:
        """Compute the maps at strides 4, 8, 16 and 32: the ends of the stages.

        Parameters
        ----------
        images : float [B, 3, H, W] in [-1, 1]

        Returns
        -------
        4 maps, [B, c, h, w]; c is 24, 40, 112 and 320.
        """
        found = []
        maps = self.stem(images.contiguous(memory_format=torch.channels_last))
        for number, stage in enumerate(self.stages):
            maps = stage(maps)
            if number in STAGES_OF_MAPS:
                found.append(maps)
        return found

    def pooled(self, images: Tensor) -> Tensor:
        """Compute the feature before the classifier, the mean over all positions: [B, 1280], from images as `maps`."""
        pooled: Tensor = self.head(self.maps(images)[-1]).mean(dim=(2, 3))
        return pooled


@cache
def imagenet_network(name: str, device: torch.device) -> ImagenetNetwork:
    """Return a frozen network on a device; it is read once, and nothing changes it."""
    return ImagenetNetwork(name).to(device)


def _fold_batch_norms(network: nn.Module) -> None:
    """Multiply the batch norms of a network in evaluation mode into its convolutions; activations stay, in place."""
    for module in list(network.modules()):
        for convolution, norm in CONVOLUTIONS.get(type(module).__name__, ()):
            old: Any = module.get_submodule(norm)
            setattr(module, convolution, fuse_conv_bn_eval(module.get_submodule(convolution), old))  # type: ignore[type-var]
            setattr(module, norm, old.act)
