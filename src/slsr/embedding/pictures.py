"""Images in any form, as pixels of the size that a network takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from slsr.errors import InputError
from slsr.images.decoding import FILTERS, MAXIMUM_PIXELS, Pixels, open_image, upright_rgb
from slsr.params.recipe import Image

MAXIMUM_BYTES = 2**29  # of one image file, so that a video given by mistake is not read into memory

ImageLike = str | Path | bytes | PillowImage.Image | NDArray[np.uint8]


def resized(item: ImageLike, name: str, image: Image) -> Pixels:
    """Read and resize one image: uint8 [resize_height, resize_width, 3], RGB.

    Raises
    ------
    InputError
        It cannot be read, or has another type; the message has `name`.
    """
    picture = open_picture(item, name)
    if picture.size != (image.resize_width, image.resize_height):
        picture = picture.resize((image.resize_width, image.resize_height), FILTERS[image.interpolation])
    return np.array(picture)


def open_picture(item: ImageLike, name: str) -> PillowImage.Image:
    """Read an image in any accepted form as RGB, upright as its EXIF orientation says; errors as `resized`."""
    if isinstance(item, str | Path):
        return upright_rgb(open_image(_read(Path(item)), name), name)
    if isinstance(item, bytes):
        return upright_rgb(open_image(item, name), name)
    if isinstance(item, PillowImage.Image):
        if not 0 < item.width * item.height <= MAXIMUM_PIXELS:
            raise InputError(f"{name}: {item.width}x{item.height} pixels; give 1 to {MAXIMUM_PIXELS:,} pixels")
        _load(item, name)
        return upright_rgb(item, name)
    if isinstance(item, np.ndarray):
        if item.dtype != np.uint8 or item.ndim != 3 or item.shape[2] != 3 or item.size == 0:
            raise InputError(f"{name}: an array {item.dtype} {list(item.shape)}; give RGB pixels, uint8 [H, W, 3]")
        return PillowImage.fromarray(np.ascontiguousarray(item))
    raise InputError(f"{name}: a {type(item).__name__}; give a path, encoded bytes, a Pillow image or a uint8 array")


def _load(picture: PillowImage.Image, name: str) -> None:
    """Read the pixels that Pillow has not read yet, and turn its many kinds of errors into one."""
    try:
        picture.load()
    except MemoryError:
        raise
    except Exception as error:
        raise InputError(f"{name}: does not decode as an image ({error}); replace or remove it") from error


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise InputError(
                f"{path}: {'not a file' if path.exists() else 'no such file'}; give the path of an image file"
            )
        if path.stat().st_size > MAXIMUM_BYTES:
            raise InputError(f"{path}: more than {MAXIMUM_BYTES // 2**20} MiB, too large for an image; remove it")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); replace or remove it") from error
