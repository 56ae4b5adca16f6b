"""The feature space of a network with ImageNet weights, in which images are compared as the eye compares them."""

from __future__ import annotations

import numpy as np
import torch

from slsr.images.decoding import Pixels
from slsr.models.imagenet import DEFAULT_NETWORK, WIDTH, imagenet_network
from slsr.quality.features import Features, resized

BATCH_SIZE = 32


@torch.no_grad()
def imagenet(pixels: Pixels, device: torch.device, network: str = DEFAULT_NETWORK) -> Features:
    """Describe images by the pooled features of an ImageNet network, of their 128x64 version.

    Batches always have 32 images, the last one filled up with gray, so that the features of an image have the same
    bytes beside any number of other images.

    Parameters
    ----------
    pixels : uint8 [N, H, W, 3], RGB
    network : `tf_efficientnet_lite0` or `tf_efficientnet_lite1`

    Returns
    -------
    float32 [N, 1280]

    Raises
    ------
    InputError
        The package of the weights is not installed or damaged.
    """
    judge = imagenet_network(network, device)
    found = np.empty((len(pixels), WIDTH), np.float32)
    for start in range(0, len(pixels), BATCH_SIZE):
        part = torch.from_numpy(resized(pixels[start : start + BATCH_SIZE])).to(device)
        batch = torch.zeros(BATCH_SIZE, 3, *part.shape[1:3], device=device)
        batch[: len(part)] = part.permute(0, 3, 1, 2) / 127.5 - 1
        found[start : start + len(part)] = judge.pooled(batch)[: len(part)].cpu().numpy()
    return found
