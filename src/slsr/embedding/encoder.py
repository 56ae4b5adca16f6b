"""Features of images by a trained encoder: the face of the library for other programs.

A feature is what `evaluate` compares: the pooled last maps of the image plus those of its mirror image, scaled to
length 1, so that the product of two features is their cosine similarity.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PillowImage

from slsr.embedding.pictures import ImageLike, resized
from slsr.errors import InputError
from slsr.images.augmentation import to_input
from slsr.images.decoding import Pixels
from slsr.models.encoder import FEATURE_WIDTH, Encoder
from slsr.models.encoder import load_encoder as load_network
from slsr.params.recipe import Image
from slsr.runtime.devices import to_device

MODEL_FILE = "model.safetensors"


Unreadable = Callable[[InputError], None]


@dataclass(frozen=True, eq=False)
class LoadedEncoder:
    """A trained encoder, ready to embed.

    Attributes
    ----------
    network
        In evaluation mode, on its device; `network.features` maps normalized images [B, 3, H, W] to [B, D].
    fingerprint
        sha256 of the checkpoint file, hexadecimal. Features of two encoders can be compared only where it is equal.
    flip
        Whether the features of the mirrored image are added, as `evaluate.flip` does.
    """

    network: Encoder
    fingerprint: str
    flip: bool = True

    @property
    def dimension(self) -> int:
        """D, the length of a feature."""
        return FEATURE_WIDTH[self.network.description.backbone]

    @property
    def image(self) -> Image:
        """How an image is resized, cut and normalized before it goes in."""
        return self.network.description.image

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels of what goes into the network."""
        image = self.image
        if image.test == "center-crop":
            return image.height, image.width
        return image.resize_height, image.resize_width

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return next(self.network.parameters()).device

    def embed(self, images: Iterable[ImageLike], *, batch_size: int = 64) -> NDArray[np.float32]:
        """Features of images of any size.

        Parameters
        ----------
        images
            Paths of image files, encoded bytes, Pillow images, or RGB pixels uint8 [H, W, 3], also mixed; a generator
            is read a batch at a time. All but pixels are turned upright as their EXIF orientation says.
        batch_size
            Images that go through the network at once; it changes features by no more than rounding.

        Returns
        -------
        float32 [N, D], rows of length 1, in the order of `images`; [0, D] for no images.

        Raises
        ------
        InputError
            An image cannot be read; the message names its path, or its number from 0.

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
        images: Iterable[tuple[str, ImageLike]],
        *,
        batch_size: int = 64,
        unreadable: Unreadable | None = None,
    ) -> Iterator[tuple[list[int], NDArray[np.float32]]]:
        """Features of named images, a batch at a time, in memory that does not grow with their number.

        Parameters
        ----------
        images
            Each with the name that messages call it by.
        unreadable
            Called with the error of an image that cannot be read, which is then left out; None raises it.

        Yields
        ------
        Which of the images, counted from 0, and their features, float32 [B, D], rows of length 1.
        """
        if batch_size < 1:
            raise InputError(f"batch size {batch_size}: at least 1 image goes through the network at once")
        for rows, pixels in _decoded_batches(images, batch_size, self.image, unreadable):
            if rows:
                yield rows, self.embed_pixels(pixels)

    @torch.inference_mode()
    def embed_pixels(self, pixels: Pixels) -> NDArray[np.float32]:
        """Features of one batch that is resized already: uint8 [B, resize_height, resize_width, 3] to [B, D]."""
        batch = to_input(to_device(torch.from_numpy(pixels), self.device), self.image)
        if self.flip:
            batch = torch.cat([batch, batch.flip(3)]).contiguous(memory_format=torch.channels_last)
        with _full_precision(self.device):
            features = self.network.features(batch)
        if self.flip:
            features = features[: len(pixels)] + features[len(pixels) :]
        embedded: NDArray[np.float32] = torch.nn.functional.normalize(features).cpu().numpy()
        return embedded


def load_encoder(path: str | Path, device: str = "auto", *, flip: bool = True) -> LoadedEncoder:
    """Load a trained encoder for use.

    Parameters
    ----------
    path
        A `.safetensors` checkpoint that this project trained, or a folder that holds `model.safetensors`.
    device
        `auto` (the GPU where there is one), `cpu`, `cuda`, `cuda:1`, ...
    flip
        Add the features of the mirrored image, as the evaluation does; False halves the work and changes features.

    Raises
    ------
    InputError
        No encoder of this project lies there, or there is no such device.
    """
    file = checkpoint_file(Path(path))
    chosen = _device(device)
    network = load_network(file).to(chosen).to(memory_format=torch.channels_last)
    return LoadedEncoder(network, fingerprint(file), flip)


def checkpoint_file(path: Path) -> Path:
    """The checkpoint that a path means: itself, or `model.safetensors` in a folder.

    Raises
    ------
    InputError
        There is none.
    """
    if path.is_dir():
        if not (path / MODEL_FILE).is_file():
            raise InputError(f"{path}: a folder without {MODEL_FILE}; give a checkpoint, or the folder of one")
        return path / MODEL_FILE
    if not path.is_file():
        raise InputError(f"{path}: no such model; train one with `dvc repro`, or fetch one with `dvc artifacts get`")
    if path.suffix != ".safetensors":
        raise InputError(f"{path}: not a .safetensors file, which is what this project writes; nothing else is loaded")
    return path


def fingerprint(path: Path) -> str:
    """sha256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"device {name!r}: not to be had here ({reason}); give auto, cpu or cuda") from error
    return device


def _full_precision(device: torch.device) -> Any:
    """Convolutions in float32, not TensorFloat-32, on a GPU, without touching what the caller has set."""
    if device.type != "cuda":
        return nullcontext()
    cudnn = torch.backends.cudnn
    return cudnn.flags(
        enabled=cudnn.enabled, benchmark=cudnn.benchmark, deterministic=cudnn.deterministic, allow_tf32=False
    )


def _named(images: Iterable[ImageLike]) -> Iterator[tuple[str, ImageLike]]:
    if isinstance(images, str | Path | bytes | PillowImage.Image):
        raise InputError("embed takes several images: put this one into a list, embed([image])")
    for number, image in enumerate(images):
        yield str(image) if isinstance(image, str | Path) else f"image {number}", image


def _decoded_batches(
    images: Iterable[tuple[str, ImageLike]], batch_size: int, image: Image, unreadable: Unreadable | None
) -> Iterator[tuple[list[int], Pixels]]:
    """Which images, and their pixels; a batch is decoded while its predecessor goes through the network."""
    source = iter(images)
    with ThreadPoolExecutor() as pool:

        def start() -> list[Future[Pixels]]:
            named = itertools.islice(source, batch_size)
            return [pool.submit(resized, item, name, image) for name, item in named]

        ahead, first = start(), 0
        while ahead:
            batch, ahead = ahead, start()
            yield _collect(batch, first, unreadable)
            first += len(batch)


def _collect(batch: Sequence[Future[Pixels]], first: int, unreadable: Unreadable | None) -> tuple[list[int], Any]:
    rows, pixels = [], []
    for row, future in enumerate(batch, start=first):
        try:
            pixels.append(future.result())
            rows.append(row)
        except InputError as error:
            if unreadable is None:
                raise
            unreadable(error)
    return rows, np.stack(pixels) if pixels else None
