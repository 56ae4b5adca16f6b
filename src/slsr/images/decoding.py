"""Encoded images to one uint8 array of a fixed size, decoded once and kept."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from slsr.errors import InputError

Pixels = NDArray[np.uint8]

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
MAXIMUM_PIXELS = 50_000_000
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "PPM", "GIF")


def open_image(encoded: bytes, name: str) -> Image.Image:
    """Decode one image completely, in the mode it was stored in.

    Raises
    ------
    InputError
        The bytes are no image, are cut off, or decode to more than `MAXIMUM_PIXELS` pixels; the message names `name`.
    """
    if not encoded:
        raise InputError(f"{name}: an empty file (0 bytes); replace or remove it")
    try:
        image = Image.open(io.BytesIO(encoded), formats=FORMATS)
        if image.width * image.height > MAXIMUM_PIXELS:
            raise InputError(
                f"{name}: {image.width}x{image.height} pixels, more than {MAXIMUM_PIXELS:,}; "
                "crop it to the person or make it smaller"
            )
        image.load()
    except UnidentifiedImageError as error:
        raise InputError(f"{name}: not an image ({', '.join(FORMATS)} can be read); replace or remove it") from error
    except (Image.DecompressionBombError, OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        raise InputError(f"{name}: does not decode as an image ({error}); replace or remove it") from error
    return image


def open_rgb(encoded: bytes, name: str) -> Image.Image:
    """Decode one image completely and convert it to RGB; errors as `open_image`."""
    return to_rgb(open_image(encoded, name))


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to 8-bit RGB; 16-bit grey is scaled, transparency is dropped."""
    if image.mode.startswith("I;16") or image.mode == "I":
        grey = np.asarray(image, dtype=np.float64) / 257.0
        return Image.fromarray(np.clip(np.rint(grey), 0, 255).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def decode_resized(
    encoded: Sequence[bytes],
    height: int,
    width: int,
    interpolation: str = "bicubic",
    names: Sequence[str] | None = None,
) -> Pixels:
    """Decode and resize images, in order, on all cores.

    Returns
    -------
    uint8 [N, height, width, 3], RGB.

    Raises
    ------
    InputError
        An image does not decode; the message has its name (its row number where `names` is not given).
    """
    pixels = np.empty((len(encoded), height, width, 3), dtype=np.uint8)

    def decode(row: int) -> None:
        image = open_rgb(encoded[row], names[row] if names is not None else f"image in row {row}")
        if image.size != (width, height):
            image = image.resize((width, height), FILTERS[interpolation])
        pixels[row] = np.asarray(image)

    with ThreadPoolExecutor() as pool:
        done = pool.map(decode, range(len(encoded)))
        for _ in tqdm(done, "decode", len(encoded), unit="image", leave=False, disable=None):
            pass
    return pixels


def encode_jpeg(pixels: Pixels, quality: int) -> bytes:
    """One image, uint8 [H, W, 3], as JPEG without chroma subsampling."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()
