"""Features of images, in batches, from encoded bytes or resident pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from slsr.images.augmentation import to_input
from slsr.images.decoding import Pixels, decode_resized
from slsr.models.encoder import FEATURE_WIDTH, Encoder
from slsr.params.base import Precision
from slsr.params.recipe import Image
from slsr.runtime.devices import autocast, to_device
from slsr.runtime.processes import gather_rows, share_of

DECODED_AT_ONCE = 1024


def extract_features(
    encoder: Encoder,
    encoded: Sequence[bytes],
    image: Image,
    device: torch.device,
    *,
    names: Sequence[str] | None = None,
    flip: bool = False,
    batch_size: int = 128,
    precision: Precision = "fp32",
    title: str = "features",
) -> NDArray[np.float32]:
    """Pooled features of encoded images, each fed as `image.test` says, without augmentation.

    Parameters
    ----------
    flip : add the features of the mirrored image, as the re-ID protocol does; both halves go through as one batch

    Returns
    -------
    float32 [N, D], not normalized, row i from `encoded[i]`; every process of a launch computes its share of the rows
    and gets them all.
    """
    encoder = encoder.to(device).to(memory_format=torch.channels_last).eval()
    count, share = len(encoded), share_of(len(encoded))
    if count == 0:
        return np.empty((0, 0), np.float32)
    encoded, names = encoded[share], names[share] if names is not None else None
    blocks = [torch.empty(0, FEATURE_WIDTH[encoder.description.backbone])]  # of a process whose share is empty
    with tqdm(total=len(encoded), desc=title, unit="image", leave=False, disable=None) as bar:
        for pixels in _decoded_blocks(encoded, image, names):
            batches = to_device(torch.from_numpy(pixels), device).split(batch_size)
            of_batches = [_batch_features(encoder, batch, image, flip, precision) for batch in batches]
            blocks.append(torch.cat(of_batches).cpu())
            bar.update(len(pixels))
    features: NDArray[np.float32] = gather_rows(torch.cat(blocks).to(device), count).cpu().numpy()
    return features


def _decoded_blocks(encoded: Sequence[bytes], image: Image, names: Sequence[str] | None) -> Iterator[Pixels]:
    """Decode one block while the network works on the one before."""

    def decode(start: int) -> Pixels:
        rows = slice(start, start + DECODED_AT_ONCE)
        return decode_resized(
            encoded[rows],
            image.resize_height,
            image.resize_width,
            image.interpolation,
            names[rows] if names is not None else None,
        )

    starts = range(0, len(encoded), DECODED_AT_ONCE)
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(decode, 0) if starts else None
        for following in [*starts[1:], None]:
            if ahead is None:
                return
            pixels = ahead.result()
            ahead = pool.submit(decode, following) if following is not None else None
            yield pixels


@torch.inference_mode()
def _batch_features(encoder: Encoder, batch: Tensor, image: Image, flip: bool, precision: Precision) -> Tensor:
    inputs = to_input(batch, image)
    if flip:
        inputs = torch.cat([inputs, inputs.flip(3)]).contiguous(memory_format=torch.channels_last)
    with autocast(batch.device, precision):
        features = encoder.features(inputs).float()
    return features[: len(batch)] + features[len(batch) :] if flip else features
