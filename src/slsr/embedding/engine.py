"""The one way in which images become features, for the stages, the commands and the library.

Images are decoded and resized while the batch before them goes through the network. If mirrored images count, a batch
and its mirrored images go through the network together, and the features of both are added.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from slsr.embedding.pictures import ImageLike, resized
from slsr.errors import InputError
from slsr.images.augmentation import to_input
from slsr.images.decoding import Pixels
from slsr.models.encoder import FeatureExtractor
from slsr.params.base import Precision
from slsr.params.recipe import Image
from slsr.runtime.devices import autocast, to_device
from slsr.runtime.processes import gather_rows, share_of

NamedImage = tuple[str, ImageLike]
Unreadable = Callable[[InputError], None]


def prepare_network(network: FeatureExtractor, device: torch.device) -> None:
    """Put a network on a device, in the mode and the memory layout in which features are computed."""
    network.to(device).to(memory_format=torch.channels_last).eval()


def extract_features(
    network: FeatureExtractor,
    encoded: Sequence[bytes],
    names: Sequence[str],
    device: torch.device,
    *,
    flip: bool,
    batch_size: int,
    precision: Precision = "fp32",
    title: str = "features",
) -> NDArray[np.float32]:
    """Compute the features of encoded images, spread over the processes of a launch.

    Parameters
    ----------
    flip : add the features of the mirrored image, as the re-ID protocol does

    Returns
    -------
    float32 [N, D], not normalized, row i from `encoded[i]`. Every process computes its share of the rows and gets all.

    Raises
    ------
    InputError
        An image cannot be read; the message has its name.
    """
    prepare_network(network, device)
    share = share_of(len(encoded))
    images = list(zip(names[share], encoded[share], strict=True))
    blocks = [torch.empty(0, network.dimension)]  # for a process whose share is empty
    with tqdm(total=len(images), desc=title, unit="image", leave=False, disable=None) as bar:
        for rows, features in stream_features(network, images, flip=flip, batch_size=batch_size, precision=precision):
            blocks.append(features.cpu())
            bar.update(len(rows))
    features = gather_rows(torch.cat(blocks).to(device), len(encoded))
    return features.cpu().numpy()


def stream_features(
    network: FeatureExtractor,
    images: Iterable[NamedImage],
    *,
    flip: bool,
    batch_size: int,
    precision: Precision = "fp32",
    unreadable: Unreadable | None = None,
) -> Iterator[tuple[list[int], Tensor]]:
    """Compute the features of images batch by batch; memory does not grow with their number.

    Parameters
    ----------
    network
        Made ready by `prepare_network`.
    unreadable
        Is called with the error of an image that cannot be read, which is then left out; None raises the error.

    Yields
    ------
    The numbers of the images, counted from 0, and their features: float32 [B, D] on the network's device.
    """
    for rows, pixels in _decoded_batches(images, batch_size, network.image, unreadable):
        yield rows, batch_features(network, pixels, flip, precision)


@torch.inference_mode()
def batch_features(network: FeatureExtractor, pixels: Pixels, flip: bool, precision: Precision = "fp32") -> Tensor:
    """Compute the features of one batch of resized images: uint8 [B, H, W, 3] to float32 [B, D] on the device."""
    inputs = to_input(to_device(torch.from_numpy(pixels), network.device), network.image)
    with _convolutions(network.device, precision), autocast(network.device, precision):
        return features_of_inputs(network, inputs, flip)


def features_of_inputs(network: FeatureExtractor, inputs: Tensor, flip: bool) -> Tensor:
    """Compute the features of normalized images, those of the mirrored images added: [B, 3, h, w] to [B, D]."""
    features = network.features(with_mirrored(inputs) if flip else inputs).float()
    if not flip:
        return features
    both: Tensor = features.unflatten(0, (2, -1))
    return both[0] + both[1]


def with_mirrored(inputs: Tensor) -> Tensor:
    """Append the mirrored images to a batch: [B, 3, h, w] to [2B, 3, h, w]."""
    return torch.cat([inputs, inputs.flip(3)]).contiguous(memory_format=torch.channels_last)


def _convolutions(device: torch.device, precision: Precision) -> AbstractContextManager[None]:
    """Choose on a GPU whether convolutions use TensorFloat-32, and restore the caller's choice afterwards."""
    if device.type != "cuda":
        return nullcontext()
    cudnn = torch.backends.cudnn
    flags: AbstractContextManager[None] = cudnn.flags(
        enabled=cudnn.enabled,
        benchmark=cudnn.benchmark,
        deterministic=cudnn.deterministic,
        allow_tf32=precision == "tf32",
    )
    return flags


def _decoded_batches(
    images: Iterable[NamedImage], batch_size: int, image: Image, unreadable: Unreadable | None
) -> Iterator[tuple[list[int], Pixels]]:
    """Yield the numbers and the pixels of each batch; the next batch is decoded in the meantime."""
    source = iter(images)
    with ThreadPoolExecutor() as pool:

        def start() -> list[Future[Pixels]]:
            return [pool.submit(resized, item, name, image) for name, item in itertools.islice(source, batch_size)]

        ahead, first = start(), 0
        while ahead:
            batch, ahead = ahead, start()
            if decoded := _decoded(batch, first, unreadable):
                yield list(decoded), np.stack(list(decoded.values()))
            first += len(batch)


def _decoded(batch: Sequence[Future[Pixels]], first: int, unreadable: Unreadable | None) -> dict[int, Pixels]:
    """Wait for the images of a batch; return the readable ones by their numbers, which begin at `first`."""
    decoded = {}
    for number, future in enumerate(batch, start=first):
        try:
            decoded[number] = future.result()
        except InputError as error:
            if unreadable is None:
                raise
            unreadable(error)
    return decoded
