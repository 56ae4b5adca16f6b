"""A trained encoder for use in other programs: features of images of any kind.

A feature is what `evaluate` compares: the pooled last maps of the image plus those of its mirrored image, scaled to
length 1, so that the product of two features is their cosine similarity.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PillowImage
from torch import Tensor

from slsr.embedding.checkpoint_file import checkpoint_file, fingerprint
from slsr.embedding.engine import NamedImage, Unreadable, batch_features, prepare_network, stream_features
from slsr.embedding.pictures import ImageLike
from slsr.errors import InputError
from slsr.images.decoding import Pixels
from slsr.models.encoder import Encoder
from slsr.models.encoder import load_encoder as load_network
from slsr.params.recipe import Image


@dataclass(frozen=True, eq=False)
class LoadedEncoder:
    """A trained encoder that is ready to compute features.

    Attributes
    ----------
    network
        The torch module, in evaluation mode; `network.features` maps normalized images [B, 3, H, W] to [B, D].
    fingerprint
        sha256 of the checkpoint file, in hexadecimal digits. Only features with equal fingerprints can be compared.
    flip
        Whether the features of the mirrored image are added, as `evaluate.flip` says for the evaluation.
    """

    network: Encoder
    fingerprint: str
    flip: bool = True

    def __repr__(self) -> str:
        height, width = self.size
        mirrored = "with" if self.flip else "without"
        return (
            f"<LoadedEncoder {self.network.description.backbone}: {self.dimension} dimensions, images of "
            f"{height}x{width} pixels {mirrored} mirrored ones, on {self.device}, fingerprint {self.fingerprint[:12]}>"
        )

    @property
    def dimension(self) -> int:
        """D, the number of values in a feature."""
        return self.network.dimension

    @property
    def image(self) -> Image:
        """How an image is resized, cropped and normalized before it goes into the network."""
        return self.network.image

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the network's input, in pixels."""
        image = self.image
        if image.test == "center-crop":
            return image.height, image.width
        return image.resize_height, image.resize_width

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return self.network.device

    def embed(self, images: Iterable[ImageLike], *, batch_size: int = 64) -> NDArray[np.float32]:
        """Compute the features of images of any size.

        Parameters
        ----------
        images
            Paths of image files, encoded bytes, Pillow images, or RGB pixels uint8 [H, W, 3], also mixed. A generator
            is read batch by batch. All but RGB pixels are turned upright, as their EXIF orientation says.
        batch_size
            Number of images that go through the network together. It changes features only by rounding.

        Returns
        -------
        float32 [N, D], rows of length 1, in the order of `images`; [0, D] if there are no images.

        Raises
        ------
        InputError
            An image cannot be read; the message has its path, or its number, counted from 0.

        Examples
        --------
        >>> encoder = load_encoder("artifacts/train/slsr/model.safetensors")  # doctest: +SKIP
        >>> features = encoder.embed(["first.jpg", "second.jpg"])  # doctest: +SKIP
        >>> features[0] @ features[1]  # cosine similarity  # doctest: +SKIP
        """
        blocks = [np.empty((0, self.dimension), np.float32)]
        blocks += [features for _, features in self.stream(_named(images), batch_size=batch_size)]
        return np.concatenate(blocks)

    def stream(
        self,
        images: Iterable[NamedImage],
        *,
        batch_size: int = 64,
        unreadable: Unreadable | None = None,
    ) -> Iterator[tuple[list[int], NDArray[np.float32]]]:
        """Compute the features of named images batch by batch; memory does not grow with their number.

        Parameters
        ----------
        images
            Pairs of a name, for messages, and an image.
        unreadable
            Is called with the error of an image that cannot be read, which is then left out; None raises the error.

        Yields
        ------
        The numbers of the images, counted from 0, and their features, float32 [B, D], rows of length 1.
        """
        if batch_size < 1:
            raise InputError(f"batch size {batch_size}: give 1 or more images per batch")
        for rows, features in stream_features(
            self.network, images, flip=self.flip, batch_size=batch_size, unreadable=unreadable
        ):
            yield rows, _of_length_1(features)

    def embed_pixels(self, pixels: Pixels) -> NDArray[np.float32]:
        """Compute the features of one batch of resized images: uint8 [B, resize_height, resize_width, 3] to [B, D]."""
        return _of_length_1(batch_features(self.network, pixels, self.flip))


def load_encoder(path: str | Path, device: str = "auto", *, flip: bool = True) -> LoadedEncoder:
    """Load a trained encoder.

    Parameters
    ----------
    path
        A `.safetensors` checkpoint that this project trained, or a folder that holds `model.safetensors`.
    device
        `auto` (the GPU if there is one), `cpu`, `cuda`, `cuda:1`, ...
    flip
        Add the features of the mirrored image, as the evaluation does. False halves the work and gives other features.

    Raises
    ------
    InputError
        There is no encoder of this project at `path`, or no such device.
    """
    file = checkpoint_file(Path(path))
    chosen = _device(device)
    network = load_network(file)
    prepare_network(network, chosen)
    return LoadedEncoder(network, fingerprint(file), flip)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"device {name!r} is not available here ({reason}); give auto, cpu or cuda") from error
    return device


def _named(images: Iterable[ImageLike]) -> Iterator[tuple[str, ImageLike]]:
    if isinstance(images, str | Path | bytes | PillowImage.Image):
        raise InputError("embed takes a list of images; give embed([image])")
    for number, image in enumerate(images):
        yield str(image) if isinstance(image, str | Path) else f"image {number}", image


def _of_length_1(features: Tensor) -> NDArray[np.float32]:
    scaled: NDArray[np.float32] = torch.nn.functional.normalize(features).cpu().numpy()
    return scaled
